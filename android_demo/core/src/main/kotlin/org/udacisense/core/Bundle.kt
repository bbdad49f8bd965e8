package org.udacisense.core

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest

/** Where a bundle's files come from: a folder that was pushed to the phone, or the app's own assets. */
interface BundleSource {
    /** In words, for screens and messages. */
    val name: String

    /** Throws [IOException] where there is no such file. */
    fun open(path: String): InputStream
}

class FolderSource(
    private val folder: File,
    override val name: String = folder.path
) : BundleSource {
    override fun open(path: String): InputStream = File(folder, path).inputStream()
}

/**
 * An opened bundle. Models are run from [cache]: one file a variant, named by its SHA-256, so that what was copied
 * before from an older bundle can never be taken for the manifest's file.
 */
class Bundle private constructor(
    val source: BundleSource,
    val manifest: Manifest,
    val sha256: String,
    /** Shares of the installations, where they lie beside the bundle. */
    val shares: Map<String, Double>,
    private val cache: File
) {
    /** The golden pack, read and checked against the manifest once. Throws [Problem]. */
    val golden: GoldenPack by lazy { GoldenPack.read(this) }

    /** Bytes of a listed file, checked against the manifest's SHA-256. Throws [Problem]. */
    fun bytes(path: String): ByteArray {
        val record = manifest.file(path)
        val bytes = reading(path) { it.readBytes() }
        if (hex(sha().digest(bytes)) != record.sha256) throw damaged(path)
        return bytes
    }

    /**
     * The file of a variant on the phone's storage, whole: its SHA-256 is the manifest's. A cached copy is used where it
     * is; any other copy of that variant is removed. Throws [Problem].
     */
    fun modelFile(variant: Variant): File {
        val path = variant.path ?: throw Problem("${variant.id} was not exported (${variant.reason ?: "no reason given"}).")
        val wanted = variant.sha256 ?: throw Problem("The manifest gives no SHA-256 of ${variant.id}.")
        val target = File(cache, "${variant.id}-${wanted.take(SHORT)}.${variant.format.suffix}")
        val stale = cache.listFiles { file -> isCopyOf(variant, file.name) && file.name != target.name }.orEmpty()
        if (!(target.isFile && sha256(target) == wanted)) copy(path, target, wanted)
        stale.forEach { it.delete() }
        return target
    }

    private fun isCopyOf(
        variant: Variant,
        name: String
    ) = name.startsWith("${variant.id}-") && name.removePrefix("${variant.id}-").substringBefore('.').let { it.length == SHORT && it.all { c -> c in '0'..'9' || c in 'a'..'f' } }

    private fun copy(
        path: String,
        target: File,
        wanted: String
    ) {
        if (!cache.isDirectory && !cache.mkdirs()) throw Problem("The folder for models cannot be made; is the phone's storage full?")
        val partial = File(cache, "${target.name}.partial")
        try {
            val digest = sha()
            reading(path) { input ->
                partial.outputStream().use { output ->
                    val buffer = ByteArray(1 shl 16)
                    while (true) {
                        val n = input.read(buffer)
                        if (n < 0) break
                        digest.update(buffer, 0, n)
                        output.write(buffer, 0, n)
                    }
                }
            }
            if (hex(digest.digest()) != wanted) throw damaged(path)
            target.delete()
            if (!partial.renameTo(target)) throw Problem("$path cannot be copied; is the phone's storage full?")
        } finally {
            partial.delete()
        }
    }

    private fun <T> reading(
        path: String,
        work: (InputStream) -> T
    ): T =
        try {
            source.open(path).use(work)
        } catch (e: java.io.FileNotFoundException) {
            throw Problem("The bundle lacks $path. Push or build it in again.", e)
        } catch (e: IOException) {
            throw Problem("$path cannot be read or copied: ${e.message}", e)
        }

    private fun damaged(path: String) = Problem("$path is damaged or another file: its SHA-256 is not the manifest's. Push the bundle again.")

    companion object {
        private const val SHORT = 16
        private const val MOST_MANIFEST_BYTES = 16 shl 20

        /** Opens the bundle of [source]. Throws [Problem]. */
        fun open(
            source: BundleSource,
            cache: File
        ): Bundle {
            val bytes =
                try {
                    source.open(Manifest.FILE_NAME).use { it.readBytes() }
                } catch (e: IOException) {
                    throw Problem("There is no bundle in ${source.name}.", e)
                }
            if (bytes.size > MOST_MANIFEST_BYTES) throw Problem("${Manifest.FILE_NAME} of ${source.name} is too large to be one.")
            val shares =
                try {
                    Shares.parse(source.open(Shares.FILE_NAME).use { it.readBytes() }.decodeToString())
                } catch (e: IOException) {
                    emptyMap()
                }
            return Bundle(source, Manifest.parse(bytes.decodeToString(), Manifest.FILE_NAME), hex(sha().digest(bytes)), shares, cache)
        }

        fun sha256(file: File): String {
            val digest = sha()
            file.inputStream().use { input ->
                val buffer = ByteArray(1 shl 16)
                while (true) {
                    val n = input.read(buffer)
                    if (n < 0) break
                    digest.update(buffer, 0, n)
                }
            }
            return hex(digest.digest())
        }

        private fun sha() = MessageDigest.getInstance("SHA-256")

        private fun hex(bytes: ByteArray) = bytes.joinToString("") { "%02x".format(it) }
    }
}

/** The golden pack: photos, the tensor each must become, and what a model should answer. */
class GoldenPack(
    val photos: List<RgbImage>,
    val inputs: List<FloatArray>,
    val masterLogits: List<FloatArray>,
    private val bundle: Bundle
) {
    /** What [variant] should answer, n × C; the float32 model's logits (or probabilities) where it has none of its own. */
    fun expected(variant: Variant): List<FloatArray> {
        val own = variant.goldenLogitsPath
        if (own != null) return floats(bundle.bytes(own), own, photos.size, bundle.manifest.signature.labels.size)
        return if (variant.outputKind == OutputKind.PROBABILITIES) masterLogits.map { row -> Scores.softmax(row).let { p -> FloatArray(p.size) { p[it].toFloat() } } } else masterLogits
    }

    companion object {
        internal fun read(bundle: Bundle): GoldenPack {
            val golden = bundle.manifest.golden
            val signature = bundle.manifest.signature
            if (golden.images.isEmpty()) throw Problem("The golden pack has no images; nothing can be proved with it.")
            val raw = bundle.bytes(golden.imagesPath)
            val photos =
                golden.images.mapIndexed { i, image ->
                    val end = image.offsetBytes + image.widthPx.toLong() * image.heightPx * 3
                    if (image.offsetBytes < 0 || end > raw.size) throw Problem("Image $i of the golden pack lies outside ${golden.imagesPath}.")
                    RgbImage(image.widthPx, image.heightPx, raw.copyOfRange(image.offsetBytes.toInt(), end.toInt()))
                }
            val n = photos.size
            return GoldenPack(
                photos = photos,
                inputs = floats(bundle.bytes(golden.inputsPath), golden.inputsPath, n, 3 * signature.sizePx * signature.sizePx),
                masterLogits = floats(bundle.bytes(golden.logitsPath), golden.logitsPath, n, signature.labels.size),
                bundle = bundle
            )
        }

        private fun floats(
            bytes: ByteArray,
            path: String,
            rows: Int,
            columns: Int
        ): List<FloatArray> {
            if (bytes.size != rows * columns * 4) throw Problem("$path has ${bytes.size} bytes; $rows × $columns float32 values are expected.")
            val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
            return List(rows) { FloatArray(columns).also(buffer::get) }
        }
    }
}
