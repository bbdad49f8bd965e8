package org.udacisense.core

import kotlinx.serialization.json.JsonPrimitive

/** What changes on a phone while it measures; null where it does not show it. */
data class PhoneState(
    /** Android's scale: 0 none, 1 light, 2 moderate, 3 severe, 4 critical, 5 emergency, 6 shutdown. */
    val thermalStatus: Int?,
    val batteryPercent: Int?,
    val charging: Boolean?,
    val powerSave: Boolean?
)

/** Asked before, during and after. */
fun interface PhoneWatch {
    fun read(): PhoneState
}

/** Times variant × threads, [rounds] times in an order that changes from round to round. */
class Benchmark(
    private val bundle: Bundle,
    private val runtimes: Runtimes,
    private val watch: PhoneWatch,
    private val bigCores: Int?,
    private val budget: Budget,
    private val clock: () -> Long = System::nanoTime
) {
    /** One process of one cell. */
    data class Cell(
        val variant: Variant,
        val threads: Int,
        val round: Int
    )

    fun plan(
        variants: List<Variant>,
        threads: List<Int>,
        rounds: Int
    ): List<Cell> {
        val cells = variants.flatMap { variant -> threads.map { variant to it } }
        return (0 until rounds).flatMap { round ->
            // Seeded: the same order for the same round, and a slow minute does not always hit the same cell.
            cells.shuffled(java.util.Random(round.toLong())).map { (variant, count) -> Cell(variant, count, round) }
        }
    }

    /** Measures one cell. A failure, or a phone that throttles, is in the measurement. */
    fun run(cell: Cell): Measurement {
        val spec = RunSpec.of(cell.variant, cell.threads, budget)
        val before = watch.read()
        val actual = linkedMapOf<String, JsonPrimitive>("round" to scalar(cell.round), "big_cores" to scalar(bigCores))
        actual += facts("before", before)
        if ((before.thermalStatus ?: 0) >= THROTTLING) {
            val reason = "the phone throttles (thermal status ${before.thermalStatus}) before this cell; let it cool down"
            return Measurement(spec, actual, null, null, emptyList(), Outcome.SKIPPED, reason)
        }
        return try {
            measure(cell, spec, actual, before)
        } catch (e: Problem) {
            Measurement(spec, actual, null, null, emptyList(), Outcome.FAILED, e.message)
        }
    }

    private fun measure(
        cell: Cell,
        spec: RunSpec,
        actual: MutableMap<String, JsonPrimitive>,
        before: PhoneState
    ): Measurement {
        val signature = bundle.manifest.signature
        val file = bundle.modelFile(cell.variant)
        val input = Preprocess.tensor(Preprocess.fitSquare(bundle.golden.photos.first(), signature.sizePx), signature, cell.variant.inputKind)
        val start = clock()
        val classifier = runtimes.load(file, cell.variant, signature, cell.threads)
        val loadMs = (clock() - start) / 1e6
        var hottest = before.thermalStatus
        val samples =
            classifier.use {
                actual += it.actual
                val stop = {
                    hottest = listOfNotNull(hottest, watch.read().thermalStatus).maxOrNull()
                    (hottest ?: 0) >= THROTTLING
                }
                val taken = guarded("${cell.variant.id} failed while it was timed") { collectSamples(budget, clock, stop) { it.run(input) } }
                // A file that answers something else, however fast, has no time worth reporting.
                it.answer(input, cell.variant, signature)
                taken
            }
        val after = watch.read()
        actual += facts("after", after)
        actual["thermal_during"] = scalar(hottest)
        val timing = Timing.of(samples, loadMs)
        return Measurement(spec, actual, null, timing, warnings(timing, before, after, hottest), Outcome.PASSED, null)
    }

    private fun warnings(
        timing: Timing,
        before: PhoneState,
        after: PhoneState,
        hottest: Int?
    ): List<String> {
        val found = mutableListOf<String>()
        if (timing.noisy) found += "NOISY: IQR %.0f%% of the median, drift %+.0f%%".en(timing.iqrFraction * 100, timing.driftFraction * 100)
        if ((hottest ?: 0) >= THROTTLING) found += "THROTTLED: thermal status $hottest; sampling was stopped"
        if (before.powerSave == true || after.powerSave == true) found += "POWER SAVE: the phone limits its own speed"
        val battery = before.batteryPercent
        if (battery != null && battery < LOW_BATTERY && before.charging == false) found += "LOW BATTERY: $battery %"
        return found
    }

    private fun facts(
        whenRead: String,
        state: PhoneState
    ): Map<String, JsonPrimitive> =
        mapOf(
            "thermal_$whenRead" to scalar(state.thermalStatus),
            "battery_percent_$whenRead" to scalar(state.batteryPercent),
            "charging_$whenRead" to scalar(state.charging),
            "power_save_$whenRead" to scalar(state.powerSave)
        )

    companion object {
        /** From Android's "moderate" on, a phone slows itself down. */
        const val THROTTLING = 2
        private const val LOW_BATTERY = 15
    }
}
