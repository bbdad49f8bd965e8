package org.udacisense.core

import java.text.SimpleDateFormat
import java.util.Date
import java.util.Locale
import java.util.TimeZone

/** A whole self-test or benchmark of a bundle, row by row, as screens and orders run it. */
class Session(
    private val bundle: Bundle,
    private val runtimes: Runtimes,
    private val host: Host
) {
    /** [onRow] is called after each variant; [cancelled] is asked before each. */
    fun selfTest(
        variants: List<Variant>,
        cancelled: () -> Boolean = { false },
        onRow: (Measurement) -> Unit = {}
    ): MeasurementSet {
        val test = SelfTest(bundle, runtimes)
        val inputs = test.checkInputs()
        val rows = mutableListOf<Measurement>()
        for (variant in variants) {
            if (cancelled()) break
            rows += test.run(variant, inputs).also(onRow)
        }
        return set("verify", rows)
    }

    fun bench(
        benchmark: Benchmark,
        cells: List<Benchmark.Cell>,
        cancelled: () -> Boolean = { false },
        onRow: (Measurement) -> Unit = {}
    ): MeasurementSet {
        val rows = mutableListOf<Measurement>()
        for (cell in cells) {
            if (cancelled()) break
            rows += benchmark.run(cell).also(onRow)
        }
        return set("bench", rows)
    }

    /** What [Use] counted. */
    fun use(rows: List<Measurement>): MeasurementSet = set("use", rows, "photos in the app")

    private fun set(
        kind: String,
        rows: List<Measurement>,
        inputs: String = "golden pack, ${bundle.golden.photos.size} images"
    ) = MeasurementSet(
        schemaVersion = MeasurementSet.SCHEMA_VERSION,
        kind = kind,
        createdUtc = now(),
        bundle = bundle.manifest.name,
        bundleSha256 = bundle.sha256,
        host = host,
        inputs = inputs,
        seed = 0,
        measurements = rows
    )

    private fun now(): String = SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'+00:00'", Locale.ROOT).apply { timeZone = TimeZone.getTimeZone("UTC") }.format(Date())
}
