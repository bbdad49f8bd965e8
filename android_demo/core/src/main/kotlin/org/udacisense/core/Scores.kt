package org.udacisense.core

import kotlin.math.exp

/** One line of an answer. */
data class Score(
    val label: String,
    val index: Int,
    val probability: Double
)

object Scores {
    /** softmax(logits / temperature) in double precision, as the desk computes it. */
    fun softmax(
        logits: FloatArray,
        temperature: Double = 1.0
    ): DoubleArray {
        val largest = (logits.maxOrNull() ?: throw Problem("The model answered nothing.")) / temperature
        val powers = DoubleArray(logits.size) { exp(logits[it] / temperature - largest) }
        val sum = powers.sum()
        return DoubleArray(logits.size) { powers[it] / sum }
    }

    fun probabilities(
        output: FloatArray,
        kind: OutputKind,
        temperature: Double
    ): DoubleArray = if (kind == OutputKind.LOGITS) softmax(output, temperature) else DoubleArray(output.size) { output[it].toDouble() }

    /** The first index of the largest value; NaN is never the largest. */
    fun top1(values: FloatArray): Int {
        var best = 0
        for (i in values.indices) if (values[i] > values[best] || (values[best].isNaN() && !values[i].isNaN())) best = i
        return best
    }

    /** The [k] most probable labels, best first; among equals the one that comes first in the bundle. */
    fun topK(
        probabilities: DoubleArray,
        labels: List<String>,
        k: Int
    ): List<Score> {
        if (probabilities.size != labels.size) throw Problem("The model answers ${probabilities.size} values; the bundle has ${labels.size} labels.")
        return probabilities.indices
            .map { Score(labels[it], it, probabilities[it]) }
            .sortedByDescending { it.probability }
            .take(k)
    }

    /** Top-1 minus top-2. */
    fun margin(values: DoubleArray): Double {
        if (values.size < 2) return Double.POSITIVE_INFINITY
        val sorted = values.sortedArray()
        return sorted[sorted.size - 1] - sorted[sorted.size - 2]
    }

    fun margin(values: FloatArray): Double = margin(DoubleArray(values.size) { values[it].toDouble() })
}
