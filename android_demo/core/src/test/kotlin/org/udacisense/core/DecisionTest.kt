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
    private val variants = Manifest.parse(Fixtures.manifestText()).runnable(setOf(Format.PTL))

    private fun row(
        name: String,
        vararg values: Float
    ) = Cascade.Row(name) { values }

    private fun shares(vararg percent: Double?) = variants.take(percent.size).mapIndexed { i, v -> percent[i]?.let { v.copy(options = v.options + (Rollout.OPTION to JsonPrimitive(it))) } ?: v }

    @Test
    fun `a sure answer asks nobody else`() {
        val decision = Cascade(listOf(row("small", 0.7f, 0.2f, 0.1f), Cascade.Row("large") { error("asked") }), labels).decide()
        assertTrue(decision.isSure)
        assertEquals("small", decision.answeredBy)
        assertEquals(listOf("a", "b", "c"), decision.scores.map { it.label })
    }

    @Test
    fun `an unsure answer is handed to the larger model`() {
        val decision = Cascade(listOf(row("small", 0.4f, 0.35f, 0.25f), row("large", 0.1f, 0.8f, 0.1f)), labels).decide()
        assertTrue(decision.isSure)
        assertEquals("large", decision.answeredBy)
        assertEquals("b", decision.scores.first().label)
    }

    @Test
    fun `where none is sure the answer says so`() {
        val decision = Cascade(listOf(row("small", 0.4f, 0.35f, 0.25f), row("large", 0.3f, 0.4f, 0.3f)), labels).decide()
        assertFalse(decision.isSure)
        assertEquals("large", decision.answeredBy)
    }

    @Test
    fun `a fallback that fails leaves the unsure answer, a first model that fails is heard`() {
        val broken = Cascade.Row("large") { throw Problem("gone") }
        assertEquals("small", Cascade(listOf(row("small", 0.4f, 0.35f, 0.25f), broken), labels).decide().answeredBy)
        assertThrows(Problem::class.java) { Cascade(listOf(broken, row("small", 1f, 0f, 0f)), labels).decide() }
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
        assertEquals(variants[0].id, Rollout.choose(variants, "bundle", "x").id)
    }

    @Test
    fun `shares that cannot be are refused`() {
        assertThrows(Problem::class.java) { Rollout.choose(shares(60.0, 50.0), "bundle", "x") }
        assertThrows(Problem::class.java) { Rollout.choose(shares(-1.0), "bundle", "x") }
        assertThrows(Problem::class.java) { Rollout.choose(emptyList(), "bundle", "x") }
    }

    @Test
    fun `an answer of another length than the labels is refused`() {
        assertThrows(Problem::class.java) { Cascade(listOf(row("small", 0.5f, 0.5f)), labels).decide() }
    }
}
