// Pictures and sound as the models want them: as FFmpeg scales and resamples. Android's own filters give other bytes,
// and so other labels. Nothing here needs Android. `docs/reference/reference-vectors.json` has values to compare with.
import kotlin.math.*

/** Weights for each place of a result, and the first value that they count. */
class Filter(val firsts: IntArray, val weights: Array<FloatArray>)

/** RGB bytes of a picture (0xAARRGGBB, row by row), stretched to a square. */
fun squared(pixels: IntArray, width: Int, height: Int, size: Int): ByteArray {
    val across = bicubic(width, size)
    val down = bicubic(height, size)
    val line = 3 * size
    val narrow = FloatArray(height * line)
    for (row in 0 until height) for (column in 0 until size) {
        var red = 0f
        var green = 0f
        var blue = 0f
        var from = row * width + across.firsts[column]
        for (weight in across.weights[column]) {
            val pixel = pixels[from++]
            red += weight * (pixel shr 16 and 255)
            green += weight * (pixel shr 8 and 255)
            blue += weight * (pixel and 255)
        }
        val to = row * line + 3 * column
        narrow[to] = red
        narrow[to + 1] = green
        narrow[to + 2] = blue
    }
    return ByteArray(size * line) { place ->
        var from = down.firsts[place / line] * line + place % line
        var sum = 0f
        for (weight in down.weights[place / line]) {
            sum += weight * narrow[from]
            from += line
        }
        sum.roundToInt().coerceIn(0, 255).toByte()
    }
}

/** FFmpeg's bicubic filter (B = 0, C = 0.6) from `length` values to `size`. It widens when a picture shrinks. */
private fun bicubic(length: Int, size: Int): Filter {
    val step = length.toDouble() / size
    val reach = max(step, 1.0)
    val taps = min(1 + ceil(4 * reach).toInt(), length)
    val centres = DoubleArray(size) { (it + 0.5) * step - 0.5 }
    val nearest = IntArray(size) { (centres[it] + 1 - taps / 2.0).toInt() }
    val firsts = IntArray(size) { nearest[it].coerceIn(0, length - taps) }
    return Filter(firsts, Array(size) { place ->
        val weights = DoubleArray(taps)
        for (from in nearest[place] until nearest[place] + taps) {
            // Beyond the border its pixel goes on.
            val inside = from.coerceIn(0, length - 1)
            weights[inside - firsts[place]] += cubic(abs(from - centres[place]) / reach)
        }
        normalised(weights)
    })
}

private fun cubic(x: Double): Double = when {
    x < 1 -> 1.4 * x * x * x - 2.4 * x * x + 1
    x < 2 -> 0.6 * (-x * x * x + 5 * x * x - 8 * x + 4)
    else -> 0.0
}

/** `count` samples of 16 bits and `rate` at 16 kHz, from -1 to 1, by FFmpeg's default filter. */
fun resampled(samples: ShortArray, count: Int, rate: Int): FloatArray {
    if (rate == 16000) return FloatArray(count) { samples[it] / 32768f }
    val common = generateSequence(16000 to rate) { (a, b) -> b to a % b }.first { it.second == 0 }.first
    val step = rate / common
    // After so many samples, the new ones lie between the old ones as before.
    val phases = 16000 / common
    val weights = Array(phases) { kaiser(it.toDouble() / phases, rate) }
    val middle = (weights[0].size - 1) / 2
    return FloatArray(((count.toLong() * phases + step - 1) / step).toInt()) { index ->
        val place = index.toLong() * step
        val first = (place / phases).toInt() - middle
        var sum = 0f
        weights[(place % phases).toInt()].forEachIndexed { tap, weight ->
            // Before its beginning and after its end, FFmpeg mirrors the sound.
            val from = abs(first + tap)
            val inside = if (from < count) from else 2 * count - 1 - from
            sum += weight * samples[inside.coerceIn(0, count - 1)]
        }
        sum / 32768
    }
}

/** Weights around a place that lies `fraction` of a sample behind the middle one: 32 periods of a windowed sinc. */
private fun kaiser(fraction: Double, rate: Int): FloatArray {
    val cutoff = min(0.97 * 16000 / rate, 1.0)
    val length = 2 * ceil(16 / cutoff).toInt()
    return normalised(DoubleArray(length) { tap ->
        val x = tap - (length - 1) / 2 - fraction
        val edge = 2 * x / length
        val sinc = if (x == 0.0) 1.0 else sin(PI * x * cutoff) / (PI * x * cutoff)
        sinc * bessel(9 * sqrt(max(1 - edge * edge, 0.0)))
    })
}

/** The modified Bessel function I0. */
private fun bessel(x: Double): Double {
    var term = 1.0
    var sum = 1.0
    var order = 1
    while (term > 1e-12 * sum) {
        term *= (x / (2 * order)).pow(2)
        sum += term
        order++
    }
    return sum
}

private fun normalised(weights: DoubleArray): FloatArray {
    val sum = weights.sum()
    return FloatArray(weights.size) { (weights[it] / sum).toFloat() }
}

/** The sound of a step. Null if it has less than half of it. */
fun window(sound: FloatArray, step: Int, rate: Double, length: Int): FloatArray? {
    val start = Math.rint(step * 16000 / rate).toInt()
    if (2 * (sound.size - start) < length) return null
    return FloatArray(length) { sound.getOrElse(start + it) { 0f } }
}
