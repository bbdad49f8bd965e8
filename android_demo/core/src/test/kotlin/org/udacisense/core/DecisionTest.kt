package org.udacisense.core

import kotlinx.serialization.json.JsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class DecisionTest {
    private val labels = listOf("a", "b", "c")
    private val manifest = Manifest.parse(Fixtures.manifestText())
    private val variants = manifest.runnable(setOf(Format.PTL))
    private val fitted = Confidence(temperature = 2.0, rule = "margin", unsureBelow = 0.1, nImages = 500)
    private val cascade = Choice("home · ptl", listOf(ask("small", 0, 0.3), ask("middle", 1, 0.25), ask("large", 2, null)))

    private fun ask(
        name: String,
        at: Int,
        threshold: Double?
    ) = Ask(name, variants[at].copy(outputKind = OutputKind.PROBABILITIES), fitted, threshold)

    /** What each answers; who is not in the list must not be asked. */
    private fun decide(vararg answers: FloatArray) =
        answers.iterator().let { next -> cascade.decide(labels) { if (next.hasNext()) next.next() else error("asked") } }

    private fun shares(vararg percent: Double?) =
        percent.mapIndexed { i, share ->
            val options = variants[i].options - Rollout.OPTION + listOfNotNull(share?.let { Rollout.OPTION to JsonPrimitive(it) })
            Choice(variants[i].id, listOf(Ask(variants[i].id, variants[i].copy(options = options), fitted, null)))
        }

    @Test
    fun `a sure answer asks nobody else, and a margin of the threshold is sure`() {
        val decision = decide(floatArrayOf(0.625f, 0.25f, 0.125f))
        assertEquals(listOf("small"), decision.asked.map { it.name })
        assertEquals(listOf("a", "b", "c"), decision.scores.map { it.label })
        val equal = decide(floatArrayOf(0.4f, 0.35f, 0.25f), floatArrayOf(0.5f, 0.25f, 0.25f))
        assertEquals("0.25 is enough", "middle", equal.answeredBy.name)
    }

    @Test
    fun `an unsure answer is handed on, and the last one always answers`() {
        val decision = decide(floatArrayOf(0.4f, 0.35f, 0.25f), floatArrayOf(0.4f, 0.3f, 0.3f), floatArrayOf(0.3f, 0.45f, 0.25f))
        assertEquals(listOf("small", "middle", "large"), decision.asked.map { it.name })
        assertEquals("b", decision.scores.first().label)
        assertTrue(decision.isSure)
        assertNull(decision.failure)
    }

    @Test
    fun `below the answering model's own limit it is none of these`() {
        val unsure = floatArrayOf(0.36f, 0.33f, 0.31f)
        assertFalse(decide(unsure, unsure, unsure).isSure)
    }

    @Test
    fun `one that fails leaves the answer before it, a first one that fails is heard`() {
        fun failing(at: Int) =
            (0..2).iterator().let { next -> cascade.decide(labels) { if (next.next() == at) throw Problem("gone") else floatArrayOf(0.4f, 0.35f, 0.25f) } }
        val skipped = failing(1)
        assertEquals(listOf("small", "large"), skipped.asked.map { it.name })
        assertEquals("gone", skipped.failure!!.message)
        assertEquals("middle", failing(2).answeredBy.name)
        assertThrows(Problem::class.java) { failing(0) }
    }

    @Test
    fun `logits are divided by the temperature`() {
        val hot = Choice("x", listOf(Ask("x", variants[0].copy(outputKind = OutputKind.LOGITS), fitted, null)))
        val decision = hot.decide(labels) { floatArrayOf(2f, 0f, 0f) }
        assertEquals(Math.E / (Math.E + 2), decision.scores.first().probability, 1e-12)
    }

    @Test
    fun `a cascade is chosen as one, where the app runs every member's file`() {
        val members =
            listOf(
                Member("small", "0", fitted, 0.3, mapOf("fp32" to variants[0].id, "int8" to variants[1].id)),
                Member("large", "1", fitted.copy(unsureBelow = 0.2), null, mapOf("fp32" to variants[2].id, "int8" to "onnx-fp32"))
            )
        val choices = manifest.copy(members = members).choices(setOf(Format.PTL))
        assertEquals("${manifest.name} · fp32", choices.first().id)
        assertEquals(listOf("small", "large"), choices.first().asks.map { it.name })
        assertEquals(listOf(0.3, null), choices.first().asks.map { it.threshold })
        assertEquals("of one cascade each file can be taken alone", variants.map { it.id }, choices.drop(1).map { it.id })
        assertEquals(0.2, choices.first { it.id == variants[2].id }.asks.first().confidence.unsureBelow, 0.0)
        assertEquals(choices.first(), Rollout.choose(choices, "bundle", "x"))
    }

    @Test
    fun `a file alone has the manifest's numbers, and those of an older bundle are named`() {
        val int8 = variants.first { it.precision == Precision.INT8_DYNAMIC }
        for ((confidence, wanted) in listOf(fitted to fitted, null to UNFITTED)) {
            val small = variants.map { if (it.id == int8.id) it.copy(fileBytes = 1) else it }
            val choices = manifest.copy(confidence = confidence, variants = small).choices(setOf(Format.PTL)).associateBy { it.id }
            val (first, larger) = choices.getValue(int8.id).asks
            assertEquals(wanted to wanted.unsureBelow, first.confidence to first.threshold)
            assertEquals(Precision.FP32 to null, larger.variant.precision to larger.threshold)
            assertEquals(1, choices.getValue("ptl-fp32").asks.size)
        }
    }

    @Test
    fun `use counts who was asked and who answered, and keeps their times`() {
        val call = Call(loadMs = 9.0, firstMs = 3.0, ms = 2.0, actual = mapOf("runtime" to JsonPrimitive("x")))
        val unsure = floatArrayOf(0.36f, 0.33f, 0.31f)
        var rows = emptyList<Measurement>()
        for (answers in listOf(arrayOf(floatArrayOf(0.8f, 0.1f, 0.1f)), arrayOf(unsure, unsure, unsure), arrayOf(unsure, floatArrayOf(0.8f, 0.1f, 0.1f)))) {
            rows = Use(rows).plus(cascade, decide(*answers), List(3) { call }, threads = 4)
        }
        assertEquals(listOf(1, 1, 1), Use(rows).answered(cascade).map { it.second })
        val counts = rows.associate { it.actual["member"]!!.content to listOf("asked", "answered", "none_of_these").map { name -> it.actual[name]!!.content.toInt() } }
        assertEquals(mapOf("small" to listOf(3, 1, 0), "middle" to listOf(2, 1, 0), "large" to listOf(1, 1, 1)), counts)
        assertEquals(listOf(2.0, 2.0, 2.0), rows.first { it.actual["member"]!!.content == "small" }.timing!!.samplesMs)
        assertEquals("of another choice", listOf(0, 0, 0), Use(rows).answered(cascade.copy(id = "other")).map { it.second })
    }

    @Test
    fun `the larger model is a float32 one and larger`() {
        val plain = variants.first { it.precision == Precision.FP32 }
        val small = variants.first { it.precision == Precision.INT8_DYNAMIC }.copy(fileBytes = plain.fileBytes!! - 1)
        val larger = largerThan(small, variants)!!
        assertEquals(Precision.FP32, larger.precision)
        assertTrue(larger.fileBytes!! > small.fileBytes!!)
        assertNull("another file of the same weights answers the same", largerThan(plain, variants))
        assertNull(largerThan(small.copy(fileBytes = Long.MAX_VALUE), variants))
    }

    @Test
    fun `shares of installations are those of the manifest`() {
        val rows = shares(10.0, 30.0, null)
        val chosen = (0 until 20_000).groupingBy { Rollout.choose(rows, "bundle", "installation-$it").id }.eachCount()
        assertEquals(2_000.0, chosen.getValue(rows[0].id).toDouble(), 200.0)
        assertEquals(6_000.0, chosen.getValue(rows[1].id).toDouble(), 300.0)
        assertEquals(12_000.0, chosen.getValue(rows[2].id).toDouble(), 400.0)
    }

    @Test
    fun `an installation keeps its variant, and a raised share only adds`() {
        for (i in 0 until 500) {
            val id = "installation-$i"
            val before = Rollout.choose(shares(10.0, null), "bundle", id)
            assertEquals(before.id, Rollout.choose(shares(10.0, null), "bundle", id).id)
            if (before.id == variants[0].id) assertEquals(before.id, Rollout.choose(shares(40.0, null), "bundle", id).id)
        }
        // Known points: they must never move, or installations would change variants with an update of the app.
        assertEquals(68.99554006364177, Rollout.point("bundle", "installation-0"), 1e-9)
    }

    @Test
    fun `without shares everyone gets the first variant`() {
        assertEquals(variants[0].id, Rollout.choose(shares(null, null), "bundle", "x").id)
    }

    @Test
    fun `shares that cannot be are refused`() {
        assertThrows(Problem::class.java) { Rollout.choose(shares(60.0, 50.0), "bundle", "x") }
        assertThrows(Problem::class.java) { Rollout.choose(shares(-1.0), "bundle", "x") }
        assertThrows(Problem::class.java) { Rollout.choose(emptyList(), "bundle", "x") }
    }

    @Test
    fun `shares beside the bundle are of files and of cascades, and go before the manifest's`() {
        val choices = shares(100.0, null) + Choice("home · ptl", cascade.asks)
        val given = Shares.parse("""{"schema_version": 1, "percent": {"ptl": 25.0, "${variants[1].id}": 75.0}}""")
        val chosen = (0 until 4_000).groupingBy { Rollout.choose(choices, "home", "installation-$it", given).id }.eachCount()
        assertEquals(setOf(variants[1].id, "home · ptl"), chosen.keys)
        assertEquals(1_000.0, chosen.getValue("home · ptl").toDouble(), 120.0)
        assertThrows(Problem::class.java) { Rollout.choose(choices, "home", "x", mapOf("ptl" to 101.0)) }
        assertThrows(Problem::class.java) { Shares.parse("""{"schema_version": 1}""") }
    }

    @Test
    fun `an answer of another length than the labels is refused`() {
        assertThrows(Problem::class.java) { decide(floatArrayOf(0.9f, 0.1f)) }
    }
}
