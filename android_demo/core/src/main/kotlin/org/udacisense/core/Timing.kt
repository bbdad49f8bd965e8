package org.udacisense.core

import kotlin.math.abs
import kotlin.math.floor

/** What one cell's samples say; the harness's definitions (`udacisense/measure/stats.py`). */
data class Summary(
    val medianMs: Double,
    val p90Ms: Double,
    val p99Ms: Double,
    val iqrFraction: Double,
    val driftFraction: Double
) {
    val noisy: Boolean get() = iqrFraction > NOISY_FRACTION || abs(driftFraction) > NOISY_FRACTION

    companion object {
        private const val NOISY_FRACTION = 0.10
        private const val FEWEST_FOR_DRIFT = 20

        /** Summarises samples in milliseconds a call, in the order of time. Quantiles interpolate linearly. */
        fun of(samplesMs: List<Double>): Summary {
            require(samplesMs.isNotEmpty()) { "no samples to summarise" }
            val sorted = samplesMs.sorted()
            val median = quantile(sorted, 0.5)
            val tenth = maxOf(1, samplesMs.size / 10)
            val first = quantile(samplesMs.take(tenth).sorted(), 0.5)
            val last = quantile(samplesMs.takeLast(tenth).sorted(), 0.5)
            return Summary(
                medianMs = median,
                p90Ms = quantile(sorted, 0.9),
                p99Ms = quantile(sorted, 0.99),
                iqrFraction = (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / median,
                // With fewer samples a tenth is one sample: its chance is not drift.
                driftFraction = if (samplesMs.size >= FEWEST_FOR_DRIFT) last / first - 1.0 else 0.0
            )
        }

        private fun quantile(
            sorted: List<Double>,
            q: Double
        ): Double {
            val at = q * (sorted.size - 1)
            val below = floor(at).toInt()
            val above = minOf(below + 1, sorted.size - 1)
            return sorted[below] + (sorted[above] - sorted[below]) * (at - below)
        }
    }
}

/** How long and how often; the harness's budget of a cell. */
data class Budget(
    val warmup: Int,
    val minSamples: Int,
    val minS: Double,
    val maxS: Double
) {
    companion object {
        val QUICK = Budget(warmup = 10, minSamples = 20, minS = 0.3, maxS = 3.0)
        val STANDARD = Budget(warmup = 30, minSamples = 50, minS = 2.0, maxS = 10.0)
    }
}

/** Raw samples of one cell. */
data class Samples(
    val earlyMs: List<Double>,
    val samplesMs: List<Double>,
    val callsPerSample: Int
)

private const val EARLY_CALLS = 10
private const val NS_PER_MS = 1e6
private const val MIN_SAMPLE_MS = 1.0

/**
 * Times single calls: the first ten one by one, then the warm-up's rest, then samples until both minima are reached or
 * [Budget.maxS] is. A call below a millisecond is sampled in batches. [stop] is asked between samples.
 */
fun collectSamples(
    budget: Budget,
    clock: () -> Long = System::nanoTime,
    stop: () -> Boolean = { false },
    call: () -> Unit
): Samples {
    fun time(calls: Int): Long {
        val start = clock()
        repeat(calls) { call() }
        return clock() - start
    }
    val begin = clock()
    val end = begin + (budget.maxS * 1e9).toLong()
    val early = mutableListOf<Double>()
    while (early.size < EARLY_CALLS && (early.isEmpty() || clock() < end)) early += time(1) / NS_PER_MS
    for (i in early.size until budget.warmup) if (clock() < end) call()
    var calls = 1
    while (time(calls) < MIN_SAMPLE_MS * NS_PER_MS && calls < (1 shl 16)) calls *= 2
    val samples = mutableListOf<Double>()
    val start = clock()
    while (true) {
        samples += time(calls) / NS_PER_MS / calls
        val elapsedS = (clock() - start) / 1e9
        if (elapsedS >= budget.maxS || (samples.size >= budget.minSamples && elapsedS >= budget.minS) || stop()) break
    }
    return Samples(early, samples, calls)
}
