package org.udacisense.core

import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.json.JsonPrimitive

/** `manifest.json` of a bundle, schema version 1. [Manifest.parse] is the only way in. */
@Serializable
data class Manifest(
    val schemaVersion: Int,
    val createdUtc: String,
    val name: String,
    val artifactSha256: String,
    val signature: Signature,
    val golden: Golden,
    val variants: List<Variant>,
    val files: List<FileRecord>,
    val confidence: Confidence? = null,
    val members: List<Member>? = null,
    val notes: List<String> = emptyList()
) {
    /** The variants that [formats] covers, in the manifest's order. */
    fun runnable(formats: Set<Format>): List<Variant> = variants.filter { it.outcome == Outcome.PASSED && it.format in formats }

    fun variant(id: String): Variant = variants.find { it.id == id } ?: throw Problem("The bundle has no variant \"$id\"; it has ${variants.joinToString { it.id }}.")

    fun file(path: String): FileRecord = files.find { it.path == path } ?: throw Problem("The manifest does not list the file $path; export the bundle again.")

    companion object {
        const val FILE_NAME = "manifest.json"
        const val SCHEMA_VERSION = 1

        /** Keys of bundles that 0.1.0 exported; nothing reads them any more. */
        private val FORMER = setOf("recommended")

        /** Reads and checks a manifest; [source] names it in messages. Throws [Problem]. */
        fun parse(
            text: String,
            source: String = FILE_NAME
        ): Manifest = readRecord(serializer(), text, source, SCHEMA_VERSION, FORMER).also { check(it, source) }

        private fun check(
            manifest: Manifest,
            source: String
        ) {
            val s = manifest.signature

            fun require(
                holds: Boolean,
                what: () -> String
            ) {
                if (!holds) throw Problem("$source is not valid: ${what()}")
            }
            require(s.inputShape.size == 4 && s.inputShape[1] == 3) { "signature.input_shape is ${s.inputShape}, not (N, 3, H, W)." }
            require(s.inputShape[2] == s.sizePx && s.inputShape[3] == s.sizePx) {
                "signature.input_shape ${s.inputShape} does not fit size_px ${s.sizePx}."
            }
            require(s.sizePx in 1..4096) { "signature.size_px is ${s.sizePx}." }
            require(s.outputShape.size == 2 && s.outputShape[1] == s.labels.size) {
                "signature.output_shape ${s.outputShape} does not fit ${s.labels.size} labels."
            }
            require(s.labels.isNotEmpty()) { "signature.labels is empty." }
            require(s.mean.size == 3 && s.std.size == 3 && s.std.all { it > 0 }) { "signature.mean and std are three numbers each, std above 0." }
            require(s.dtype == "float32" && s.layout == "NCHW") { "this app feeds float32 in NCHW, not ${s.dtype} in ${s.layout}." }
            require(s.resize.method == "bilinear" && s.resize.antialias) { "this app resizes bilinear with antialias alone." }
            val members = manifest.members.orEmpty()
            for (it in listOfNotNull(manifest.confidence) + members.map(Member::confidence)) {
                require(it.temperature > 0 && it.temperature.isFinite()) { "confidence.temperature is ${it.temperature}." }
                require(it.unsureBelow in 0.0..1.0) { "confidence.unsure_below is ${it.unsureBelow}." }
                require(it.rule == "margin") { "confidence.rule is \"${it.rule}\"; this app knows \"margin\"." }
            }
            val ids = manifest.variants.map { it.id }
            require(ids.toSet().size == ids.size) { "two variants share one id." }
            manifest.members?.let { problem(it, ids) }?.let { throw Problem("$source is not valid: $it") }
            for (path in manifest.files.map { it.path } + manifest.variants.mapNotNull { it.path }) {
                require(isInside(path)) { "the path \"$path\" leaves the bundle." }
            }
            for (v in manifest.variants) {
                requireScalars(v.options, "$source: variant ${v.id}")
                require(v.outcome != Outcome.PASSED || (v.path != null && v.sha256 != null && v.fileBytes != null)) {
                    "variant ${v.id} passed and yet has no path, sha256 or file_bytes."
                }
            }
        }

        private fun problem(
            members: List<Member>,
            ids: List<String>
        ): String? =
            when {
                members.size < 2 || members.distinctBy { it.name }.size < members.size -> "a cascade has two members or more, each with a name of its own."
                members.flatMap { it.variants.values }.sorted() != ids.sorted() -> "each variant must belong to one member."
                members.any { (it.threshold == null) != (it === members.last()) } -> "every member of the cascade but the last has a threshold."
                members.any { it.threshold != null && it.threshold !in 0.0..1.0 } -> "a threshold is a margin from 0 to 1."
                else -> null
            }

        private fun isInside(path: String): Boolean =
            path.isNotEmpty() && !path.startsWith("/") && '\\' !in path && '\u0000' !in path && path.split("/").none { it == ".." || it == "." || it.isEmpty() }
    }
}

