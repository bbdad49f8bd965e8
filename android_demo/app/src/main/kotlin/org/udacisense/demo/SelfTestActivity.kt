package org.udacisense.demo

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView
import java.io.File
import org.udacisense.core.Emulator
import org.udacisense.core.MeasurementSet
import org.udacisense.core.Outcome
import org.udacisense.core.Problem
import org.udacisense.core.SelfTest
import org.udacisense.core.Session

/** Proves that this phone computes what the desk computed. */
class SelfTestActivity : Activity() {
    private val app get() = App.of(this)
    private val rows get() = findViewById<LinearLayout>(R.id.rows)

    @Volatile
    private var cancelled = false

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.screen_list)
        findViewById<TextView>(R.id.title).setText(R.string.selftest_title)
        findViewById<TextView>(R.id.intro).setText(R.string.selftest_intro)
        findViewById<Button>(R.id.run).apply {
            setText(R.string.selftest_run)
            setOnClickListener { start() }
        }
        start()
    }

    override fun onDestroy() {
        cancelled = true
        super.onDestroy()
    }

    private fun start() {
        rows.removeAllViews()
        busy(true)
        findViewById<TextView>(R.id.summary).showOrHide(null)
        findViewById<TextView>(R.id.problem).showOrHide(null)
        findViewById<TextView>(R.id.saved).showOrHide(null)
        app.background(work = ::run, failed = ::showProblem) { (result, saved) -> showSummary(result, saved) }
    }

    private fun run(): Pair<MeasurementSet, File?> {
        val bundle = app.bundle()
        app.release()
        val host = app.phone.host()
        val misleading = Emulator.misleading(app.runnable(bundle), host.machine).joinToString { it.id }
        app.onMain { warn(misleading) }
        val inputs = SelfTest(bundle, app.runtimes).checkInputs()
        app.onMain {
            val detail = getString(R.string.selftest_tensor_detail, "${inputs.tensors.size}", digits(inputs.maxAbs), digits(SelfTest.MAX_INPUT_DELTA))
            val outcome = if (inputs.passed) Outcome.PASSED else Outcome.FAILED
            rows.addResult(getString(R.string.selftest_tensor), statusWord(this, outcome), detail, outcome)
        }
        val session = Session(bundle, app.runtimes, host)
        val result = session.selfTest(app.runnable(bundle), cancelled = { cancelled }) { measured -> app.onMain { rows.addSelfTest(measured) } }
        return result to if (cancelled) null else app.results.save(result)
    }

    private fun warn(misleading: String) =
        findViewById<TextView>(R.id.phone).run {
            showOrHide(if (misleading.isEmpty()) null else getString(R.string.selftest_x86, misleading))
            setTextColor(getColor(R.color.bad))
        }

    private fun showSummary(
        result: MeasurementSet,
        saved: File?
    ) {
        busy(false)
        findViewById<TextView>(R.id.saved).showOrHide(saved?.let { getString(R.string.saved, it.name) })
        val passed = result.measurements.count { it.outcome == Outcome.PASSED }
        findViewById<TextView>(R.id.summary).apply {
            showOrHide(getString(R.string.selftest_passed, passed, result.measurements.size))
            setTextColor(getColor(if (passed == result.measurements.size && passed > 0) R.color.good else R.color.bad))
        }
    }

    private fun showProblem(problem: Problem) {
        busy(false)
        findViewById<TextView>(R.id.problem).showOrHide(problem.message)
    }

    private fun busy(works: Boolean) {
        findViewById<View>(R.id.run).isEnabled = !works
        findViewById<android.widget.ProgressBar>(R.id.progress).apply {
            isIndeterminate = works
            visibility = if (works) View.VISIBLE else View.INVISIBLE
        }
    }
}
