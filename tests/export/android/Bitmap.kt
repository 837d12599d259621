package android.graphics

import python.*

class Bitmap(val width: Int, val height: Int, private val argb: ByteArray) {
    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        check(offset == 0 && x == 0 && y == 0 && width == this.width && height == this.height && stride == width)
        buffer(argb).asIntBuffer().get(pixels)
    }
}