@Serializable
enum class Outcome {
    @SerialName("passed")
    PASSED,

    @SerialName("failed")
    FAILED,

    @SerialName("skipped")
    SKIPPED
}

@Serializable
data class Signature(
    val inputName: String,
    val outputName: String,
    val inputShape: List<Int>,
    val outputShape: List<Int>,
    val dtype: String,
    val layout: String,
    val resize: Resize,
    val sizePx: Int,
    val mean: List<Double>,
    val std: List<Double>,
    val labels: List<String>
)

@Serializable
data class Resize(
    val method: String,
    val antialias: Boolean
)

/** Logits are divided by [temperature] before the softmax; an answer whose [rule] gives less than [unsureBelow] is none. */
@Serializable
data class Confidence(
    val temperature: Double,
    val rule: String,
    val unsureBelow: Double,
    val nImages: Int
)

/** One model of a cascade: the next one is asked where the best two probabilities are closer than [threshold]. */
@Serializable
data class Member(
    val name: String,
    val artifactSha256: String,
    val confidence: Confidence,
    val threshold: Double?,
    val variants: Map<String, String>
)

@Serializable
data class FileRecord(
    val path: String,
    val sha256: String,
    val fileBytes: Long
)

@Serializable
data class Coverage(
    val modulesInt8: Int,
    val modulesTotal: Int,
    val parametersInt8Fraction: Double,
    val macsInt8Fraction: Double
)

@Serializable
data class GoldenImage(
    val widthPx: Int,
    val heightPx: Int,
    val offsetBytes: Long,
    val label: Int?,
    val predicted: Int
)

@Serializable
data class Golden(
    val imagesPath: String,
    val inputsPath: String,
    val logitsPath: String,
    val images: List<GoldenImage>
)

@Serializable
enum class Format(
    val suffix: String?
) {
    @SerialName("torchscript")
    TORCHSCRIPT("pt"),

    @SerialName("ptl")
    PTL("ptl"),

    @SerialName("onnx")
    ONNX("onnx"),

    @SerialName("ort")
    ORT("ort"),

    @SerialName("coreml")
    COREML(null),

    @SerialName("executorch")
    EXECUTORCH("pte"),

    @SerialName("tflite")
    TFLITE("tflite")
}

@Serializable
enum class Precision {
    @SerialName("fp32")
    FP32,

    @SerialName("fp16")
    FP16,

    @SerialName("int8-dynamic")
    INT8_DYNAMIC,

    @SerialName("int8-static")
    INT8_STATIC,

    @SerialName("int8-weights")
    INT8_WEIGHTS,

    @SerialName("palette6")
    PALETTE6,

    @SerialName("palette4")
    PALETTE4
}

@Serializable
enum class InputKind {
    @SerialName("normalized")
    NORMALIZED,

    @SerialName("pixels")
    PIXELS
}

@Serializable
enum class OutputKind {
    @SerialName("logits")
    LOGITS,

    @SerialName("probabilities")
    PROBABILITIES
}

@Serializable
data class Variant(
    val id: String,
    val format: Format,
    val precision: Precision,
    val engine: String?,
    val path: String?,
    val sha256: String?,
    val fileBytes: Long?,
    val inputKind: InputKind,
    val outputKind: OutputKind,
    val batch: Int?,
    val coverage: Coverage?,
    val precisionNote: String,
    val goldenLogitsPath: String?,
    val options: Map<String, JsonPrimitive>,
    val toolchain: Map<String, String>,
    val deterministic: Boolean,
    val outcome: Outcome,
    val reason: String?,
    val durationS: Double
)
