package org.udacisense.core

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.double
import kotlinx.serialization.json.doubleOrNull
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

/** The same recorded numbers in both languages: what the harness says of them stands in `numbers.json`. */
class NumbersTest {
    private val numbers = Json.parseToJsonElement(Fixtures.folder.resolve("numbers.json").readText()).jsonObject

    private fun JsonObject.number(name: String): Double? = getValue(name).jsonPrimitive.doubleOrNull

    private fun rows(name: String) = rows(numbers, name)

    private fun rows(
        from: JsonObject,
        name: String
    ) = from.getValue(name).jsonArray.map { row -> row.jsonArray.map { it.jsonPrimitive.content.toFloat() }.toFloatArray() }

    @Test
    fun `recorded samples have the harness's statistics`() {
        val recorded = numbers.getValue("samples").jsonArray
        assertTrue(recorded.size >= 5)
        for (entry in recorded.map { it.jsonObject }) {
            val name = entry.getValue("name").jsonPrimitive.content
            val wanted = entry.getValue("summary").jsonObject
            val got = Summary.of(entry.getValue("samples_ms").jsonArray.map { it.jsonPrimitive.double })
            assertEquals(name, wanted.number("median_ms")!!, got.medianMs, 1e-12)
            assertEquals(name, wanted.number("p90_ms")!!, got.p90Ms, 1e-12)
            assertEquals(name, wanted.number("p99_ms")!!, got.p99Ms, 1e-12)
            assertEquals(name, wanted.number("iqr_fraction")!!, got.iqrFraction, 1e-12)
            assertEquals(name, wanted.number("drift_fraction")!!, got.driftFraction, 1e-12)
            assertEquals(name, wanted.getValue("noisy").jsonPrimitive.boolean, got.noisy)
        }
    }

    @Test
    fun `recorded answers are compared as the harness does`() {
        val master = rows("master")
        val limit = Limit.of(Precision.FP32)
        for (entry in numbers.getValue("comparisons").jsonArray.map { it.jsonObject }) {
            val name = entry.getValue("name").jsonPrimitive.content
            val wanted = entry.getValue("comparison").jsonObject
            val got = Compare.compare(rows(entry, "outputs"), master, master, limit)
            assertEquals(name, wanted.getValue("allclose").jsonPrimitive.boolean, got.allclose)
            assertEquals(name, wanted.getValue("nonfinite").jsonPrimitive.int, got.nonfinite)
            val pairs =
                mapOf(
                    "atol" to got.atol,
                    "scale" to got.scale,
                    "max_abs" to got.maxAbs,
                    "mean_abs" to got.meanAbs,
                    "rmse" to got.rmse,
                    "min_cosine" to got.minCosine,
                    "psnr_db" to got.psnrDb,
                    "top1_agreement_fraction" to got.top1AgreementFraction,
                    "top1_agreement_low" to got.top1AgreementLow,
                    "top1_agreement_high" to got.top1AgreementHigh
                )
            for ((key, value) in pairs) {
                val expected = wanted.number(key)
                if (expected == null) assertNull("$name $key", value) else assertEquals("$name $key", expected, value!!, 1e-6 * maxOf(1.0, expected))
            }
            val flips = wanted.getValue("flips").jsonArray.map { it.jsonObject }
            assertEquals(name, flips.map { it.getValue("index").jsonPrimitive.int to it.getValue("label").jsonPrimitive.int }, got.flips.map { it.index to it.label })
        }
    }

    @Test
    fun `answers in millionths are held to their own size`() {
        val master = rows("master").map { row -> FloatArray(row.size) { row[it] * 1e-7f } }
        val limit = Limit.of(Precision.FP32)
        assertEquals(emptyList<String>(), Compare.judge(Compare.compare(master, master, master, limit), limit))
        assertEquals(2, Compare.judge(Compare.compare(master.map { FloatArray(it.size) }, master, master, limit), limit).size)
    }

    @Test
    fun `a broken answer fails whatever its limit`() {
        val master = rows("master")
        val broken = master.map { it.copyOf() }.also { it[3][2] = Float.NaN }
        for (precision in Precision.entries) {
            val limit = Limit.of(precision)
            assertEquals(1, Compare.judge(Compare.compare(broken, master, master, limit), limit).size)
            assertEquals(emptyList<String>(), Compare.judge(Compare.compare(master, master, master, limit), limit))
        }
    }

    @Test
    fun `probabilities are the desk's`() {
        val wanted = rows("softmax")
        rows("master").forEachIndexed { i, logits ->
            val got = Scores.softmax(logits)
            for (j in got.indices) assertEquals(wanted[i][j].toDouble(), got[j], 1e-7)
        }
    }

    @Test
    fun `the limits are the harness's`() {
        val table = numbers.getValue("limits").jsonObject
        for (precision in Precision.entries) {
            val wanted = table.getValue(precision.name.lowercase().replace('_', '-')).jsonObject
            val got = Limit.of(precision)
            assertEquals(wanted.number("rtol")!!, got.rtol, 0.0)
            assertEquals(wanted.number("atol")!!, got.atol, 0.0)
            assertEquals(wanted.getValue("is_close").jsonPrimitive.boolean, got.isClose)
            assertEquals(wanted.number("min_psnr_db"), got.minPsnrDb)
            assertEquals(wanted.number("min_agreement_fraction")!!, got.minAgreementFraction, 0.0)
            assertEquals(wanted.number("tie_margin")!!, got.tieMargin, 0.0)
            assertEquals(wanted.number("max_flip_margin"), got.maxFlipMargin)
        }
    }

    @Test
    fun `ties and decided flips are judged as the harness does`() {
        val judged = numbers.getValue("judged").jsonArray.map { it.jsonObject }
        assertTrue(judged.size >= 5)
        for (entry in judged) {
            val master = rows(entry, "master")
            for (precision in Precision.entries) {
                val limit = Limit.of(precision)
                val problems = Compare.judge(Compare.compare(rows(entry, "outputs"), master, master, limit), limit)
                val wanted = entry.getValue("problems").jsonObject.number(precision.name.lowercase().replace('_', '-'))!!.toInt()
                assertEquals("${entry["name"]} $precision: $problems", wanted, problems.size)
            }
        }
    }
}
