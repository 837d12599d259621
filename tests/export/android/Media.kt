package android.media

import android.graphics.Bitmap
import java.nio.ByteBuffer
import python.*

class MediaMetadataRetriever {
    fun setDataSource(path: String) = check(path == "clip")

    fun extractMetadata(keyCode: Int): String? = String(ask("milliseconds")[0]).also { check(keyCode == 9) }

    /** Null after the last frame. */
    fun getFrameAtTime(timeUs: Long, option: Int): Bitmap? {
        check(option == OPTION_CLOSEST)
        val found = ask("frame", timeUs)
        return if (found.isEmpty()) null else Bitmap(String(found[0]).toInt(), String(found[1]).toInt(), found[2])
    }

    fun release() {}

    companion object {
        const val METADATA_KEY_DURATION = 9
        const val OPTION_CLOSEST = 3
    }
}

class MediaFormat(private val texts: Map<String, String>, private val numbers: Map<String, Int>) {
    fun getString(name: String): String? = texts[name]
    fun getInteger(name: String): Int = numbers.getValue(name)

    companion object {
        const val KEY_MIME = "mime"
        const val KEY_CHANNEL_COUNT = "channel-count"
        const val KEY_SAMPLE_RATE = "sample-rate"
    }
}

/** A track of pictures, and one of sound if the clip has any. It is not compressed: 16 bits of each channel. */
class MediaExtractor {
    private val sound = ask("sound")
    private var place = 0
    val trackCount = if (sound.isEmpty()) 1 else 2
    val sampleTime: Long get() = if (place < sound[2].size) place.toLong() else -1

    fun setDataSource(path: String) = check(path == "clip")

    fun getTrackFormat(index: Int): MediaFormat {
        if (index == 0) return MediaFormat(mapOf("mime" to "video/avc"), mapOf())
        val (channels, rate) = sound.take(2).map { String(it).toInt() }
        return MediaFormat(mapOf("mime" to "audio/raw"), mapOf("channel-count" to channels, "sample-rate" to rate))
    }

    fun selectTrack(index: Int) = check(index == 1)

    fun readSampleData(byteBuf: ByteBuffer, offset: Int): Int {
        val size = minOf(sound[2].size - place, byteBuf.capacity() - offset)
        if (size <= 0) return -1
        byteBuf.clear()
        byteBuf.put(sound[2], place, size)
        byteBuf.flip()
        return size
    }

    fun advance(): Boolean {
        place += 4096
        return place < sound[2].size
    }

    fun release() {}
}

/** Hands on what it gets: later, and not at every call. Its first answer is that the format has changed. */
class MediaCodec private constructor() {
    class BufferInfo {
        @JvmField var flags = 0
    }

    private val inputs = List(2) { ByteBuffer.allocate(4096) }
    private val waiting = ArrayDeque<ByteArray>()
    private var format: MediaFormat? = null
    private var calls = 0
    private var ended = false
    val outputFormat get() = format!!

    fun configure(format: MediaFormat?, surface: Nothing?, crypto: Nothing?, flags: Int) {
        this.format = format.also { check(flags == 0) }
    }

    fun start() {}

    fun dequeueInputBuffer(timeoutUs: Long): Int = if (waiting.size < 3 && !ended) calls % 2 else -1

    fun getInputBuffer(index: Int): ByteBuffer? = inputs[index]

    fun queueInputBuffer(index: Int, offset: Int, size: Int, presentationTimeUs: Long, flags: Int) {
        ended = flags == BUFFER_FLAG_END_OF_STREAM
        waiting += inputs[index].array().copyOfRange(offset, offset + size)
    }

    fun dequeueOutputBuffer(info: BufferInfo, timeoutUs: Long): Int {
        calls++
        if (calls % 3 == 1 || waiting.isEmpty()) return if (calls == 1) -2 else -1
        info.flags = if (ended && waiting.size == 1) BUFFER_FLAG_END_OF_STREAM else 0
        return 0
    }

    /** In an order of bytes that is not the phone's, as every new buffer is. */
    fun getOutputBuffer(index: Int): ByteBuffer? = ByteBuffer.wrap(waiting.removeFirst())

    fun releaseOutputBuffer(index: Int, render: Boolean) {}

    fun release() {}

    companion object {
        const val BUFFER_FLAG_END_OF_STREAM = 4
        fun createDecoderByType(type: String) = MediaCodec().also { check(type == "audio/raw") }
    }
}
