package org.udacisense.demo

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.view.WindowManager
import android.widget.Button
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import android.widget.ToggleButton
import java.io.File
import org.udacisense.core.Benchmark
import org.udacisense.core.Budget
import org.udacisense.core.Measurement
import org.udacisense.core.Problem
import org.udacisense.core.Session

/** Times every variant on this phone. */
class BenchActivity : Activity() {
    private val app get() = App.of(this)
    private val rows get() = findViewById<LinearLayout>(R.id.rows)
    private val progress get() = findViewById<ProgressBar>(R.id.progress)
    private var running = false

    @Volatile
    private var cancelled = false

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.screen_list)
        // A dark screen would slow the cores down in the middle of a row.
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        findViewById<TextView>(R.id.title).setText(R.string.bench_title)
        findViewById<TextView>(R.id.intro).setText(R.string.bench_intro)
        findViewById<View>(R.id.threads).visibility = View.VISIBLE
        threadCounts().forEach(::addToggle)
        findViewById<Button>(R.id.run).setOnClickListener { if (running) cancelled = true else start() }
        ready()
    }

    override fun onDestroy() {
        cancelled = true
        super.onDestroy()
    }

    private fun threadCounts() = listOf(1, 2, 4).filter { it <= maxOf(app.phone.cores, 1) }

    private fun addToggle(count: Int) {
        val toggle = ToggleButton(this)
        toggle.id = View.generateViewId()
        toggle.tag = count
        toggle.textOn = "$count"
        toggle.textOff = "$count"
        toggle.isChecked = count == 1
        toggle.setBackgroundResource(R.drawable.button_toggle)
        toggle.setTextColor(getColor(R.color.text))
        toggle.stateListAnimator = null
        toggle.contentDescription = resources.getQuantityString(R.plurals.threads, count, count)
        val size = resources.getDimensionPixelSize(R.dimen.touch)
        val place = LinearLayout.LayoutParams(LinearLayout.LayoutParams.WRAP_CONTENT, LinearLayout.LayoutParams.WRAP_CONTENT)
        place.marginStart = resources.getDimensionPixelSize(R.dimen.gap)
        toggle.minimumWidth = size
        toggle.minWidth = size
        toggle.minHeight = size
        findViewById<LinearLayout>(R.id.threads).addView(toggle, place)
    }

    private fun chosenThreads(): List<Int> {
        val group = findViewById<LinearLayout>(R.id.threads)
        return (0 until group.childCount).mapNotNull { group.getChildAt(it) as? ToggleButton }.filter { it.isChecked }.map { it.tag as Int }
    }

    private fun start() {
        val threads = chosenThreads().ifEmpty { listOf(1) }
        running = true
        cancelled = false
        rows.removeAllViews()
        progress.progress = 0
        progress.visibility = View.VISIBLE
        findViewById<Button>(R.id.run).setText(R.string.bench_stop)
        findViewById<TextView>(R.id.problem).showOrHide(null)
        findViewById<TextView>(R.id.saved).showOrHide(null)
        app.background(work = { run(threads) }, failed = ::showProblem) { saved ->
            findViewById<TextView>(R.id.saved).showOrHide(getString(R.string.saved, saved.name))
            ready()
        }
    }

    private fun run(threads: List<Int>): File {
        val bundle = app.bundle()
        app.release()
        val benchmark = Benchmark(bundle, app.runtimes, app.phone, app.phone.bigCores, Budget.QUICK)
        val cells = benchmark.plan(app.runnable(bundle), threads, rounds = 1)
        app.onMain { progress.max = cells.size }
        val result =
            Session(bundle, app.runtimes, app.phone.host()).bench(benchmark, cells, cancelled = { cancelled }) { measured ->
                app.onMain { showRow(measured) }
            }
        return app.results.save(result)
    }

    private fun showRow(measured: Measurement) {
        progress.progress += 1
        rows.addTiming(measured)
        showPhone()
    }

    private fun showProblem(problem: Problem) {
        findViewById<TextView>(R.id.problem).showOrHide(problem.message)
        ready()
    }

    private fun ready() {
        running = false
        progress.visibility = View.INVISIBLE
        findViewById<Button>(R.id.run).setText(R.string.bench_run)
        showPhone()
    }

    private fun showPhone() {
        val state = app.phone.read()
        val heat = state.thermalStatus?.let { resources.getStringArray(R.array.thermal).getOrNull(it) } ?: getString(R.string.unknown)
        val battery = state.batteryPercent?.let { getString(R.string.percent, "$it") } ?: getString(R.string.unknown)
        val cores = app.phone.cores
        val big = app.phone.bigCores
        val told = if (big == null) resources.getQuantityString(R.plurals.cores, cores, cores) else resources.getQuantityString(R.plurals.big_cores, big, big, cores)
        findViewById<TextView>(R.id.phone).showOrHide(getString(R.string.bench_phone, heat, battery, told))
    }
}
