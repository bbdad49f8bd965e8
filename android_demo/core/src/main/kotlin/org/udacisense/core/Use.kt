package org.udacisense.core

import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.intOrNull

/** One call of a file for a photo. */
class Call(
    val loadMs: Double,
    val firstMs: Double,
    val ms: Double,
    val actual: Map<String, JsonPrimitive>
)

/**
 * What was asked on this phone, for the desk to take home: a row for each file of each choice, with how often it was asked
 * and answered, how often its answer was none of the classes, and its times.
 */
class Use(
    private val rows: List<Measurement>
) {
    /** With one photo more. [calls] are those of [Decision.asked]. */
    fun plus(
        choice: Choice,
        decision: Decision,
        calls: List<Call>,
        threads: Int
    ): List<Measurement> {
        val fresh =
            decision.asked.zip(calls).map { (ask, call) ->
                val before = row(choice, ask)
                val answers = ask == decision.answeredBy
                val samples = (before?.timing?.samplesMs.orEmpty() + call.ms).takeLast(MOST_SAMPLES)
                val counts =
                    mapOf(
                        CHOICE to scalar(choice.id),
                        "member" to scalar(ask.name),
                        ASKED to scalar(count(before, ASKED) + 1),
                        ANSWERED to scalar(count(before, ANSWERED) + if (answers) 1 else 0),
                        NONE to scalar(count(before, NONE) + if (answers && !decision.isSure) 1 else 0)
                    )
                val timing = Timing.of(Samples(listOf(call.firstMs), samples, 1), call.loadMs)
                val spec = RunSpec.of(ask.variant, threads, Budget(warmup = 1, minSamples = 1, minS = 0.0, maxS = 0.0))
                Measurement(spec, call.actual + counts, null, timing, emptyList(), Outcome.PASSED, null)
            }
        val replaced = fresh.map { it.spec.variantId }
        return rows.filterNot { it.actual[CHOICE]?.content == choice.id && it.spec.variantId in replaced } + fresh
    }

    /** How many photos each of a choice answered, in the order of asking. */
    fun answered(choice: Choice): List<Pair<Ask, Int>> = choice.asks.map { it to count(row(choice, it), ANSWERED) }

    private fun row(
        choice: Choice,
        ask: Ask
    ) = rows.find { it.actual[CHOICE]?.content == choice.id && it.spec.variantId == ask.variant.id }

    private fun count(
        row: Measurement?,
        name: String
    ) = row?.actual?.get(name)?.intOrNull ?: 0

    private companion object {
        const val CHOICE = "choice"
        const val ASKED = "asked"
        const val ANSWERED = "answered"
        const val NONE = "none_of_these"
        const val MOST_SAMPLES = 1_000
    }
}
