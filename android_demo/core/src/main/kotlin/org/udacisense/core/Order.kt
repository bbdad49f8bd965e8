package org.udacisense.core

import java.io.File
import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale

/** What a desk asks of the app. Variants are ids of the manifest, never paths. */
data class Order(
    val id: String,
    val command: Command,
    val variants: List<Variant>,
    val threads: List<Int>
) {
    enum class Command(
        val word: String
    ) {
        SELFTEST("selftest"),
        BENCH("bench")
    }

    companion object {
        private val ID = Regex("[A-Za-z0-9_-]{1,64}")
        private const val MOST_THREADS = 64

        /** The order's id where it is one that may name a file, or null: then nothing is written at all. */
        fun id(raw: String?): String? = raw?.takeIf(ID::matches)

        /** Throws [Problem] in words for the one who sent the order. */
        fun parse(
            id: String,
            command: String?,
            variants: String?,
            threads: String?,
            manifest: Manifest,
            formats: Set<Format>
        ): Order {
            val known = Command.entries.find { it.word == command }
            if (known == null) throw Problem("The command is \"${command.orEmpty().take(40)}\"; it is selftest or bench.")
            if (known == Command.SELFTEST && threads != null) throw Problem("selftest runs on one thread and takes no threads.")
            return Order(id, known, chosen(variants ?: "all", manifest, formats), counts(threads ?: "1"))
        }

        private fun chosen(
            words: String,
            manifest: Manifest,
            formats: Set<Format>
        ): List<Variant> {
            val runnable = manifest.runnable(formats)
            if (words == "all") return runnable.ifEmpty { throw Problem("The bundle has no variant that this app can run.") }
            return words.split(",").map { word ->
                val variant = manifest.variant(word.take(100))
                if (variant !in runnable) throw Problem("This app cannot run ${variant.id}${variant.reason?.let { ": $it" }.orEmpty()}.")
                variant
            }.distinct()
        }

        private fun counts(words: String): List<Int> =
            words.split(",").map { word ->
                word.toIntOrNull()?.takeIf { it in 1..MOST_THREADS } ?: throw Problem("\"${word.take(20)}\" is no number of threads; give whole numbers from 1 to $MOST_THREADS.")
            }.distinct()
    }
}

/** The folder that a desk takes results from. */
class Results(
    private val folder: File
) {
    /** Removes what an earlier order of the same name left. */
    fun clear(id: String) {
        file(id).delete()
        failure(id).delete()
    }

    fun write(
        id: String,
        result: MeasurementSet
    ) = writeWhole(file(id), result.toJson())

    /** Writes what was measured by hand in the app, named by its kind and the time. Throws [Problem]. */
    fun save(result: MeasurementSet): File {
        val id = "screen-${result.kind}-" + SimpleDateFormat("yyyyMMdd-HHmmss", Locale.ROOT).format(Date())
        write(id, result)
        return file(id)
    }

    fun writeFailure(
        id: String,
        error: String
    ) = writeWhole(failure(id), writeRecord(OrderFailure.serializer(), OrderFailure(id, error)))

    fun file(id: String) = File(folder, "$id.json")

    fun failure(id: String) = File(folder, "$id.failed.json")
}

@kotlinx.serialization.Serializable
data class OrderFailure(
    val order: String,
    val error: String
)
