// The labels of a video on Android: com.microsoft.onnxruntime:onnxruntime-android, minSdk 24.
//
// `vidfit export model.onnx phone --to ort` writes the files of `folder`: vidfit.json, pictures.onnx, sounds.onnx and
// model.onnx. This example was not compiled here. It is for models that look and listen. Call it from a worker thread.
import ai.onnxruntime.*
import android.graphics.Bitmap
import android.media.*
import org.json.JSONObject
import java.io.File
import java.nio.*
import kotlin.math.*

class Label(val name: String, val probability: Float)

class Labeller(folder: File) : AutoCloseable {
    private val settings = JSONObject(File(folder, "vidfit.json").readText())
    private val rate = settings.getDouble("rate") // steps per second
    private val pictureTime = settings.getDouble("picture_time") // of a step
    private val size = settings.getInt("picture_size")
    private val window = settings.getInt("sound_window") // samples
    private val environment = OrtEnvironment.getEnvironment()
    private val pictures = environment.createSession(File(folder, "pictures.onnx").path)
    private val sounds = environment.createSession(File(folder, "sounds.onnx").path)
    private val model = environment.createSession(File(folder, "model.onnx").path)

    /** The labels that hold, the most probable first. */
    fun label(video: String): List<Label> {
        val reader = MediaMetadataRetriever()
        try {
            reader.setDataSource(video)
            val milliseconds = reader.extractMetadata(MediaMetadataRetriever.METADATA_KEY_DURATION)!!.toLong()
            val steps = max(1, Math.rint(milliseconds / 1000.0 * rate + 1e-6).toInt())
            return labels(steps, seen(reader, steps), heard(sound(video), steps))
        } finally {
            reader.release()
        }
    }

    /** Features of the pictures, uint8 [steps, K]. Bytes of 127 stand for a step without picture. */
    private fun seen(reader: MediaMetadataRetriever, steps: Int): ByteArray {
        val features = settings.getJSONObject("modalities").getInt("rgb")
        val found = ByteArray(steps * features) { 127 }
        val image = ByteBuffer.allocateDirect(size * size * 3)
        var seen = false
        for (step in 0 until steps) {
            val time = (1e6 * (step + pictureTime) / rate).toLong()
            // Null after the last frame, which stays.
            reader.getFrameAtTime(time, MediaMetadataRetriever.OPTION_CLOSEST)?.let {
                image.clear()
                image.put(picture(it)).rewind()
                seen = true
            }
            val shape = longArrayOf(1, size.toLong(), size.toLong(), 3)
            if (seen) run(pictures, "images", image, shape, found, step * features)
        }
        return found
    }

    /** RGB bytes of a frame, stretched to a square. Halved first: Android's filter looks at four pixels only. */
    private fun picture(frame: Bitmap): ByteArray {
        var small = frame
        while (small.width >= 2 * size && small.height >= 2 * size)
            small = Bitmap.createScaledBitmap(small, small.width / 2, small.height / 2, true)
        val pixels = IntArray(size * size)
        Bitmap.createScaledBitmap(small, size, size, true).getPixels(pixels, 0, size, 0, 0, size, size)
        return ByteArray(3 * pixels.size) { (pixels[it / 3] shr (16 - 8 * (it % 3))).toByte() }
    }

    /** Features of the sound, uint8 [steps, K]. A step with less than half of its window has none: bytes of 127. */
    private fun heard(sound: FloatArray, steps: Int): ByteArray {
        val features = settings.getJSONObject("modalities").getInt("audio")
        val found = ByteArray(steps * features) { 127 }
        val samples = ByteBuffer.allocateDirect(4 * window).order(ByteOrder.nativeOrder())
        for (step in 0 until steps) {
            val start = Math.rint(step * 16000 / rate).toInt()
            if (2 * (sound.size - start) < window) continue
            samples.clear()
            for (place in start until start + window) samples.putFloat(sound.getOrElse(place) { 0f })
            samples.rewind()
            run(sounds, "windows", samples.asFloatBuffer(), longArrayOf(1, window.toLong()), found, step * features)
        }
        return found
    }

    private fun run(session: OrtSession, input: String, data: Buffer, shape: LongArray, into: ByteArray, at: Int) {
        val tensor = if (data is FloatBuffer) OnnxTensor.createTensor(environment, data, shape)
            else OnnxTensor.createTensor(environment, data as ByteBuffer, shape, OnnxJavaType.UINT8)
        tensor.use { session.run(mapOf(input to it)).use { found ->
            val bytes = (found.get(0) as OnnxTensor).byteBuffer
            bytes.get(into, at, bytes.remaining())
        } }
    }

