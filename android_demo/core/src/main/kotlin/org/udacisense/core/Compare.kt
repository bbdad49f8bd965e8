package org.udacisense.core

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.log10
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt

/** How far a variant may be from what it should answer; the harness's table (`harness/verify/limits.py`). */
data class Limit(
    val rtol: Double,
    val atol: Double,
    val isClose: Boolean,
    val minPsnrDb: Double?,
    val minAgreementFraction: Double,
    /** Up to this margin of the desk's best two answers it has not decided: such a flip is told, and not counted. */
    val tieMargin: Double,
    val maxFlipMargin: Double?
) {
    companion object {
        private const val TOL = 1e-3
        private const val TIE = 0.02

        fun of(precision: Precision): Limit =
            when (precision) {
                Precision.FP32 -> Limit(TOL, TOL, true, null, 1.0, 2e-3, null)
                Precision.FP16 -> Limit(TOL, TOL, false, 55.0, 0.995, TIE, 0.5)
                Precision.INT8_DYNAMIC, Precision.INT8_STATIC -> Limit(TOL, TOL, false, 60.0, 0.97, TIE, null)
                Precision.INT8_WEIGHTS -> Limit(TOL, TOL, false, 40.0, 0.97, TIE, null)
                Precision.PALETTE6 -> Limit(TOL, TOL, false, null, 0.95, TIE, null)
                Precision.PALETTE4 -> Limit(TOL, TOL, false, null, 0.80, TIE, null)
            }

        /**
         * A variant's limit on a phone. int8 is held to decisions: the phone's build of a library rounds in places of its
         * own, and int8 in .onnx and .ort has no golden logits of its own precision.
         */
        fun of(variant: Variant): Limit {
            val limit = of(variant.precision)
            return when (variant.precision) {
                Precision.INT8_DYNAMIC, Precision.INT8_STATIC -> limit.copy(minPsnrDb = null)
                else -> limit
            }
        }
    }
}

object Compare {
    private const val Z_95 = 1.959963984540054
    private const val FEWEST_IMAGES = 50

    /**
     * Holds answers against what a variant should answer ([source]) and the decisions of the float32 master ([master]).
     * All of one shape, n × C. Throws [Problem] where nothing is compared.
     */
    fun compare(
        outputs: List<FloatArray>,
        source: List<FloatArray>,
        master: List<FloatArray>,
        limit: Limit
    ): Comparison {
        if (outputs.isEmpty() || outputs.size != source.size || outputs.size != master.size) {
            throw Problem("Nothing was compared: ${outputs.size} answers, ${source.size} expected, ${master.size} of the master.")
        }
        val nonfinite = outputs.sumOf { row -> row.count { !it.isFinite() } }
        val flips =
            outputs.indices.mapNotNull { i ->
                val label = Scores.top1(outputs[i])
                val wanted = Scores.top1(master[i])
                val agrees = label == wanted && outputs[i].all { it.isFinite() }
                if (agrees) null else Flip(i, wanted, label, Scores.margin(master[i]))
            }
        val n = outputs.size
        val (low, high) = wilson(n - flips.size, n)
        val numbers = if (nonfinite == 0) Numbers.of(outputs, source) else null
        val atol = limit.atol * scaleOf(source)
        return Comparison(
            nInputs = n,
            rtol = limit.rtol,
            atol = atol,
            allclose = outputs.indices.all { i -> isClose(outputs[i], source[i], limit.rtol, atol) },
            nonfinite = nonfinite,
            maxAbs = numbers?.maxAbs,
            meanAbs = numbers?.meanAbs,
            rmse = numbers?.rmse,
            minCosine = numbers?.minCosine,
            psnrDb = numbers?.psnrDb,
            top1AgreementFraction = (n - flips.size).toDouble() / n,
            top1AgreementLow = low,
            top1AgreementHigh = high,
            flips = flips,
            top1Fraction = null,
            referenceTop1Fraction = null,
            perClass = null,
            referencePerClass = null,
            mcnemarP = null,
            scale = scaleOf(master)
        )
    }

