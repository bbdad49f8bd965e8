package org.udacisense.demo

import android.view.View
import android.widget.LinearLayout
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowBuild
import org.udacisense.core.Emulator

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class SelfTestScreenTest {
    private fun run(): SelfTestActivity = Robolectric.buildActivity(SelfTestActivity::class.java).setup().get().also { Screens.settle() }

    @Test
    fun `passes for every variant of every model`() {
        for (name in listOf("baseline", "p1", "tiny")) {
            val app = Screens.phoneWith(name) { folder ->
                val provable = org.udacisense.core.Manifest.parse(folder.resolve("manifest.json").readText()).variants.filter(Screens::provable)
                Screens.keepOnly(folder) { id -> provable.any { it.id == id } }
            }
            val activity = run()
            val said = Screens.said(activity.findViewById<LinearLayout>(R.id.rows))
            val ids = app.runnable(app.bundle()).map { it.id }
            assertTrue("$name: $ids", ids.containsAll(listOf("ptl-fp32", "ptl-fp32-xnnpack", "ptl-int8-dynamic-qnnpack", "ptl-int8-static-qnnpack", "onnx-fp32", "ort-fp32")))
            assertEquals("$name: $said", "${ids.size} of ${ids.size} variants passed", Screens.text(activity, R.id.summary))
            assertTrue(said.containsAll(ids))
            assertEquals("passed", said[1])
            assertEquals("", Screens.text(activity, R.id.phone))
            activity.finish()
        }
    }

    @Test
    fun `a plain ptl of an older exporter is not to be tested on an x86 emulator`() {
        ShadowBuild.setSupportedAbis(arrayOf("x86_64"))
        val option = "\"${Emulator.OPTION}\":\\d+"
        for (older in listOf(true, false)) {
            Screens.phoneWith("tiny") { folder ->
                Screens.keepOnly(folder) { id -> id in listOf("ptl-fp32", "ptl-fp32-xnnpack") }
                val manifest = folder.resolve("manifest.json")
                val text = manifest.readText()
                assertTrue(Regex(option).containsMatchIn(text))
                if (older) manifest.writeText(text.replace(Regex(",$option|$option,|$option"), ""))
            }
            val activity = run()
            val said = Screens.text(activity, R.id.phone)
            assertEquals(said, older, said.startsWith("Do not test ptl-fp32 on this x86 emulator"))
            assertEquals(older, activity.findViewById<View>(R.id.phone).visibility == View.VISIBLE)
            activity.finish()
        }
    }
}
