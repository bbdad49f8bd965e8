package org.udacisense.core

import kotlin.math.abs
import kotlin.math.max

/** Replays the golden pack: pixels → tensor → logits → label, against what the desk computed. */
class SelfTest(
    private val bundle: Bundle,
    private val runtimes: Runtimes
) {
    /** How far the tensors made here are from the desk's. */
    class InputCheck(
        val tensors: List<FloatArray>,
        val maxAbs: Double
    ) {
        val passed: Boolean get() = maxAbs <= MAX_INPUT_DELTA
    }

    /** Throws [Problem] where the golden pack cannot be read. */
    fun checkInputs(): InputCheck {
        val signature = bundle.manifest.signature
        val golden = bundle.golden
        var largest = 0.0
        val tensors =
            golden.photos.mapIndexed { i, photo ->
                val made = Preprocess.normalise(Preprocess.fitSquare(photo, signature.sizePx), signature)
                for (j in made.indices) largest = max(largest, abs(made[j].toDouble() - golden.inputs[i][j]))
                made
            }
        return InputCheck(tensors, largest)
    }

    /** Replays one variant; whatever goes wrong is in the measurement's reason. */
    fun run(
        variant: Variant,
        inputs: InputCheck
    ): Measurement {
        val limit = Limit.of(variant)
        val spec = RunSpec.of(variant, threads = 1, budget = Budget(0, bundle.golden.photos.size, 0.0, 0.0))
        val actual = linkedMapOf("input_max_abs" to scalar(inputs.maxAbs))
        return try {
            val file = bundle.modelFile(variant)
            val signature = bundle.manifest.signature
            val outputs =
                runtimes.load(file, variant, signature, 1).use { classifier ->
                    actual += classifier.actual
                    bundle.golden.photos.indices.map { classifier.answer(input(it, variant, inputs), variant, signature) }
                }
            // What int8 loses against the float32 model is the desk's to judge; here the desk's own answer of this variant is met.
            val expected = bundle.golden.expected(variant)
            val decisions = if (variant.goldenLogitsPath == null) bundle.golden.masterLogits else expected
            val comparison = Compare.compare(outputs, expected, decisions, limit)
            val problems = Compare.judge(comparison, limit).toMutableList()
            if (!inputs.passed) problems.add(0, "tensors differ from the desk's by %.3g, %.0e allowed".en(inputs.maxAbs, MAX_INPUT_DELTA))
            val outcome = if (problems.isEmpty()) Outcome.PASSED else Outcome.FAILED
            Measurement(spec, actual, comparison, null, emptyList(), outcome, problems.joinToString("; ").ifEmpty { null })
        } catch (e: Problem) {
            Measurement(spec, actual, null, null, emptyList(), Outcome.FAILED, e.message)
        }
    }

    private fun input(
        index: Int,
        variant: Variant,
        inputs: InputCheck
    ): FloatArray =
        when (variant.inputKind) {
            InputKind.NORMALIZED -> inputs.tensors[index]
            InputKind.PIXELS -> {
                val signature = bundle.manifest.signature
                Preprocess.tensor(Preprocess.fitSquare(bundle.golden.photos[index], signature.sizePx), signature, InputKind.PIXELS)
            }
        }

    companion object {
        const val MAX_INPUT_DELTA = 1e-5
    }
}
