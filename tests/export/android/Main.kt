import java.io.File
import python.*

/** Does what Python asks for, until it has nothing more. The answer begins with "done". */
fun main() {
    while (true) {
        val asked = receive()
        if (asked.isEmpty()) return
        val texts = asked.map { String(it) }
        when (texts[0]) {
            "squared" -> {
                val (width, height, size) = texts.subList(1, 4).map { it.toInt() }
                val pixels = IntArray(width * height).also { buffer(asked[4]).asIntBuffer().get(it) }
                send("done", squared(pixels, width, height, size))
            }
            "resampled" -> {
                val samples = ShortArray(asked[2].size / 2).also { buffer(asked[2]).asShortBuffer().get(it) }
                send("done", bytes(resampled(samples, samples.size, texts[1].toInt())))
            }
            "window" -> {
                val sound = FloatArray(texts[1].toInt()) { it.toFloat() }
                send("done", bytes(window(sound, texts[2].toInt(), texts[3].toDouble(), texts[4].toInt()) ?: FloatArray(0)))
            }
            "label" -> Labeller(File(texts[1])).use { labeller ->
                val labels = labeller.label("clip")
                send("done", *labels.map { "${it.probability} ${it.name}" }.toTypedArray())
            }
        }
    }
}

private fun bytes(values: FloatArray): ByteArray {
    val found = buffer(ByteArray(4 * values.size))
    found.asFloatBuffer().put(values)
    return found.array()
}
