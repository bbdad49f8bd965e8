package org.udacisense.core

import java.security.MessageDigest
import kotlinx.serialization.json.doubleOrNull

/** An answer is "not sure" where its best two probabilities are closer than this. */
const val CONFIDENCE_MARGIN = 0.2f

/** What is shown for a photo. */
data class Decision(
    val scores: List<Score>,
    val margin: Float,
    val isSure: Boolean,
    val answeredBy: String
)

/**
 * Asks one after the other until one is sure; where none is, the last answer stands, not sure.
 *
 * The second row is the larger model of the bundle; a cloud service would be a third.
 */
class Cascade(
    private val rows: List<Row>,
    private val labels: List<String>,
    private val minMargin: Float = CONFIDENCE_MARGIN
) {
    /** Someone who can answer: [probabilities] throws [Problem] where it cannot. */
    class Row(
        val name: String,
        val probabilities: () -> FloatArray
    )

    init {
        if (rows.isEmpty()) throw Problem("There is no model to ask.")
    }

    /** A fallback that fails leaves the unsure answer before it standing; the first row's failure is the user's to see. */
    fun decide(): Decision {
        var last: Decision? = null
        for (row in rows) {
            val probabilities =
                try {
                    row.probabilities()
                } catch (e: Problem) {
                    last ?: throw e
                    continue
                }
            val margin = Scores.margin(probabilities)
            last = Decision(Scores.topK(probabilities, labels, labels.size), margin, margin >= minMargin, row.name)
            if (last.isSure) return last
        }
        return checkNotNull(last)
    }
}

/** The bundle's larger model to fall back to: its largest float32 file; null where [variant] is float32 itself, or larger. */
fun largerThan(
    variant: Variant,
    runnable: List<Variant>
): Variant? =
    runnable
        .filter { it.precision == Precision.FP32 && variant.precision != Precision.FP32 && (it.fileBytes ?: 0) > (variant.fileBytes ?: 0) }
        .maxWithOrNull(compareBy({ it.format == variant.format }, { it.fileBytes }))

/**
 * Staged rollout: which variant an installation gets.
 *
 * A variant's `options.rollout_percent` in the manifest is its share of installations; what is left gets the first
 * variant without one. The share of an installation never changes: SHA-256 of its id and the bundle's name, as a point
 * in 0..100. Raising a percentage only moves installations towards it where it is the first that has one.
 */
object Rollout {
    const val OPTION = "rollout_percent"

    fun choose(
        variants: List<Variant>,
        bundle: String,
        installationId: String
    ): Variant {
        if (variants.isEmpty()) throw Problem("The bundle has no variant that this app can run.")
        val shares = variants.mapNotNull { v -> v.options[OPTION]?.let { v to percent(v, it.doubleOrNull) } }
        if (shares.sumOf { it.second } > 100.0 + 1e-9) throw Problem("The bundle's $OPTION add up to more than 100.")
        val point = point(bundle, installationId)
        var end = 0.0
        for ((variant, share) in shares) {
            end += share
            if (point < end) return variant
        }
        val rest = variants.filter { OPTION !in it.options }
        return rest.firstOrNull() ?: shares.last().first
    }

    /** A point in 0 until 100, evenly spread over installations. */
    fun point(
        bundle: String,
        installationId: String
    ): Double {
        val digest = MessageDigest.getInstance("SHA-256").digest("$bundle\n$installationId".toByteArray())
        var value = 0L
        for (i in 0 until 6) value = (value shl 8) or (digest[i].toLong() and 0xff)
        return value * 100.0 / (1L shl 48)
    }

    private fun percent(
        variant: Variant,
        value: Double?
    ): Double {
        if (value == null || value < 0 || value > 100) throw Problem("$OPTION of ${variant.id} is not a number from 0 to 100.")
        return value
    }
}
