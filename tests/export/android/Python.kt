// Stand-ins for what Label.kt uses of Android and of ONNX Runtime, with their names and types. They ask Python, which
// decodes the video and runs the models. A message is a count, and as many parts, each after its length.
package python

import java.io.*
import java.nio.ByteBuffer
import java.nio.ByteOrder

private val input = DataInputStream(BufferedInputStream(System.`in`))
private val output = DataOutputStream(BufferedOutputStream(System.out))

fun receive() = List(input.readInt()) { ByteArray(input.readInt()).also(input::readFully) }

fun send(vararg parts: Any) {
    output.writeInt(parts.size)
    for (part in parts) {
        val bytes = part as? ByteArray ?: part.toString().toByteArray()
        output.writeInt(bytes.size)
        output.write(bytes)
    }
    output.flush()
}

fun ask(vararg parts: Any): List<ByteArray> {
    send(*parts)
    return receive()
}

fun buffer(bytes: ByteArray): ByteBuffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