    /** What is out of limits, each in words; nothing where all is within. */
    fun judge(
        c: Comparison,
        limit: Limit
    ): List<String> {
        if (c.nonfinite > 0) return listOf("${c.nonfinite} output values are NaN or infinite")
        val problems = mutableListOf<String>()
        if (limit.isClose && !c.allclose) problems += "max |Δ| %.3g is beyond rtol %g, atol %g".en(c.maxAbs, c.rtol, c.atol)
        val psnr = c.psnrDb
        if (limit.minPsnrDb != null && psnr != null && psnr < limit.minPsnrDb) {
            problems += "PSNR %.1f dB, at least %g dB wanted".en(psnr, limit.minPsnrDb)
        }
        val allowed = allowedFlips(c.nInputs, limit.minAgreementFraction)
        val decided = c.flips.count { it.referenceMargin > limit.tieMargin * c.scale }
        if (decided > allowed) problems += "$decided of ${c.nInputs} labels differ from the desk's, $allowed allowed"
        val wide = c.flips.find { limit.maxFlipMargin != null && it.referenceMargin > limit.maxFlipMargin * c.scale }
        if (wide != null) problems += "image ${wide.index} flips although the desk decides by %.3g".en(wide.referenceMargin)
        return problems
    }

    /** How many of the images may flip: of few as many as do not contradict the limit, as in harness/verify/limits.py. */
    fun allowedFlips(
        nInputs: Int,
        minAgreementFraction: Double
    ): Int {
        // Rounded before the ceiling: (1 - 0.995) * 1000 is 5.000000000000004.
        val share = Math.round((1 - minAgreementFraction) * 1e6) / 1e6
        var allowed = ceil(Math.round(share * nInputs * 1e6) / 1e6).toInt()
        if (nInputs < FEWEST_IMAGES && share > 0) {
            while (allowed < nInputs && wilson(allowed + 1, nInputs).first <= share) allowed += 1
        }
        return allowed
    }

    /** The 95 % interval of a fraction (Wilson 1927). */
    fun wilson(
        successes: Int,
        n: Int
    ): Pair<Double, Double> {
        val p = successes.toDouble() / n
        val z2 = Z_95 * Z_95
        val centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        val half = Z_95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4.0 * n * n))
        return (if (successes == 0) 0.0 else max(0.0, centre - half)) to (if (successes == n) 1.0 else min(1.0, centre + half))
    }

    private fun isClose(
        got: FloatArray,
        wanted: FloatArray,
        rtol: Double,
        atol: Double
    ): Boolean = got.size == wanted.size && got.indices.all { abs(got[it].toDouble() - wanted[it]) <= atol + rtol * abs(wanted[it].toDouble()) }

    /** What absolute limits are multiplied by, as in harness/verify/compare.py: 1 where the answers' range is 1 to 100. */
    private fun scaleOf(answers: List<FloatArray>): Double = rangeOf(answers).let { if (it < 100) min(1.0, it) else it / 100 }

    private fun rangeOf(answers: List<FloatArray>): Double = answers.maxOf { it.max() }.toDouble() - answers.minOf { it.min() }

    private class Numbers(
        val maxAbs: Double,
        val meanAbs: Double,
        val rmse: Double,
        val minCosine: Double,
        val psnrDb: Double?
    ) {
        companion object {
            fun of(
                outputs: List<FloatArray>,
                source: List<FloatArray>
            ): Numbers {
                var largest = 0.0
                var sum = 0.0
                var squares = 0.0
                var count = 0
                for (i in outputs.indices) {
                    for (j in outputs[i].indices) {
                        val difference = abs(outputs[i][j].toDouble() - source[i][j])
                        largest = max(largest, difference)
                        sum += difference
                        squares += difference * difference
                        count++
                    }
                }
                val rmse = sqrt(squares / count)
                val span = rangeOf(source)
                return Numbers(
                    maxAbs = largest,
                    meanAbs = sum / count,
                    rmse = rmse,
                    minCosine = outputs.indices.minOf { cosine(outputs[it], source[it]) },
                    psnrDb = if (rmse > 0 && span > 0) 20 * log10(span / rmse) else null
                )
            }

            private fun cosine(
                a: FloatArray,
                b: FloatArray
            ): Double {
                var dot = 0.0
                var aa = 0.0
                var bb = 0.0
                for (i in a.indices) {
                    dot += a[i].toDouble() * b[i]
                    aa += a[i].toDouble() * a[i]
                    bb += b[i].toDouble() * b[i]
                }
                if (aa == 0.0 && bb == 0.0) return 1.0
                return if (aa == 0.0 || bb == 0.0) 0.0 else (dot / (sqrt(aa) * sqrt(bb))).coerceIn(-1.0, 1.0)
            }
        }
    }
}

/** Formats with a decimal point whatever the phone's language is: it goes into files. */
internal fun String.en(vararg values: Any?): String = String.format(java.util.Locale.ROOT, this, *values)
