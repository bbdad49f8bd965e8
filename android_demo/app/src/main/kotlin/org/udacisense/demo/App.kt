package org.udacisense.demo

import android.content.Context
import android.content.res.AssetManager
import android.os.Handler
import android.os.Looper
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.util.UUID
import java.util.concurrent.Executor
import java.util.concurrent.Executors
import org.udacisense.core.Bundle
import org.udacisense.core.BundleSource
import org.udacisense.core.Call
import org.udacisense.core.Choice
import org.udacisense.core.Classifier
import org.udacisense.core.Decision
import org.udacisense.core.FolderSource
import org.udacisense.core.Manifest
import org.udacisense.core.MeasurementSet
import org.udacisense.core.Preprocess
import org.udacisense.core.Problem
import org.udacisense.core.Results
import org.udacisense.core.RgbImage
import org.udacisense.core.Rollout
import org.udacisense.core.Runtimes
import org.udacisense.core.Session
import org.udacisense.core.Use
import org.udacisense.core.Variant
import org.udacisense.core.answer
import org.udacisense.core.choices
import org.udacisense.core.decide

/** What the screens share. Made once a process. */
class App private constructor(
    private val context: Context
) {
    val runtimes = Runtimes(listOf(PytorchRuntime, OnnxRuntime, TfliteRuntime))
    val phone = Phone(context)

    /** Models are loaded and run here, one after the other: measurements must not run beside anything else. */
    var worker: Executor = Executors.newSingleThreadExecutor { work -> Thread(work, "models").apply { isDaemon = true } }
    private val main = Handler(Looper.getMainLooper())

    /** A file of the external folder is what a desk can push and pull; the internal one is used where there is none. */
    private val files: File get() = context.getExternalFilesDir(null) ?: context.filesDir
    val results: Results get() = Results(File(files, "results"))

    private var opened: Bundle? = null
    private val loaded = mutableMapOf<String, Loaded>()

    private class Loaded(
        val classifier: Classifier,
        val loadMs: Double,
        val firstMs: Double
    )

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
        if (opened?.sha256 != fresh.sha256 || opened?.shares != fresh.shares) {
            release()
            opened = fresh
        }
        return checkNotNull(opened)
    }

    /** The variants of a bundle that this app runs. */
    fun runnable(bundle: Bundle): List<Variant> = bundle.manifest.runnable(runtimes.formats)

    /** What can be chosen of a bundle on the screen. */
    fun choices(bundle: Bundle): List<Choice> = bundle.manifest.choices(runtimes.formats)

    /** What the staged rollout gives to this installation. */
    fun chosen(bundle: Bundle): Choice = Rollout.choose(choices(bundle), bundle.manifest.name, installationId(), bundle.shares)

    /** Looks at a photo of the signature's size; the calls are those of who was asked. On the [worker] alone. Throws [Problem]. */
    fun look(
        bundle: Bundle,
        choice: Choice,
        square: RgbImage
    ): Pair<Decision, List<Call>> {
        val signature = bundle.manifest.signature
        release(except = choice.asks.map { it.variant.id })
        val calls = mutableListOf<Call>()
        val decision =
            choice.decide(signature.labels) { variant ->
                val input = Preprocess.tensor(square, signature, variant.inputKind)
                val model = loaded.getOrPut(variant.id) { load(bundle, variant, input) }
                val (ms, output) = timed { model.classifier.answer(input, variant, signature) }
                calls += Call(model.loadMs, model.firstMs, ms, model.classifier.actual)
                output
            }
        return decision to calls
    }

    /** The first call of a loaded file allocates: it is made here, so that what is shown is a call as all later ones are. */
    private fun load(
        bundle: Bundle,
        variant: Variant,
        input: FloatArray
    ): Loaded {
        val signature = bundle.manifest.signature
        val file = bundle.modelFile(variant)
        val (loadMs, classifier) = timed { runtimes.load(file, variant, signature, phone.threads) }
        try {
            return Loaded(classifier, loadMs, timed { classifier.answer(input, variant, signature) }.first)
        } catch (e: Problem) {
            classifier.close()
            throw e
        }
    }

    /** What was asked of a bundle on this phone so far; a desk takes the file home. */
    fun use(bundle: Bundle): Use =
        try {
            val file = results.file(useId(bundle))
            Use(MeasurementSet.parse(file.readText(), file.name).measurements)
        } catch (e: IOException) {
            Use(emptyList())
        } catch (e: Problem) {
            // Of another release of the app: counted anew.
            Use(emptyList())
        }

    /** Counts a photo. Throws [Problem] where that cannot be written. */
    fun count(
        bundle: Bundle,
        choice: Choice,
        seen: Pair<Decision, List<Call>>
    ) {
        val rows = use(bundle).plus(choice, seen.first, seen.second, phone.threads)
        results.write(useId(bundle), Session(bundle, runtimes, phone.host()).use(rows))
    }

    private fun useId(bundle: Bundle) = "use-${bundle.sha256.take(16)}"

    /** Lets go of loaded models: a benchmark must find the memory free. */
    fun release(except: List<String> = emptyList()) {
        (loaded.keys - except.toSet()).forEach { loaded.remove(it)?.classifier?.close() }
    }

    private fun <T> timed(work: () -> T): Pair<Double, T> {
        val start = System.nanoTime()
        val answer = work()
        return (System.nanoTime() - start) / 1e6 to answer
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
