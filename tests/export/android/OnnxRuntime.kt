package ai.onnxruntime

import java.nio.*
import python.*

enum class OnnxJavaType { UINT8 }

interface OnnxValue : AutoCloseable

class OnnxTensor(val type: String, val shape: LongArray, val content: ByteArray) : OnnxValue {
    val byteBuffer: ByteBuffer get() = buffer(content)
    val floatBuffer: FloatBuffer get() = buffer(content).asFloatBuffer()

    override fun close() {}

    companion object {
        fun createTensor(env: OrtEnvironment, data: ByteBuffer, shape: LongArray, type: OnnxJavaType): OnnxTensor {
            check(type == OnnxJavaType.UINT8 && data.isDirect)
            return OnnxTensor("uint8", shape, ByteArray(data.remaining()).also(data.duplicate()::get))
        }

        fun createTensor(env: OrtEnvironment, data: FloatBuffer, shape: LongArray): OnnxTensor {
            check(data.isDirect && data.order() == ByteOrder.nativeOrder())
            val bytes = buffer(ByteArray(4 * data.remaining()))
            bytes.asFloatBuffer().put(data.duplicate())
            return OnnxTensor("float32", shape, bytes.array())
        }

        fun createTensor(env: OrtEnvironment, data: Any): OnnxTensor {
            val numbers = data as LongArray
            val bytes = buffer(ByteArray(8 * numbers.size))
            bytes.asLongBuffer().put(numbers)
            return OnnxTensor("int64", longArrayOf(numbers.size.toLong()), bytes.array())
        }
    }
}

class OrtEnvironment private constructor() {
    fun createSession(modelPath: String) = OrtSession(modelPath)

    companion object {
        fun getEnvironment() = OrtEnvironment()
    }
}

class OrtSession(private val path: String) : AutoCloseable {
    class Result(private val tensor: OnnxTensor) : AutoCloseable {
        fun get(index: Int): OnnxValue = tensor.also { check(index == 0) }

        override fun close() {}
    }

    fun run(inputs: Map<String, OnnxTensor>) = run(inputs, setOf())

    fun run(inputs: Map<String, OnnxTensor>, requestedOutputs: Set<String>): Result {
        val sent = inputs.flatMap { (name, it) -> listOf(name, it.type, it.shape.joinToString(" "), it.content) }
        return Result(OnnxTensor("", longArrayOf(), ask("run", path, requestedOutputs.joinToString(), *sent.toTypedArray())[0]))
    }

    override fun close() {}
}
