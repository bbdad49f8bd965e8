package org.udacisense.demo

import android.content.Intent
import android.widget.Button
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.udacisense.core.Budget
import org.udacisense.core.MeasurementSet
import org.udacisense.core.Outcome

/** Orders of a desk, and the benchmark's screen; what they write is left for the harness to read. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class OrderTest {
    @Before
    fun quick() {
        OrderActivity.budget = Budget(warmup = 1, minSamples = 5, minS = 0.0, maxS = 0.5)
    }

    private fun order(vararg extras: Pair<String, String>): OrderActivity {
        val intent = Intent(Screens.context, OrderActivity::class.java)
        extras.forEach { (name, value) -> intent.putExtra(name, value) }
        return Robolectric.buildActivity(OrderActivity::class.java, intent).setup().get().also { Screens.settle() }
    }

    private fun read(file: File) = MeasurementSet.parse(file.readText(), file.name)

    private fun keep(
        file: File,
        name: String = file.name
    ) = file.copyTo(Screens.fixtures.resolve("results/$name"), overwrite = true)

    @Test
    fun `a bench order leaves a row for each variant, thread count and round`() {
        val app = Screens.phoneWith("tiny")
        // Twice, so that the harness has two to compare.
        for (id in listOf("b1", "b2")) {
            order("command" to "bench", "order" to id, "variants" to "ptl-fp32-xnnpack,onnx-fp32", "threads" to "1,2")
            val set = read(app.results.file(id))
            assertEquals("bench", set.kind)
            assertEquals(2 * 2 * OrderActivity.ROUNDS, set.measurements.size)
            assertEquals(app.bundle().sha256, set.bundleSha256)
            for (row in set.measurements) {
                assertEquals(row.reason, Outcome.PASSED, row.outcome)
                assertTrue(row.timing!!.medianMs > 0 && row.timing!!.loadMs > 0 && row.timing!!.firstMs > 0)
                assertEquals("android-app", row.spec.runner)
            }
            keep(app.results.file(id))
        }
    }

    @Test
    fun `a self-test order leaves the harness's comparison of every variant`() {
        val app = Screens.phoneWith("p1")
        order("command" to "selftest", "order" to "s1", "variants" to "all")
        val set = read(app.results.file("s1"))
        assertEquals("verify", set.kind)
        assertEquals(app.runnable(app.bundle()).map { it.id }, set.measurements.map { it.spec.variantId })
        val provable = app.runnable(app.bundle()).filter(Screens::provable).map { it.id }
        for (row in set.measurements.filter { it.spec.variantId in provable }) {
            assertEquals("${row.spec.variantId}: ${row.reason}", Outcome.PASSED, row.outcome)
            assertTrue(row.comparison!!.nInputs > 6)
        }
        keep(app.results.file("s1"))
    }

    @Test
    fun `an order that cannot be done leaves its reason`() {
        val app = Screens.phoneWith("tiny")
        for ((id, extras) in mapOf("f1" to ("variants" to "../../x.ptl"), "f2" to ("command" to "rm"), "f3" to ("threads" to "0"))) {
            order("command" to "bench", "order" to id, extras)
            assertTrue(id, app.results.failure(id).isFile)
            assertFalse(id, app.results.file(id).exists())
        }
        Screens.phoneWith(null)
        order("command" to "selftest", "order" to "f4")
        assertTrue(app.results.failure("f4").readText().contains("no bundle"))
    }

    @Test
    fun `an id that is no plain name writes nothing at all`() {
        val app = Screens.phoneWith("tiny")
        for (id in listOf("../x", "a b", "")) order("command" to "selftest", "order" to id)
        assertEquals(emptyList<String>(), app.results.file("x").parentFile!!.list().orEmpty().toList())
    }

    @Test
    fun `one damaged variant fails alone`() {
        val app = Screens.phoneWith("tiny") { it.resolve("model-onnx-fp32.onnx").appendText("x") }
        order("command" to "selftest", "order" to "d1", "variants" to "onnx-fp32,ptl-fp32-xnnpack")
        val rows = read(app.results.file("d1")).measurements
        assertEquals(listOf(Outcome.FAILED, Outcome.PASSED), rows.map { it.outcome })
        assertTrue(rows[0].reason!!.contains("damaged"))
    }

    @Test
    fun `the benchmark's screen shows every variant and saves what the harness reads`() {
        val app = Screens.phoneWith("tiny")
        val activity = Robolectric.buildActivity(BenchActivity::class.java).setup().get()
        activity.findViewById<Button>(R.id.run).performClick()
        Screens.settle()
        val said = Screens.said(activity.findViewById(R.id.rows))
        assertTrue("$said", said.containsAll(app.runnable(app.bundle()).map { it.id }))
        val saved = app.results.file("x").parentFile!!.listFiles()!!.single()
        assertTrue(Screens.text(activity, R.id.saved).contains(saved.name))
        assertEquals(app.runnable(app.bundle()).size, read(saved).measurements.size)
        assertTrue(Screens.text(activity, R.id.phone).startsWith("Heat: none"))
        keep(saved, "screen-bench.json")
    }

    @Test
    fun `the self-test's screen saves what the harness reads`() {
        val app = Screens.phoneWith("tiny")
        val activity = Robolectric.buildActivity(SelfTestActivity::class.java).setup().get()
        Screens.settle()
        val saved = app.results.file("x").parentFile!!.listFiles()!!.single()
        assertTrue(Screens.text(activity, R.id.saved).contains(saved.name))
        assertEquals(app.runnable(app.bundle()).map { it.id }, read(saved).measurements.map { it.spec.variantId })
        keep(saved, "screen-verify.json")
    }
}
