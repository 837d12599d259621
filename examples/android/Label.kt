// A video's labels on Android, by a packed file that carries its extractor. Needs onnxruntime-android.
// `rate`, `pictureTime` and `size` are in the file's metadata, `vidfit.extractor`; `audio` is 16 kHz mono.
// Never compiled: compare your pictures with the reference vectors in docs/reference/file-formats.md.
import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.graphics.Bitmap
import android.media.MediaMetadataRetriever
import java.nio.ByteBuffer
import java.nio.FloatBuffer

/** RGB bytes of a frame, stretched to a square. Halved first: Android's filter looks at four pixels only. */
fun picture(frame: Bitmap, size: Int): ByteArray {
    var small = frame
    while (small.width >= 2 * size && small.height >= 2 * size)
        small = Bitmap.createScaledBitmap(small, small.width / 2, small.height / 2, true)
    val pixels = IntArray(size * size)
    Bitmap.createScaledBitmap(small, size, size, true).getPixels(pixels, 0, size, 0, 0, size, size)
    return ByteArray(3 * pixels.size) { (pixels[it / 3] shr (16 - 8 * (it % 3))).toByte() }
}

fun probabilities(
    session: OrtSession, video: String, seconds: Double, audio: FloatArray, rate: Double, pictureTime: Double, size: Int
): FloatArray {
    val environment = OrtEnvironment.getEnvironment()
    val reader = MediaMetadataRetriever().apply { setDataSource(video) }
    val steps = maxOf(1, Math.rint(seconds * rate + 1e-6).toInt())
    val images = ByteBuffer.allocateDirect(steps * size * size * 3)
    for (step in 0 until steps) {
        val time = (1e6 * (step + pictureTime) / rate).toLong()
        images.put(picture(reader.getFrameAtTime(time, MediaMetadataRetriever.OPTION_CLOSEST)!!, size))
    }
    images.rewind()
    val shape = longArrayOf(steps.toLong(), size.toLong(), size.toLong(), 3)
    val inputs = mapOf(
        "images" to OnnxTensor.createTensor(environment, images, shape, OnnxJavaType.UINT8),
        "audio" to OnnxTensor.createTensor(environment, FloatBuffer.wrap(audio), longArrayOf(audio.size.toLong())))
    return session.run(inputs).use { (it["probabilities"].get().value as Array<FloatArray>)[0] }
}
