package org.udacisense.demo

import android.app.Activity
import android.content.Intent
import android.net.Uri
import android.provider.MediaStore
import android.view.View
import android.widget.Button
import java.io.File
import kotlin.math.abs
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ClassifyScreenTest {
    private val photos = Screens.fixtures.resolve("photos")

    private fun open(photo: File?): MainActivity {
        val intent = Intent(Screens.context, MainActivity::class.java)
        if (photo != null) intent.setAction(Intent.ACTION_SEND).putExtra(Intent.EXTRA_STREAM, Uri.fromFile(photo))
        return Robolectric.buildActivity(MainActivity::class.java, intent).setup().get().also { Screens.settle() }
    }

    private fun visible(
        activity: Activity,
        id: Int
    ) = activity.findViewById<View>(id).visibility == View.VISIBLE

    @Test
    fun `lossless photos of every orientation and colour become the desk's square`() {
        val lossless = photos.listFiles { file -> file.extension == "png" }!!
        assertTrue(lossless.size >= 13)
        for (photo in lossless) {
            val wanted = File(photo.path + ".u8").readBytes()
            assertArrayEquals(photo.name, wanted, PhotoReader.read(Screens.context.contentResolver, Uri.fromFile(photo), 32).square.rgb)
        }
    }

    @Test
    fun `JPEG photos differ by no more than their decoders`() {
        for (photo in photos.listFiles { file -> file.extension == "jpg" }!!) {
            val wanted = File(photo.path + ".u8").readBytes()
            val got = PhotoReader.read(Screens.context.contentResolver, Uri.fromFile(photo), 32).square.rgb
            val largest = got.indices.maxOf { abs((got[it].toInt() and 0xff) - (wanted[it].toInt() and 0xff)) }
            assertTrue("${photo.name}: $largest of 255", largest <= 2)
        }
    }

    @Test
    fun `a photo gets its label, bars and latency`() {
        Screens.phoneWith("baseline")
        val activity = open(photos.resolve("turned-6.jpg"))
        assertTrue(visible(activity, R.id.answer))
        val labels = App.of(activity).bundle().manifest.signature.labels
        val said = Screens.text(activity, R.id.label)
        assertTrue(said, said in labels || said == "Not sure")
        assertTrue(Screens.text(activity, R.id.latency).contains(" ms · "))
        assertEquals(5, activity.findViewById<android.widget.LinearLayout>(R.id.scores).childCount)
        assertEquals("ptl-fp32", Screens.text(activity, R.id.variant))
    }

    @Test
    fun `a file that is no picture gets a message`() {
        Screens.phoneWith("tiny")
        val activity = open(photos.resolve("raw.ppm.u8"))
        assertTrue(Screens.text(activity, R.id.problem).contains("picture"))
    }

    @Test
    fun `a phone without any bundle says so and stays up`() {
        Screens.phoneWith(null)
        val activity = open(photos.resolve("colour.png"))
        assertTrue(Screens.text(activity, R.id.problem), Screens.text(activity, R.id.problem).contains("no bundle"))
    }

    @Test
    fun `a bundle of an unknown schema, a damaged model and another model's file get their messages`() {
        val cases =
            mapOf<String, (File) -> Unit>(
                "schema version 9" to { it.resolve("manifest.json").run { writeText(readText().replace("\"schema_version\": 1", "\"schema_version\": 9")) } },
                "damaged" to { it.resolve("model-ptl-fp32.ptl").run { writeBytes(readBytes().dropLast(9).toByteArray()) } },
                // Garbage under a right checksum: the library itself must refuse it.
                "cannot be loaded" to { folder ->
                    val model = folder.resolve("model-ptl-fp32.ptl")
                    val old = org.udacisense.core.Bundle.sha256(model)
                    model.writeText("this is no model")
                    folder.resolve("manifest.json").run { writeText(readText().replace(old, org.udacisense.core.Bundle.sha256(model))) }
                },
                "not valid" to { it.resolve("manifest.json").run { writeText(readText().replace("\"size_px\": 32", "\"size_px\": 64")) } }
            )
        for ((wanted, change) in cases) {
            Screens.phoneWith("tiny", change)
            val activity = open(photos.resolve("colour.png"))
            val told = Screens.text(activity, R.id.problem)
            assertTrue("$wanted: $told", told.contains(wanted))
            activity.finish()
        }
    }

    @Test
    fun `photos are asked of other apps, without any permission`() {
        Screens.phoneWith("tiny")
        val activity = open(null)
        activity.findViewById<Button>(R.id.take).performClick()
        val taken = shadowOf(activity).nextStartedActivityForResult
        assertEquals(MediaStore.ACTION_IMAGE_CAPTURE, taken.intent.action)
        assertEquals(CameraFile.uri(activity), taken.intent.clipData!!.getItemAt(0).uri)
        activity.findViewById<Button>(R.id.choose).performClick()
        assertEquals("image/*", shadowOf(activity).nextStartedActivityForResult.intent.type)
        val asked = activity.packageManager.getPackageInfo(activity.packageName, android.content.pm.PackageManager.GET_PERMISSIONS).requestedPermissions
        assertTrue("${asked?.toList()}", asked.isNullOrEmpty())
    }

    @Test
    fun `everything that can be tapped is large enough and can be read aloud`() {
        Screens.phoneWith("tiny")
        val activity = open(photos.resolve("colour.png"))
        Screens.draw(activity, File.createTempFile("screen", ".png").apply { deleteOnExit() })
        val least = (48 * activity.resources.displayMetrics.density).toInt()
        for (id in listOf(R.id.choose, R.id.take, R.id.variant, R.id.selftest, R.id.bench)) {
            val button = activity.findViewById<Button>(id)
            assertTrue(button.text.toString(), button.height >= least)
            assertTrue(!(button.contentDescription ?: button.text).isNullOrBlank())
        }
        assertEquals("Your photo, cut to the square that the model sees", activity.findViewById<View>(R.id.photo).contentDescription)
    }
}
