package org.udacisense.core

import kotlin.math.max

/** 8-bit RGB, row by row: [rgb] holds height × width × 3 bytes. */
class RgbImage(
    val width: Int,
    val height: Int,
    val rgb: ByteArray
) {
    init {
        if (width < 1 || height < 1 || rgb.size != width * height * 3) throw Problem("An image of $width × $height cannot have ${rgb.size} bytes of RGB.")
    }
}

/**
 * EXIF orientation (tag 0x0112): where a pixel of the upright photo stands in the stored one.
 *
 * Values outside 1..8 mean upright, as everywhere.
 */
enum class Orientation(
    val exif: Int,
    private val mirrorX: Boolean,
    private val mirrorY: Boolean,
    val swapsAxes: Boolean
) {
    UPRIGHT(1, false, false, false),
    MIRRORED(2, true, false, false),
    TURNED_180(3, true, true, false),
    FLIPPED(4, false, true, false),
    TRANSPOSED(5, false, false, true),
    TURNED_90(6, false, true, true),
    TRANSVERSED(7, true, true, true),
    TURNED_270(8, true, false, true)
    ;

    /** Turns a stored image upright. */
    fun upright(image: RgbImage): RgbImage {
        if (this == UPRIGHT) return image
        val width = if (swapsAxes) image.height else image.width
        val height = if (swapsAxes) image.width else image.height
        val rgb = ByteArray(image.rgb.size)
        var out = 0
        for (y in 0 until height) {
            for (x in 0 until width) {
                val column = if (swapsAxes) y else x
                val row = if (swapsAxes) x else y
                val storedX = if (mirrorX) image.width - 1 - column else column
                val storedY = if (mirrorY) image.height - 1 - row else row
                val from = (storedY * image.width + storedX) * 3
                rgb[out++] = image.rgb[from]
                rgb[out++] = image.rgb[from + 1]
                rgb[out++] = image.rgb[from + 2]
            }
        }
        return RgbImage(width, height, rgb)
    }

    /** The stored photo's rectangle that becomes the centre square of the upright one: left, top, edge. */
    fun storedSquare(
        storedWidth: Int,
        storedHeight: Int
    ): IntArray {
        val edge = minOf(storedWidth, storedHeight)

        // Offsets are rounded down in the upright photo; seen from the other side of an odd rest that is one more.
        fun offset(
            size: Int,
            mirrored: Boolean
        ) = if (mirrored) size - edge - (size - edge) / 2 else (size - edge) / 2
        return intArrayOf(offset(storedWidth, mirrorX), offset(storedHeight, mirrorY), edge)
    }

    companion object {
        fun of(exif: Int): Orientation = entries.find { it.exif == exif } ?: UPRIGHT
    }
}

/** From a photo to the tensor that a model is fed with, equal to the desk's. */
object Preprocess {
    private const val PRECISION_BITS = 32 - 8 - 2

    /** Cuts out the centre square (offsets rounded down) and resizes it to [sizePx]. */
    fun fitSquare(
        image: RgbImage,
        sizePx: Int
    ): RgbImage = resize(centreSquare(image), sizePx)

    fun centreSquare(image: RgbImage): RgbImage {
        val (left, top, edge) = Orientation.UPRIGHT.storedSquare(image.width, image.height)
        if (edge == image.width && edge == image.height) return image
        val rgb = ByteArray(edge * edge * 3)
        for (row in 0 until edge) {
            image.rgb.copyInto(rgb, row * edge * 3, ((top + row) * image.width + left) * 3, ((top + row) * image.width + left + edge) * 3)
        }
        return RgbImage(edge, edge, rgb)
    }

    /**
     * Resizes to a square with Pillow's antialiased `BILINEAR`, bit by bit: a triangle filter scaled to the reduction,
     * weights in 22-bit fixed point, rounded to 8 bits after the horizontal and after the vertical pass.
     */
    fun resize(
        image: RgbImage,
        sizePx: Int
    ): RgbImage {
        var current = image
        if (current.width != sizePx) current = horizontal(current, Weights.bilinear(current.width, sizePx))
        if (current.height != sizePx) current = vertical(current, Weights.bilinear(current.height, sizePx))
        return current
    }

