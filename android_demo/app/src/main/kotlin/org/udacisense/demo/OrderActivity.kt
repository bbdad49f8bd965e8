package org.udacisense.demo

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.view.WindowManager
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import org.udacisense.core.Benchmark
import org.udacisense.core.Budget
import org.udacisense.core.Measurement
import org.udacisense.core.MeasurementSet
import org.udacisense.core.Order
import org.udacisense.core.Problem
import org.udacisense.core.Session

/**
 * Takes an order of a desk by extras, shows it while it runs, and leaves its result in the app's own folder.
 *
 * Any app may send one, so it can do no more than run what the bundle lists and write below `results/`.
 */
class OrderActivity : Activity() {
    private val app get() = App.of(this)
    private val rows get() = findViewById<LinearLayout>(R.id.rows)

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.screen_list)
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        findViewById<TextView>(R.id.title).setText(R.string.order_title)
        findViewById<View>(R.id.run).visibility = View.GONE
        if (state == null) take(intent)
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        take(intent)
    }

    private fun take(intent: Intent) {
        rows.removeAllViews()
        findViewById<TextView>(R.id.problem).showOrHide(null)
        val id = Order.id(intent.getStringExtra("order"))
        if (id == null) {
            findViewById<TextView>(R.id.problem).showOrHide(getString(R.string.order_no_id))
            return
        }
        findViewById<TextView>(R.id.intro).text = getString(R.string.order_running, id, intent.getStringExtra("command").orEmpty().take(40))
        busy(true)
        app.background(work = { work(id, intent) }, failed = { fail(id, it) }) {
            busy(false)
            findViewById<TextView>(R.id.intro).text = getString(R.string.order_done, app.results.file(id).path)
        }
    }

    private fun work(
        id: String,
        intent: Intent
    ) {
        app.results.clear(id)
        val bundle = app.bundle()
        app.release()
        val order =
            Order.parse(
                id = id,
                command = intent.getStringExtra("command"),
                variants = intent.getStringExtra("variants"),
                threads = intent.getStringExtra("threads"),
                manifest = bundle.manifest,
                formats = app.runtimes.formats
            )
        app.results.write(id, run(order, bundle))
    }

    private fun run(
        order: Order,
        bundle: org.udacisense.core.Bundle
    ): MeasurementSet {
        val session = Session(bundle, app.runtimes, app.phone.host())
        return when (order.command) {
            Order.Command.SELFTEST -> session.selfTest(order.variants) { show { rows -> rows.addSelfTest(it) } }
            Order.Command.BENCH -> {
                val benchmark = Benchmark(bundle, app.runtimes, app.phone, app.phone.bigCores, budget)
                session.bench(benchmark, benchmark.plan(order.variants, order.threads, ROUNDS)) { row: Measurement ->
                    show { rows -> rows.addTiming(row) }
                }
            }
        }
    }

    private fun show(add: (LinearLayout) -> Unit) = app.onMain { add(rows) }

    /** The desk waits for one of two files: the failure must be written even where nobody looks at the screen. */
    private fun fail(
        id: String,
        problem: Problem
    ) {
        busy(false)
        val told =
            try {
                app.results.writeFailure(id, problem.message.orEmpty())
                problem.message
            } catch (e: Problem) {
                "${problem.message} ${e.message}"
            }
        findViewById<TextView>(R.id.problem).showOrHide(told)
    }

    private fun busy(works: Boolean) {
        findViewById<ProgressBar>(R.id.progress).apply {
            isIndeterminate = works
            visibility = if (works) View.VISIBLE else View.INVISIBLE
        }
    }

    companion object {
        /** Ratios pair cells of one round, so that a warm minute hits both. */
        const val ROUNDS = 3

        /** Of one cell of an order. */
        var budget: Budget = Budget.STANDARD
    }
}
