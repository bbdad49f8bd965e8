package org.udacisense.core

import java.io.File
import kotlinx.serialization.json.JsonPrimitive

/** A loaded variant. One more runtime is one more of these. Not safe for use by several threads at once. */
interface Classifier : AutoCloseable {
    /** What the runtime really got: engine, threads, library. Goes into results as it is. */
    val actual: Map<String, JsonPrimitive>

    /** Answers one image: float32 (3, H, W) in, float32 (C) out. Throws [Problem]. */
    fun run(input: FloatArray): FloatArray
}

/** Opens files; [formats] says which. */
interface Runtime {
    val formats: Set<Format>

    /** Throws [Problem] where the runtime would not take the file. */
    fun load(
        file: File,
        variant: Variant,
        signature: Signature,
        threads: Int
    ): Classifier
}

/** The runtimes of an app, as one. */
class Runtimes(
    private val rows: List<Runtime>
) {
    val formats: Set<Format> = rows.flatMap { it.formats }.toSet()

    fun load(
        file: File,
        variant: Variant,
        signature: Signature,
        threads: Int
    ): Classifier {
        val row = rows.find { variant.format in it.formats } ?: throw Problem("This app cannot run ${variant.id}; it runs ${formats.joinToString { it.name.lowercase() }}.")
        return guarded("${variant.id} cannot be loaded") { row.load(file, variant, signature, threads) }
    }
}

/** Runs [work] of a native library: whatever it throws, out-of-memory and a missing library included, becomes a [Problem]. */
fun <T> guarded(
    what: String,
    work: () -> T
): T =
    try {
        work()
    } catch (e: Problem) {
        throw e
    } catch (e: OutOfMemoryError) {
        throw Problem("$what: the phone has not enough free memory. Close other apps, or take a smaller variant.", e)
    } catch (e: LinkageError) {
        throw Problem("$what: its native library does not run on this phone (${brief(e)}).", e)
    } catch (e: RuntimeException) {
        throw Problem("$what: ${brief(e)}", e)
    } catch (e: java.io.IOException) {
        throw Problem("$what: ${brief(e)}", e)
    }

private fun brief(e: Throwable): String = (e.message ?: e.javaClass.simpleName).lineSequence().first().take(300)

/** Answers, checked: as many finite values as the bundle has labels. */
fun Classifier.answer(
    input: FloatArray,
    variant: Variant,
    signature: Signature
): FloatArray {
    val output = guarded("${variant.id} failed while it ran") { run(input) }
    if (output.size != signature.labels.size) {
        throw Problem("${variant.id} answers ${output.size} values; the bundle has ${signature.labels.size} labels. This is another model's file.")
    }
    if (!output.all { it.isFinite() }) throw Problem("${variant.id} answers NaN or infinite values.")
    return output
}
