package org.udacisense.core

import kotlinx.serialization.Serializable
import kotlinx.serialization.json.JsonPrimitive

/** The harness's own records (`docs/schemas/measurements.schema.json`, version 1), as the app writes them. */
@Serializable
data class MeasurementSet(
    val schemaVersion: Int,
    val kind: String,
    val createdUtc: String,
    val bundle: String,
    val bundleSha256: String,
    val host: Host,
    val inputs: String,
    val seed: Int,
    val measurements: List<Measurement>
) {
    fun toJson(): String = writeRecord(serializer(), this)

    companion object {
        const val SCHEMA_VERSION = 1
        const val RUNNER = "android-app"

        fun parse(
            text: String,
            source: String
        ): MeasurementSet = readRecord(serializer(), text, source, SCHEMA_VERSION)
    }
}

/** The phone's fingerprint in the fields of the harness. */
@Serializable
data class Host(
    val system: String,
    val machine: String,
    val cpu: String,
    val physicalCores: Int,
    val logicalCores: Int,
    val memoryBytes: Long,
    val governor: String?,
    val loadAverage: Double?,
    val python: String,
    val libraries: Map<String, String>,
    val gitCommit: String?,
    val gitDirty: Boolean?
)

@Serializable
data class RunSpec(
    val variantId: String,
    val runner: String,
    val engine: String?,
    val threads: Int,
    val batchSize: Int,
    val warmup: Int,
    val minSamples: Int,
    val minS: Double,
    val maxS: Double,
    val timeoutS: Double,
    val seed: Int
) {
    companion object {
        fun of(
            variant: Variant,
            threads: Int,
            budget: Budget
        ) = RunSpec(
            variantId = variant.id,
            runner = MeasurementSet.RUNNER,
            engine = variant.engine,
            threads = threads,
            batchSize = 1,
            warmup = budget.warmup,
            minSamples = budget.minSamples,
            minS = budget.minS,
            maxS = budget.maxS,
            timeoutS = budget.maxS * 10,
            seed = 0
        )
    }
}

@Serializable
data class Flip(
    val index: Int,
    val referenceLabel: Int,
    val label: Int,
    val referenceMargin: Double
)

@Serializable
data class Comparison(
    val nInputs: Int,
    val rtol: Double,
    val atol: Double,
    val allclose: Boolean,
    val nonfinite: Int,
    val maxAbs: Double?,
    val meanAbs: Double?,
    val rmse: Double?,
    val minCosine: Double?,
    val psnrDb: Double?,
    val top1AgreementFraction: Double,
    val top1AgreementLow: Double,
    val top1AgreementHigh: Double,
    val flips: List<Flip>,
    val top1Fraction: Double?,
    val referenceTop1Fraction: Double?,
    val perClass: Map<String, Double>?,
    val referencePerClass: Map<String, Double>?,
    val mcnemarP: Double?,
    /** Of the master's answers; limits of a flip's margin are multiplied by it. */
    val scale: Double
)

@Serializable
data class Timing(
    val samplesMs: List<Double>,
    val callsPerSample: Int,
    val loadMs: Double,
    val firstMs: Double,
    val tenthMs: Double?,
    val medianMs: Double,
    val p90Ms: Double,
    val p99Ms: Double,
    val iqrFraction: Double,
    val driftFraction: Double,
    val waitedFraction: Double?,
    val noisy: Boolean,
    val energyMj: Double?,
    val energyReason: String?
) {
    companion object {
        private const val TENTH = 9

        fun of(
            samples: Samples,
            loadMs: Double
        ): Timing {
            val summary = Summary.of(samples.samplesMs)
            return Timing(
                samplesMs = samples.samplesMs,
                callsPerSample = samples.callsPerSample,
                loadMs = loadMs,
                firstMs = samples.earlyMs.first(),
                tenthMs = samples.earlyMs.getOrNull(TENTH),
                medianMs = summary.medianMs,
                p90Ms = summary.p90Ms,
                p99Ms = summary.p99Ms,
                iqrFraction = summary.iqrFraction,
                driftFraction = summary.driftFraction,
                waitedFraction = null,
                noisy = summary.noisy,
                energyMj = null,
                energyReason = "unavailable: an app cannot read a phone's power meter"
            )
        }
    }
}

@Serializable
data class Measurement(
    val spec: RunSpec,
    val actual: Map<String, JsonPrimitive>,
    val comparison: Comparison?,
    val timing: Timing?,
    val warnings: List<String>,
    val outcome: Outcome,
    val reason: String?
)
