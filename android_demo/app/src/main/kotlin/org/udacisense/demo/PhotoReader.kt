package org.udacisense.demo

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.media.ExifInterface
import android.net.Uri
import java.io.IOException
import java.io.InputStream
import org.udacisense.core.Orientation
import org.udacisense.core.Preprocess
import org.udacisense.core.Problem
import org.udacisense.core.RgbImage

/** From a photo's address to what is fed and what is shown. */
object PhotoReader {
    /**
     * Photos of up to 16 megapixels are resized from all their pixels, as on the desk; larger ones are halved while they
     * are decoded, which a phone's memory asks for.
     */
    private const val MOST_PIXELS = 16_000_000L
    private const val PREVIEW_PX = 640

    /** The model's square, and an upright picture for the screen. */
    class Photo(
        val square: RgbImage,
        val preview: Bitmap
    )

    /** Throws [Problem] where there is no picture. */
    fun read(
        resolver: ContentResolver,
        uri: Uri,
        sizePx: Int
    ): Photo {
        try {
            val orientation = opened(resolver, uri) { orientation(it) }
            val bounds = BitmapFactory.Options().apply { inJustDecodeBounds = true }
            opened(resolver, uri) { BitmapFactory.decodeStream(it, null, bounds) }
            if (bounds.outWidth < 1 || bounds.outHeight < 1) throw Problem("This file is no picture that the phone can read.")
            val options =
                BitmapFactory.Options().apply {
                    inPreferredConfig = Bitmap.Config.ARGB_8888
                    inPremultiplied = false
                    inSampleSize = 1
                    while (bounds.outWidth.toLong() * bounds.outHeight / (inSampleSize * inSampleSize) > MOST_PIXELS) inSampleSize *= 2
                }
            val bitmap = opened(resolver, uri) { BitmapFactory.decodeStream(it, null, options) } ?: throw Problem("This picture is damaged, or of a kind that the phone cannot read.")
            val square = orientation.upright(centre(bitmap, orientation))
            val preview = Preprocess.resize(square, minOf(PREVIEW_PX, square.width))
            return Photo(Preprocess.resize(square, sizePx), toBitmap(preview))
        } catch (e: IOException) {
            throw Problem("The picture cannot be opened: ${e.message}", e)
        } catch (e: SecurityException) {
            throw Problem("The app that has this picture does not let it be read.", e)
        }
    }

    fun toBitmap(image: RgbImage): Bitmap {
        val colours =
            IntArray(image.width * image.height) { i ->
                val r = image.rgb[i * 3].toInt() and 0xff
                val g = image.rgb[i * 3 + 1].toInt() and 0xff
                val b = image.rgb[i * 3 + 2].toInt() and 0xff
                (0xff shl 24) or (r shl 16) or (g shl 8) or b
            }
        return Bitmap.createBitmap(colours, image.width, image.height, Bitmap.Config.ARGB_8888)
    }

    private fun centre(
        bitmap: Bitmap,
        orientation: Orientation
    ): RgbImage {
        val (left, top, edge) = orientation.storedSquare(bitmap.width, bitmap.height)
        val rgb = ByteArray(edge * edge * 3)
        val row = IntArray(edge)
        var out = 0
        for (y in 0 until edge) {
            bitmap.getPixels(row, 0, edge, left, top + y, edge, 1)
            for (colour in row) {
                rgb[out++] = (colour shr 16).toByte()
                rgb[out++] = (colour shr 8).toByte()
                rgb[out++] = colour.toByte()
            }
        }
        bitmap.recycle()
        return RgbImage(edge, edge, rgb)
    }

    private fun orientation(stream: InputStream): Orientation =
        try {
            Orientation.of(ExifInterface(stream).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL))
        } catch (e: IOException) {
            // Formats without EXIF end here; the decoder says whether it is a picture at all.
            Orientation.UPRIGHT
        }

    private fun <T> opened(
        resolver: ContentResolver,
        uri: Uri,
        work: (InputStream) -> T
    ): T = (resolver.openInputStream(uri) ?: throw Problem("The picture is gone.")).use(work)
}
