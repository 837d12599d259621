// The labels of a video on Android: com.microsoft.onnxruntime:onnxruntime-android, minSdk 24.
//
// `vidfit export model.onnx phone --to ort` writes the files of `folder`: vidfit.json, pictures.onnx, sounds.onnx and
// model.onnx. It is for models that look and listen. Call it from a worker thread.
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
    private val length = settings.getInt("sound_window") // samples
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

    private fun picture(frame: Bitmap): ByteArray {
        val pixels = IntArray(frame.width * frame.height)
        frame.getPixels(pixels, 0, frame.width, 0, 0, frame.width, frame.height)
        return squared(pixels, frame.width, frame.height, size)
    }

    /** Features of the sound, uint8 [steps, K]. Bytes of 127 stand for a step without sound. */
    private fun heard(sound: FloatArray, steps: Int): ByteArray {
        val features = settings.getJSONObject("modalities").getInt("audio")
        val found = ByteArray(steps * features) { 127 }
        val samples = ByteBuffer.allocateDirect(4 * length).order(ByteOrder.nativeOrder()).asFloatBuffer()
        for (step in 0 until steps) window(sound, step, rate, length)?.let {
            samples.clear()
            samples.put(it).rewind()
            run(sounds, "windows", samples, longArrayOf(1, length.toLong()), found, step * features)
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
            mono[count++] = (sum.toFloat() / channels).roundToInt().toShort()
        }
        decoder.releaseOutputBuffer(output, false)
    }
    val rate = decoder.outputFormat.getInteger(MediaFormat.KEY_SAMPLE_RATE)
    decoder.release()
    extractor.release()
    return resampled(mono, count, rate)
}
