package org.udacisense.demo

import android.content.Context
import android.content.res.AssetManager
import android.os.Handler
import android.os.Looper
import java.io.File
import java.io.InputStream
import java.util.UUID
import java.util.concurrent.Executor
import java.util.concurrent.Executors
import org.udacisense.core.Bundle
import org.udacisense.core.BundleSource
import org.udacisense.core.Classifier
import org.udacisense.core.FolderSource
import org.udacisense.core.Manifest
import org.udacisense.core.Problem
import org.udacisense.core.Results
import org.udacisense.core.Rollout
import org.udacisense.core.Runtimes
import org.udacisense.core.Variant

/** What the screens share. Made once a process. */
class App private constructor(
    private val context: Context
) {
    val runtimes = Runtimes(listOf(PytorchRuntime, OnnxRuntime))
    val phone = Phone(context)

    /** Models are loaded and run here, one after the other: measurements must not run beside anything else. */
    var worker: Executor = Executors.newSingleThreadExecutor { work -> Thread(work, "models").apply { isDaemon = true } }
    private val main = Handler(Looper.getMainLooper())

    /** A file of the external folder is what a desk can push and pull; the internal one is used where there is none. */
    private val files: File get() = context.getExternalFilesDir(null) ?: context.filesDir
    val results: Results get() = Results(File(files, "results"))

    private var opened: Bundle? = null
    private var loaded: Pair<String, Classifier>? = null

    /** The pushed bundle where there is one, else the app's own. Read anew where its manifest has changed. Throws [Problem]. */
    fun bundle(): Bundle {
        val pushed = File(files, "bundle")
        val source = if (File(pushed, Manifest.FILE_NAME).isFile) FolderSource(pushed, context.getString(R.string.bundle_pushed)) else AssetSource(context.assets, context.getString(R.string.bundle_own))
        val fresh =
            try {
                Bundle.open(source, File(context.cacheDir, "models"))
            } catch (e: Problem) {
                release()
                throw e
            }
        if (opened?.sha256 != fresh.sha256) {
            release()
            opened = fresh
        }
        return checkNotNull(opened)
    }

    /** The variants of a bundle that this app runs. */
    fun runnable(bundle: Bundle): List<Variant> = bundle.manifest.runnable(runtimes.formats)

    /** What the staged rollout gives to this installation. */
    fun chosen(bundle: Bundle): Variant = Rollout.choose(runnable(bundle), bundle.manifest.name, installationId())

    /** The variant, loaded; the one before it is let go. On the [worker] alone. Throws [Problem]. */
    fun classifier(
        bundle: Bundle,
        variant: Variant
    ): Classifier {
        val key = "${bundle.sha256}/${variant.id}"
        loaded?.let { (name, classifier) -> if (name == key) return classifier }
        release()
        val file = bundle.modelFile(variant)
        return runtimes.load(file, variant, bundle.manifest.signature, phone.threads).also { loaded = key to it }
    }

    /** Lets go of the loaded model: a benchmark must find the memory free. */
    fun release() {
        loaded?.second?.close()
        loaded = null
    }

    /** Works on the [worker] and answers on the main thread; a [Problem] goes to [failed]. */
    fun <T> background(
        work: () -> T,
        failed: (Problem) -> Unit,
        done: (T) -> Unit
    ) = worker.execute {
        try {
            val answer = work()
            main.post { done(answer) }
        } catch (e: Problem) {
            main.post { failed(e) }
        } catch (e: OutOfMemoryError) {
            main.post { failed(Problem(context.getString(R.string.problem_memory), e)) }
        } catch (e: RuntimeException) {
            // A fault of the app itself: shown like any other, so that it reaches us in words.
            main.post { failed(Problem(context.getString(R.string.problem_fault, "${e.javaClass.simpleName}: ${e.message}"), e)) }
        }
    }

    fun onMain(work: () -> Unit) {
        main.post(work)
    }

    private fun installationId(): String {
        val preferences = context.getSharedPreferences("installation", Context.MODE_PRIVATE)
        preferences.getString("id", null)?.let { return it }
        return UUID.randomUUID().toString().also { preferences.edit().putString("id", it).apply() }
    }

    private class AssetSource(
        private val assets: AssetManager,
        override val name: String
    ) : BundleSource {
        override fun open(path: String): InputStream = assets.open("bundle/$path")
    }

    companion object {
        @Volatile
        private var instance: App? = null

        fun of(context: Context): App = instance ?: synchronized(this) { instance ?: App(context.applicationContext).also { instance = it } }

        /** For tests, which start from nothing. */
        fun forget() {
            instance?.release()
            instance = null
        }
    }
}