    private fun labels(steps: Int, seen: ByteArray, heard: ByteArray): List<Label> {
        fun features(bytes: ByteArray): OnnxTensor {
            val data = ByteBuffer.allocateDirect(bytes.size).put(bytes)
            data.rewind()
            val shape = longArrayOf(1, steps.toLong(), (bytes.size / steps).toLong())
            return OnnxTensor.createTensor(environment, data, shape, OnnxJavaType.UINT8)
        }
        val inputs = mapOf(
            "rgb" to features(seen), "audio" to features(heard),
            "num_frames" to OnnxTensor.createTensor(environment, longArrayOf(steps.toLong())))
        // The output frame_probabilities, if the model has it, says when: [1, steps, classes].
        val probabilities = try {
            model.run(inputs, setOf("probabilities")).use { (it.get(0) as OnnxTensor).floatBuffer }
        } finally {
            inputs.values.forEach { it.close() }
        }
        val names = settings.getJSONArray("vocabulary")
        val thresholds = settings.getJSONArray("thresholds")
        return (0 until names.length()).filter { probabilities[it] >= thresholds.getDouble(it) }
            .map { Label(names.getString(it), probabilities[it]) }.sortedByDescending { it.probability }
    }

    override fun close() = listOf(pictures, sounds, model).forEach { it.close() }
}

/** The sound of a video: 16 kHz, the mean of its channels, from -1 to 1. Empty if there is none. */
fun sound(video: String): FloatArray {
    val extractor = MediaExtractor().apply { setDataSource(video) }
    val track = (0 until extractor.trackCount).firstOrNull {
        extractor.getTrackFormat(it).getString(MediaFormat.KEY_MIME)!!.startsWith("audio/")
    } ?: return FloatArray(0).also { extractor.release() }
    extractor.selectTrack(track)
    val format = extractor.getTrackFormat(track)
    val decoder = MediaCodec.createDecoderByType(format.getString(MediaFormat.KEY_MIME)!!)
    decoder.configure(format, null, null, 0)
    decoder.start()
    var mono = ShortArray(1 shl 16)
    var count = 0
    var read = 0
    val info = MediaCodec.BufferInfo()
    while ((info.flags and MediaCodec.BUFFER_FLAG_END_OF_STREAM) == 0) {
        val input = if (read < 0) -1 else decoder.dequeueInputBuffer(10_000)
        if (input >= 0) {
            read = extractor.readSampleData(decoder.getInputBuffer(input)!!, 0)
            if (read < 0) decoder.queueInputBuffer(input, 0, 0, 0, MediaCodec.BUFFER_FLAG_END_OF_STREAM)
            else decoder.queueInputBuffer(input, 0, read, extractor.sampleTime, 0)
            extractor.advance()
        }
        val output = decoder.dequeueOutputBuffer(info, 10_000)
        if (output < 0) continue
        // 16 bits, the channels interleaved, in the byte order of the phone.
        val samples = decoder.getOutputBuffer(output)!!.order(ByteOrder.nativeOrder()).asShortBuffer()
        val channels = decoder.outputFormat.getInteger(MediaFormat.KEY_CHANNEL_COUNT)
        repeat(samples.remaining() / channels) {
            if (count == mono.size) mono = mono.copyOf(2 * count)
            var sum = 0
            repeat(channels) { sum += samples.get() }
            mono[count++] = (sum / channels).toShort()
        }
        decoder.releaseOutputBuffer(output, false)
    }
    val rate = decoder.outputFormat.getInteger(MediaFormat.KEY_SAMPLE_RATE)
    decoder.release()
    extractor.release()
    return resampled(mono, count, rate)
}

/** `count` samples of `rate` at 16 kHz, by a windowed sinc. */
fun resampled(samples: ShortArray, count: Int, rate: Int): FloatArray {
    val cutoff = 0.95 * min(1.0, 16000.0 / rate)
    val half = ceil(16 / cutoff).toInt()
    // Every so many samples, the new ones lie between the old ones as before.
    val period = 16000 / generateSequence(16000 to rate) { (a, b) -> b to a % b }.first { it.second == 0 }.first
    val weights = Array(period) { phase ->
        val fraction = (phase.toLong() * rate % 16000) / 16000.0
        FloatArray(2 * half) { tap ->
            val x = PI * (fraction + half - 1 - tap)
            val sinc = if (x == 0.0) 1.0 else sin(cutoff * x) / (cutoff * x)
            (cutoff * sinc * (0.5 + 0.5 * cos(x / half)) / 32768).toFloat()
        }
    }
    return FloatArray((count * 16000L / rate).toInt()) { index ->
        val first = (index.toLong() * rate / 16000).toInt() - half + 1
        val weight = weights[index % period]
        var sum = 0f
        for (tap in max(0, -first) until min(2 * half, count - first)) sum += samples[first + tap] * weight[tap]
        sum
    }
}
