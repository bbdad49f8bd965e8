package org.udacisense.demo

import android.app.Activity
import android.content.Context
import android.graphics.Bitmap
import android.graphics.Canvas
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.TextView
import com.facebook.soloader.nativeloader.NativeLoader
import com.facebook.soloader.nativeloader.SystemDelegate
import java.io.File
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.udacisense.core.Precision
import org.udacisense.core.Variant

/** What the tests of the screens share. */
object Screens {
    val fixtures = File(System.getProperty("udacisense.fixtures") ?: error("run desk/test.py"))
    private var loaded = false

    val context: Context get() = RuntimeEnvironment.getApplication()

    /** Loads the phone's own library on its stand-in for bionic, once a JVM. */
    fun loadLibrary() {
        if (loaded) return
        if (!NativeLoader.isInitialized()) NativeLoader.init(SystemDelegate())
        System.getProperty("udacisense.natives")!!.split(":").forEach { System.load(it) }
        loaded = true
    }

    /** A phone with a bundle pushed to it; models are run at once, on the test's own thread. */
    fun phoneWith(
        bundle: String?,
        change: (File) -> Unit = {}
    ): App {
        loadLibrary()
        App.forget()
        context.cacheDir.resolve("models").deleteRecursively()
        val folder = context.getExternalFilesDir("bundle")!!
        folder.deleteRecursively()
        context.getExternalFilesDir("results")!!.deleteRecursively()
        if (bundle != null) {
            val from = fixtures.resolve("bundles/$bundle")
            // reference/ holds the desk's own weights: nothing that a phone reads.
            from.walk().filter { it.isFile && "reference" !in it.path }.forEach { it.copyTo(folder.resolve(it.relativeTo(from)), overwrite = true) }
            change(folder)
        }
        return App.of(context).apply { worker = java.util.concurrent.Executor { it.run() } }
    }

    /** Takes variants out of a pushed bundle's manifest. */
    fun keepOnly(
        folder: File,
        keep: (id: String) -> Boolean
    ) {
        val file = folder.resolve("manifest.json")
        val tree = Json.parseToJsonElement(file.readText()).jsonObject
        val variants = tree.getValue("variants").jsonArray.filter { keep(it.jsonObject.getValue("id").jsonPrimitive.content) }
        file.writeText(JsonObject(tree + ("variants" to JsonArray(variants))).toString())
    }

    /**
     * What must pass a self-test. Static int8 in .onnx and .ort has no golden logits of its own: it is held to the float32
     * model's labels, which it misses where it was calibrated on drawings.
     */
    fun provable(variant: Variant): Boolean = variant.precision != Precision.INT8_STATIC || variant.goldenLogitsPath != null

    fun settle() = shadowOf(Looper.getMainLooper()).idle()

    fun text(
        activity: Activity,
        id: Int
    ): String = activity.findViewById<TextView>(id).text.toString()

    /** All that a screen says, top to bottom. */
    fun said(view: View): List<String> =
        when {
            view.visibility != View.VISIBLE -> emptyList()
            view is TextView -> listOf(view.text.toString())
            view is ViewGroup -> (0 until view.childCount).flatMap { said(view.getChildAt(it)) }
            else -> emptyList()
        }.filter { it.isNotEmpty() }

    /** Draws a whole screen, longer than the phone's where its content is. */
    fun draw(
        activity: Activity,
        to: File
    ) {
        val root = activity.findViewById<View>(android.R.id.content)
        val metrics = activity.resources.displayMetrics
        val width = View.MeasureSpec.makeMeasureSpec(metrics.widthPixels, View.MeasureSpec.EXACTLY)
        root.measure(width, View.MeasureSpec.makeMeasureSpec(0, View.MeasureSpec.UNSPECIFIED))
        val height = maxOf(root.measuredHeight, metrics.heightPixels)
        root.measure(width, View.MeasureSpec.makeMeasureSpec(height, View.MeasureSpec.EXACTLY))
        root.layout(0, 0, metrics.widthPixels, height)
        val bitmap = Bitmap.createBitmap(metrics.widthPixels, height, Bitmap.Config.ARGB_8888)
        val canvas = Canvas(bitmap)
        canvas.drawColor(activity.getColor(R.color.page))
        root.draw(canvas)
        to.parentFile!!.mkdirs()
        to.outputStream().use { bitmap.compress(Bitmap.CompressFormat.PNG, 100, it) }
    }
}