    /** (rgb / 255 - mean) / std in float32, laid out as (3, H, W). */
    fun normalise(
        image: RgbImage,
        signature: Signature
    ): FloatArray = planar(image) { channel, value -> (value / 255f - signature.mean[channel].toFloat()) / signature.std[channel].toFloat() }

    /** What a variant takes: normalised values, or 0-255 where the rest is inside its graph. Float32 (3, H, W). */
    fun tensor(
        square: RgbImage,
        signature: Signature,
        kind: InputKind
    ): FloatArray =
        when (kind) {
            InputKind.NORMALIZED -> normalise(square, signature)
            InputKind.PIXELS -> planar(square) { _, value -> value }
        }

    private inline fun planar(
        image: RgbImage,
        value: (channel: Int, raw: Float) -> Float
    ): FloatArray {
        val plane = image.width * image.height
        val out = FloatArray(3 * plane)
        for (i in 0 until plane) {
            for (channel in 0 until 3) out[channel * plane + i] = value(channel, (image.rgb[i * 3 + channel].toInt() and 0xff).toFloat())
        }
        return out
    }

    private class Weights(
        val first: IntArray,
        val fixed: Array<IntArray>
    ) {
        companion object {
            fun bilinear(
                from: Int,
                to: Int
            ): Weights {
                val scale = from.toDouble() / to
                val filterScale = max(scale, 1.0)
                val first = IntArray(to)
                val fixed =
                    Array(to) { index ->
                        val centre = (index + 0.5) * scale
                        first[index] = max((centre - filterScale + 0.5).toInt(), 0)
                        val end = minOf((centre + filterScale + 0.5).toInt(), from)
                        val raw = DoubleArray(end - first[index]) { triangle((it + first[index] - centre + 0.5) * (1.0 / filterScale)) }
                        val sum = raw.sum()
                        IntArray(raw.size) { (0.5 + (if (sum != 0.0) raw[it] / sum else raw[it]) * (1 shl PRECISION_BITS)).toInt() }
                    }
                return Weights(first, fixed)
            }

            private fun triangle(x: Double): Double {
                val distance = if (x < 0) -x else x
                return if (distance < 1.0) 1.0 - distance else 0.0
            }
        }
    }

    private fun horizontal(
        image: RgbImage,
        weights: Weights
    ): RgbImage {
        val width = weights.first.size
        val out = ByteArray(width * image.height * 3)
        for (y in 0 until image.height) {
            for (x in 0 until width) {
                val start = (y * image.width + weights.first[x]) * 3
                mix(image.rgb, start, 3, weights.fixed[x], out, (y * width + x) * 3)
            }
        }
        return RgbImage(width, image.height, out)
    }

    private fun vertical(
        image: RgbImage,
        weights: Weights
    ): RgbImage {
        val height = weights.first.size
        val stride = image.width * 3
        val out = ByteArray(height * stride)
        for (y in 0 until height) {
            for (x in 0 until image.width) {
                mix(image.rgb, weights.first[y] * stride + x * 3, stride, weights.fixed[y], out, y * stride + x * 3)
            }
        }
        return RgbImage(image.width, height, out)
    }

    private fun mix(
        source: ByteArray,
        start: Int,
        step: Int,
        weights: IntArray,
        out: ByteArray,
        to: Int
    ) {
        for (channel in 0 until 3) {
            var sum = 1 shl (PRECISION_BITS - 1)
            var at = start + channel
            for (weight in weights) {
                sum += (source[at].toInt() and 0xff) * weight
                at += step
            }
            out[to + channel] = (sum shr PRECISION_BITS).coerceIn(0, 255).toByte()
        }
    }
}
