package org.udacisense.demo

import android.content.Intent
import android.net.Uri
import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.boolean
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.udacisense.core.MeasurementSet
import org.udacisense.core.Outcome
import org.udacisense.core.RgbImage
import org.udacisense.core.Rollout
import org.udacisense.core.Shares

/** The cascade of a bundle, in the phone's own libraries, held against the desk's decisions. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class CascadeTest {
    private val replay = Screens.fixtures.resolve("replay")

    private fun open(photo: File): ActivityController<MainActivity> {
        val intent = Intent(Screens.context, MainActivity::class.java).setAction(Intent.ACTION_SEND).putExtra(Intent.EXTRA_STREAM, Uri.fromFile(photo))
        return Robolectric.buildActivity(MainActivity::class.java, intent).setup().also { Screens.settle() }
    }

    @Test
    fun `the second member is asked exactly where the desk asked it`() {
        val app = Screens.phoneWith("cascade")
        val bundle = app.bundle()
        val labels = bundle.manifest.signature.labels
        val names = bundle.manifest.members!!.map { it.name }
        val edge = bundle.manifest.signature.sizePx
        val desk = Json.parseToJsonElement(replay.resolve("decisions.json").readText()).jsonObject.mapValues { it.value.jsonArray.map { one -> one.jsonPrimitive } }
        val wanted = desk.getValue("who").indices.map { Triple(names[desk.getValue("who")[it].int], labels[desk.getValue("label")[it].int], desk.getValue("known")[it].boolean) }
        val pixels = replay.resolve("images.u8").readBytes()
        val photos = List(wanted.size) { RgbImage(edge, edge, pixels.copyOfRange(it * edge * edge * 3, (it + 1) * edge * edge * 3)) }
        assertEquals(100, photos.size)
        val cascades = app.choices(bundle).filter { it.file == null }
        assertTrue("$cascades", cascades.map { it.asks.first().variant.format }.toSet().size >= 3)
        for (choice in cascades) {
            val got = photos.map { photo -> app.look(bundle, choice, photo).first.run { Triple(answeredBy.name, scores.first().label, isSure) } }
            assertEquals(choice.id, wanted, got)
        }
    }

    @Test
    fun `the shares that the desk wrote decide what an installation runs`() {
        val app = Screens.phoneWith("cascade") { replay.resolve(Shares.FILE_NAME).copyTo(it.resolve(Shares.FILE_NAME)) }
        val bundle = app.bundle()
        assertEquals(mapOf("onnx-fp32" to 60.0, "p1.ptl-fp32" to 40.0), bundle.shares)
        val chosen = List(500) { Rollout.choose(app.choices(bundle), bundle.manifest.name, "installation-$it", bundle.shares).id }.groupingBy { it }.eachCount()
        assertEquals(setOf("cascade · onnx-fp32", "p1.ptl-fp32"), chosen.keys)
        assertEquals(300.0, chosen.getValue("cascade · onnx-fp32").toDouble(), 40.0)
        assertTrue(app.chosen(bundle).id in chosen)
        context().resolve(Shares.FILE_NAME).delete()
        assertEquals("a push without shares ends them", "cascade · ptl-fp32", app.chosen(app.bundle()).id)
    }

    private fun context() = Screens.context.getExternalFilesDir("bundle")!!

    @Test
    fun `the screen says who answered and why, and counts`() {
        val app = Screens.phoneWith("cascade")
        val asked = open(replay.resolve("asked.png"))
        val activity = asked.get()
        assertEquals("cascade · ptl-fp32", Screens.text(activity, R.id.variant))
        val told = Screens.text(activity, R.id.latency)
        assertTrue(told, told.endsWith("ms · p1 answered: tiny was not sure"))
        assertEquals("Answered on this phone: tiny 0 · p1 1", Screens.text(activity, R.id.counts))
        asked.recreate()
        Screens.settle()
        assertEquals("a photo is counted once", "Answered on this phone: tiny 0 · p1 1", Screens.text(asked.get(), R.id.counts))
        val none = open(replay.resolve("none.png")).get()
        assertEquals("Not one of these", Screens.text(none, R.id.label))
        assertTrue(Screens.text(none, R.id.latency).startsWith("nearest: "))
        val saved = app.results.file("x").parentFile!!.listFiles()!!.single()
        val set = MeasurementSet.parse(saved.readText(), saved.name)
        assertEquals("use" to "photos in the app", set.kind to set.inputs)
        val counts = set.measurements.associate { it.actual["member"]!!.jsonPrimitive.content to listOf("asked", "answered", "none_of_these").map { name -> it.actual[name]!!.int } }
        assertEquals(mapOf("tiny" to listOf(2, 0, 0), "p1" to listOf(2, 2, 1)), counts)
        assertTrue(set.measurements.all { it.outcome == Outcome.PASSED && it.timing!!.samplesMs.size == 2 })
        saved.copyTo(Screens.fixtures.resolve("results/use.json"), overwrite = true)
    }
}
