package org.udacisense.demo

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.widget.Button
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeNotNull
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Draws every screen as a phone does, for the documents: `desk/test.py --pictures FOLDER --only ...PicturesTest`. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class PicturesTest {
    private val folder = System.getProperty("udacisense.pictures")

    @Before
    fun asked() {
        assumeNotNull("the pictures are drawn where --pictures names a folder", folder)
    }

    private fun inEachLook(draw: (suffix: String) -> Unit) {
        for ((suffix, look) in LOOKS) {
            RuntimeEnvironment.setQualifiers(look.first)
            RuntimeEnvironment.setFontScale(look.second)
            draw(suffix)
        }
    }

    private fun photo(name: String = "photos/clock"): Intent =
        Intent(Intent.ACTION_SEND)
            .setClass(Screens.context, MainActivity::class.java)
            .putExtra(Intent.EXTRA_STREAM, Uri.fromFile(Screens.fixtures.resolve("$name.png")))

    private fun save(
        activity: Activity,
        name: String
    ) {
        val file = File(folder, "$name.png")
        Screens.draw(activity, file)
        assertTrue("$name is empty", file.length() > 5_000)
        activity.finish()
    }

    @Test
    fun classify() =
        inEachLook { suffix ->
            Screens.phoneWith("baseline")
            val activity = Robolectric.buildActivity(MainActivity::class.java, photo()).setup().get()
            Screens.settle()
            save(activity, "classify-$suffix")
        }

    @Test
    fun cascade() =
        inEachLook { suffix ->
            Screens.phoneWith("cascade")
            for (name in listOf("sure" to "photos/clock", "asked" to "replay/asked", "none" to "replay/none")) {
                val activity = Robolectric.buildActivity(MainActivity::class.java, photo(name.second)).setup().get()
                Screens.settle()
                if (name.first == "asked" || suffix == "light") save(activity, "cascade-${name.first}-$suffix")
            }
        }

    @Test
    fun selfTest() =
        inEachLook { suffix ->
            Screens.phoneWith("baseline", ::shorten)
            val activity = Robolectric.buildActivity(SelfTestActivity::class.java).setup().get()
            Screens.settle()
            save(activity, "selftest-$suffix")
        }

    @Test
    fun bench() =
        inEachLook { suffix ->
            Screens.phoneWith("baseline", ::shorten)
            val activity = Robolectric.buildActivity(BenchActivity::class.java).setup().get()
            activity.findViewById<Button>(R.id.run).performClick()
            Screens.settle()
            save(activity, "bench-$suffix")
        }

    @Test
    fun startAndProblem() {
        RuntimeEnvironment.setQualifiers(LOOKS.getValue("light").first)
        Screens.phoneWith("baseline")
        val start = Robolectric.buildActivity(MainActivity::class.java).setup().get()
        Screens.settle()
        save(start, "start-light")
        // A bundle of an earlier release, and two labels of which none is ahead: nothing that the classes know.
        Screens.phoneWith("tiny") { it.resolve("manifest.json").run { writeText(readText().replace(Regex("\"confidence\": \\{[^}]*\\}"), "\"confidence\": null")) } }
        val doubtful = Robolectric.buildActivity(MainActivity::class.java, photo("photos/palette")).setup().get()
        Screens.settle()
        assertEquals("Not sure", Screens.text(doubtful, R.id.label))
        save(doubtful, "not-sure-light")
        Screens.phoneWith("tiny") { it.resolve("model-ptl-fp32.ptl").appendText("x") }
        val broken = Robolectric.buildActivity(MainActivity::class.java, photo()).setup().get()
        Screens.settle()
        save(broken, "damaged-light")
    }

    private fun shorten(folder: File) = Screens.keepOnly(folder) { it.startsWith("ptl-") || it == "onnx-fp32" }

    private companion object {
        val LOOKS =
            mapOf(
                "light" to ("w411dp-h800dp-port-notnight-xhdpi" to 1f),
                "dark" to ("w411dp-h800dp-port-night-xhdpi" to 1f),
                "large-font" to ("w411dp-h800dp-port-notnight-xhdpi" to 1.6f),
                "360" to ("w360dp-h640dp-port-notnight-xhdpi" to 1f),
                "tablet" to ("w800dp-h1280dp-port-notnight-mdpi" to 1f)
            )
    }
}
