package org.udacisense.demo

import android.content.Context
import android.util.AttributeSet
import android.view.View
import android.view.ViewGroup
import android.widget.ImageView
import android.widget.ProgressBar
import android.widget.TextView
import java.util.Locale
import kotlin.math.roundToInt
import org.udacisense.core.Measurement
import org.udacisense.core.Outcome
import org.udacisense.core.Score

/** As high as it is wide, and no higher than half the screen. */
class SquareImageView(
    context: Context,
    attributes: AttributeSet
) : ImageView(context, attributes) {
    override fun onMeasure(
        widthMeasureSpec: Int,
        heightMeasureSpec: Int
    ) {
        val width = MeasureSpec.getSize(widthMeasureSpec)
        setMeasuredDimension(width, minOf(width, resources.displayMetrics.heightPixels / 2))
    }
}

/** Shows a sentence, or hides its place. */
fun TextView.showOrHide(text: CharSequence?) {
    this.text = text
    visibility = if (text.isNullOrEmpty()) View.GONE else View.VISIBLE
}

/** Three significant digits, in the phone's own way of writing numbers. */
fun digits(value: Double): String =
    when {
        value == 0.0 -> "0"
        value >= 100 -> String.format(Locale.getDefault(), "%.0f", value)
        value >= 10 -> String.format(Locale.getDefault(), "%.1f", value)
        value >= 0.01 -> String.format(Locale.getDefault(), "%.2f", value)
        else -> String.format(Locale.getDefault(), "%.1e", value)
    }

/** A line with its bar, read aloud as one sentence. */
fun ViewGroup.addScore(score: Score) {
    val row = View.inflate(context, R.layout.row_score, null)
    val percent = String.format(Locale.getDefault(), "%.1f", score.probability * 100)
    row.findViewById<TextView>(R.id.name).text = score.label
    row.findViewById<TextView>(R.id.value).text = context.getString(R.string.percent, percent)
    val bar = row.findViewById<ProgressBar>(R.id.bar)
    bar.progress = (score.probability * bar.max).roundToInt()
    row.contentDescription = context.getString(R.string.score_description, score.label, percent)
    addView(row)
}

/** A card with what became of something; the status is told in words too, never by colour alone. */
fun ViewGroup.addResult(
    name: String,
    value: String,
    detail: String,
    outcome: Outcome
) {
    val row = android.view.LayoutInflater.from(context).inflate(R.layout.row_result, this, false)
    row.findViewById<TextView>(R.id.name).text = name
    row.findViewById<TextView>(R.id.value).text = value
    row.findViewById<TextView>(R.id.detail).showOrHide(detail)
    row.findViewById<ImageView>(R.id.status).setImageResource(
        when (outcome) {
            Outcome.PASSED -> R.drawable.ic_passed
            Outcome.FAILED -> R.drawable.ic_failed
            Outcome.SKIPPED -> R.drawable.ic_skipped
        }
    )
    row.contentDescription = listOf(name, statusWord(context, outcome), value, detail).filter { it.isNotEmpty() }.distinct().joinToString(". ")
    addView(row)
}

fun statusWord(
    context: Context,
    outcome: Outcome
): String =
    context.getString(
        when (outcome) {
            Outcome.PASSED -> R.string.status_passed
            Outcome.FAILED -> R.string.status_failed
            Outcome.SKIPPED -> R.string.status_skipped
        }
    )

/** One variant of a self-test. */
fun ViewGroup.addSelfTest(measured: Measurement) {
    val compared = measured.comparison
    val numbers =
        compared?.maxAbs?.let {
            context.getString(R.string.selftest_detail, digits(it), compared.nInputs - compared.flips.size, compared.nInputs)
        }
    val detail = listOfNotNull(numbers, measured.reason).joinToString("\n")
    addResult(measured.spec.variantId, statusWord(context, measured.outcome), detail, measured.outcome)
}

/** One cell of a benchmark. */
fun ViewGroup.addTiming(measured: Measurement) {
    val threads = context.resources.getQuantityString(R.plurals.threads, measured.spec.threads, measured.spec.threads)
    val timing = measured.timing
    val value = timing?.let { context.getString(R.string.bench_median, digits(it.medianMs)) } ?: statusWord(context, measured.outcome)
    val numbers =
        timing?.let {
            val samples = context.resources.getQuantityString(R.plurals.samples, it.samplesMs.size, it.samplesMs.size)
            context.getString(R.string.bench_detail, threads, samples, digits(it.p90Ms), digits(it.loadMs), digits(it.firstMs))
        } ?: threads
    val detail = (listOfNotNull(numbers, measured.reason) + measured.warnings).joinToString("\n")
    addResult(measured.spec.variantId, value, detail, measured.outcome)
}
