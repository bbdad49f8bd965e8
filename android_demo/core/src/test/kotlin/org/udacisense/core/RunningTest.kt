package org.udacisense.core

import java.io.File
import kotlinx.serialization.json.JsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** Failures and orders; the real runtimes are tested with the screens. */
class RunningTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle by lazy { Fixtures.open(Fixtures.bundles.last(), temporary.newFolder("cache")) }
    private val variants by lazy { bundle.manifest.runnable(setOf(Format.PTL)) }
    private val cool = PhoneState(thermalStatus = 0, batteryPercent = 80, charging = false, powerSave = false)

    /** Fails as real runtimes do; answers [values] otherwise. */
    private class Failing(
        private val onLoad: Throwable? = null,
        private val onRun: Throwable? = null,
        private val values: FloatArray = FloatArray(10) { it.toFloat() }
    ) : Runtime {
        override val formats = setOf(Format.PTL)

        override fun load(
            file: File,
            variant: Variant,
            signature: Signature,
            threads: Int
        ): Classifier {
            onLoad?.let { throw it }
            return object : Classifier {
                override val actual = mapOf("threads" to JsonPrimitive(threads))

                override fun run(input: FloatArray): FloatArray = onRun?.let { throw it } ?: values

                override fun close() = Unit
            }
        }
    }

    private fun selfTest(runtime: Runtime): Measurement = SelfTest(bundle, Runtimes(listOf(runtime))).let { it.run(variants.first(), it.checkInputs()) }

    private fun bench(
        runtime: Runtime,
        watch: PhoneWatch
    ): Measurement {
        val benchmark = Benchmark(bundle, Runtimes(listOf(runtime)), watch, 4, Budget(1, 5, 0.0, 0.05))
        return benchmark.run(Benchmark.Cell(variants.first(), 2, 0))
    }

    @Test
    fun `whatever a native library throws becomes a sentence`() {
        val failures =
            listOf(
                Failing(onLoad = OutOfMemoryError()),
                Failing(onLoad = UnsatisfiedLinkError("no pytorch_jni_lite")),
                Failing(onLoad = IllegalStateException("PytorchStreamReader failed")),
                Failing(onRun = RuntimeException("shape '[1, 3]' is invalid")),
                Failing(onRun = OutOfMemoryError()),
                Failing(values = FloatArray(7)),
                Failing(values = FloatArray(10) { Float.NaN })
            )
        for (failing in failures) {
            val measured = selfTest(failing)
            assertEquals(Outcome.FAILED, measured.outcome)
            assertTrue(measured.reason, measured.reason!!.length > 20 && variants.first().id in measured.reason!!)
            val timed = bench(failing) { cool }
            assertEquals(Outcome.FAILED, timed.outcome)
            assertNull(timed.timing)
        }
    }

    @Test
    fun `wrong answers fail the self-test`() {
        val measured = selfTest(Failing())
        assertEquals(Outcome.FAILED, measured.outcome)
        assertTrue(measured.comparison!!.flips.isNotEmpty())
    }

    @Test
    fun `a phone that throttles stops the sampling and is marked`() {
        var asked = 0
        val watch = PhoneWatch { if (asked++ < 3) cool else cool.copy(thermalStatus = 3) }
        val measured = bench(Failing(), watch)
        assertEquals(JsonPrimitive(0), measured.actual["thermal_before"])
        assertEquals(JsonPrimitive(3), measured.actual["thermal_during"])
        assertTrue(measured.warnings.any { it.startsWith("THROTTLED") })
        assertTrue(measured.timing!!.samplesMs.size < 5)
    }

    @Test
    fun `a phone that throttles before is skipped with its reason`() {
        val measured = bench(Failing()) { cool.copy(thermalStatus = 2) }
        assertEquals(Outcome.SKIPPED, measured.outcome)
        assertTrue("throttles" in measured.reason!!)
    }

    @Test
    fun `each round has its own order and every cell`() {
        val benchmark = Benchmark(bundle, Runtimes(listOf(Failing())), { cool }, null, Budget.QUICK)
        val plan = benchmark.plan(variants, listOf(1, 2), rounds = 3)
        assertEquals(variants.size * 2 * 3, plan.toSet().size)
        val orders = plan.groupBy { it.round }.values.map { cells -> cells.map { it.variant.id to it.threads } }
        assertTrue(orders.distinct().size > 1)
    }

    @Test
    fun `sampling counts as the harness does`() {
        var now = 0L
        val samples = collectSamples(Budget(warmup = 12, minSamples = 4, minS = 0.0, maxS = 1.0), clock = { now }) { now += 5_000_000 }
        assertEquals(List(10) { 5.0 }, samples.earlyMs)
        assertEquals(List(4) { 5.0 }, samples.samplesMs)
        assertEquals(1, samples.callsPerSample)
        now = 0
        val short = collectSamples(Budget(warmup = 0, minSamples = 2, minS = 0.0, maxS = 1.0), clock = { now }) { now += 300_000 }
        assertEquals(4, short.callsPerSample)
        assertEquals(listOf(0.3, 0.3), short.samplesMs)
    }

    @Test
    fun `an order names variants of the manifest and nothing else`() {
        val formats = setOf(Format.PTL)

        fun parse(
            command: String? = "bench",
            names: String? = null,
            threads: String? = null
        ) = Order.parse("a1", command, names, threads, bundle.manifest, formats)
        assertEquals(variants, parse().variants)
        assertEquals(listOf(1, 4), parse(names = variants[0].id, threads = "1,4").threads)
        for (bad in listOf("../${variants[0].id}", variants[0].path!!, "/sdcard/x.ptl", "", "onnx-fp32", "nothing")) {
            assertThrows(bad, Problem::class.java) { parse(names = bad) }
        }
        for (bad in listOf("0", "-1", "65", "1,", "two", "1;2")) assertThrows(bad, Problem::class.java) { parse(threads = bad) }
        assertThrows(Problem::class.java) { parse(command = "rm") }
        assertThrows(Problem::class.java) { parse(command = null) }
        assertThrows(Problem::class.java) { parse(command = "selftest", threads = "2") }
    }

    @Test
    fun `an order's id that is no plain name writes nothing`() {
        for (bad in listOf(null, "", "a/b", "..", "a b", "x".repeat(65), "ä")) assertNull(Order.id(bad))
        assertEquals("run_1-A", Order.id("run_1-A"))
    }

    @Test
    fun `results are whole, and an older result of the same order is gone`() {
        val results = Results(temporary.newFolder("results"))
        results.writeFailure("a1", "no bundle")
        assertEquals("{\n  \"order\": \"a1\",\n  \"error\": \"no bundle\"\n}\n", results.failure("a1").readText())
        results.clear("a1")
        assertTrue(!results.failure("a1").exists())
        results.write("a1", set(listOf(selfTest(Failing()))))
        val read = MeasurementSet.parse(results.file("a1").readText(), "a1.json")
        assertEquals("android-app", read.measurements.single().spec.runner)
        assertEquals(listOf("a1.json"), results.file("a1").parentFile.list()!!.toList())
    }

    private fun set(rows: List<Measurement>): MeasurementSet {
        val host = Host("Android 15", "arm64-v8a", "test", 8, 8, 1L shl 33, null, null, "none", emptyMap(), null, null)
        return Session(bundle, Runtimes(listOf(Failing())), host).selfTest(emptyList()).copy(measurements = rows)
    }
}
