package org.udacisense.core

import java.security.MessageDigest
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.doubleOrNull

/** Of bundles without a [Confidence] of their own: an answer whose best two probabilities are closer than this is "not sure". */
val UNFITTED = Confidence(temperature = 1.0, rule = "margin", unsureBelow = 0.2, nImages = 0)

/** A file that can be asked. The next one is asked where its margin is below [threshold]; null: it always answers. */
data class Ask(
    val name: String,
    val variant: Variant,
    val confidence: Confidence,
    val threshold: Double?
)

/** What can be chosen on the screen: one file, or files of a cascade that go together. */
data class Choice(
    val id: String,
    val asks: List<Ask>
) {
    /** Its file, where it is one and no cascade. */
    val file: Variant? get() = asks.first().variant.takeIf { it.id == id }
}

/** The cascades of a bundle whose every member [formats] covers, then its files one by one. */
fun Manifest.choices(formats: Set<Format>): List<Choice> {
    val runnable = runnable(formats)
    val cascades =
        members.orEmpty().firstOrNull()?.variants?.keys.orEmpty().mapNotNull { key ->
            val asks = members.orEmpty().mapNotNull { m -> runnable.find { it.id == m.variants[key] }?.let { Ask(m.name, it, m.confidence, m.threshold) } }
            Choice("$name · $key", asks).takeIf { asks.size == members?.size }
        }
    return cascades + runnable.map { alone(it, runnable) }
}

/** One file; where it is not sure, the larger float32 file of its model is asked too. */
private fun Manifest.alone(
    variant: Variant,
    runnable: List<Variant>
): Choice {
    val member = members?.find { variant.id in it.variants.values }
    val confidence = member?.confidence ?: confidence ?: UNFITTED
    val larger = largerThan(variant, runnable.filter { member == null || it.id in member.variants.values })
    val first = Ask(variant.id, variant, confidence, confidence.unsureBelow.takeIf { larger != null })
    return Choice(variant.id, listOfNotNull(first, larger?.let { Ask(it.id, it, confidence, null) }))
}

/** What is shown for a photo. */
class Decision(
    val scores: List<Score>,
    val margin: Double,
    /** In the order of asking; the last one's answer is shown. */
    val asked: List<Ask>,
    /** Why one could not be asked, though the one before it was not sure. */
    val failure: Problem?
) {
    val answeredBy: Ask get() = asked.last()

    /** False: it is none of the classes, as far as [answeredBy] can tell. */
    val isSure: Boolean get() = margin >= answeredBy.confidence.unsureBelow
}

/**
 * Asks one after the other until one is sure; the last one always answers. [output] is what a file says of the photo.
 *
 * One that fails leaves the answer before it standing; the first one's failure is the user's to see. A cloud service would
 * be one more to ask. Throws [Problem].
 */
fun Choice.decide(
    labels: List<String>,
    output: (Variant) -> FloatArray
): Decision {
    val asked = mutableListOf<Ask>()
    var probabilities = DoubleArray(0)
    var failure: Problem? = null
    for (ask in asks) {
        try {
            probabilities = Scores.probabilities(output(ask.variant), ask.variant.outputKind, ask.confidence.temperature)
        } catch (e: Problem) {
            if (asked.isEmpty()) throw e
            failure = e
            continue
        }
        asked += ask
        if (ask.threshold == null || Scores.margin(probabilities) >= ask.threshold) break
    }
    return Decision(Scores.topK(probabilities, labels, labels.size), Scores.margin(probabilities), asked, failure)
}

/** The bundle's larger model to fall back to: its largest float32 file; null where [variant] is float32 itself, or larger. */
fun largerThan(
    variant: Variant,
    runnable: List<Variant>
): Variant? =
    runnable
        .filter { it.precision == Precision.FP32 && variant.precision != Precision.FP32 && (it.fileBytes ?: 0) > (variant.fileBytes ?: 0) }
        .maxWithOrNull(compareBy({ it.format == variant.format }, { it.fileBytes }))

/** `rollout.json` beside a bundle: the share of the installations, in percent, by the id of a file or of a way to run the cascade. */
@Serializable
data class Shares(
    val schemaVersion: Int,
    val percent: Map<String, Double>
) {
    companion object {
        const val FILE_NAME = "rollout.json"
        private const val SCHEMA_VERSION = 1

        /** Throws [Problem]. */
        fun parse(text: String): Map<String, Double> = readRecord(serializer(), text, FILE_NAME, SCHEMA_VERSION, emptySet()).percent
    }
}

/**
 * Staged rollout: what an installation gets.
 *
 * [Shares] say which share of the installations gets what; without them, a variant's `options.rollout_percent` in the manifest
 * does, of that file alone. What is left gets the first cascade, or without one the first variant without a share. The share of
 * an installation never changes: SHA-256 of its id and the bundle's name, as a point in 0..100. Raising a percentage only moves
 * installations towards it where it is the first that has one.
 */
object Rollout {
    const val OPTION = "rollout_percent"

    fun choose(
        choices: List<Choice>,
        bundle: String,
        installationId: String,
        given: Map<String, Double> = emptyMap()
    ): Choice {
        if (choices.isEmpty()) throw Problem("The bundle has no variant that this app can run.")
        val own = choices.mapNotNull { choice -> choice.file?.let { v -> v.options[OPTION]?.let { choice to percent(v.id, it.doubleOrNull) } } }
        val shares = if (given.isEmpty()) own else choices.mapNotNull { choice -> given[choice.id.removePrefix("$bundle · ")]?.let { choice to percent(choice.id, it) } }
        if (shares.sumOf { it.second } > 100.0 + 1e-9) throw Problem("The bundle's $OPTION add up to more than 100.")
        val point = point(bundle, installationId)
        var end = 0.0
        for ((choice, share) in shares) {
            end += share
            if (point < end) return choice
        }
        val rest = choices - shares.map { it.first }.toSet()
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
        id: String,
        value: Double?
    ): Double {
        if (value == null || value < 0 || value > 100) throw Problem("$OPTION of $id is not a number from 0 to 100.")
        return value
    }
}
