package org.udacisense.demo

import android.app.Activity
import android.app.AlertDialog
import android.content.ActivityNotFoundException
import android.content.ClipData
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.provider.MediaStore
import android.view.View
import android.widget.Button
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import org.udacisense.core.Cascade
import org.udacisense.core.Decision
import org.udacisense.core.Preprocess
import org.udacisense.core.Problem
import org.udacisense.core.Scores
import org.udacisense.core.Variant
import org.udacisense.core.answer
import org.udacisense.core.largerThan

/** A photo in, a label out. */
class MainActivity : Activity() {
    private val app get() = App.of(this)
    private var bundle: org.udacisense.core.Bundle? = null
    private var variant: Variant? = null
    private var photo: Uri? = null
    private var variantId: String? = null

    /** A photo that was looked at, and how long its variant took. */
    private class Seen(
        val photo: PhotoReader.Photo,
        val decision: Decision,
        val latencyMs: Double
    )

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.screen_main)
        findViewById<View>(R.id.frame).clipToOutline = true
        findViewById<Button>(R.id.choose).setOnClickListener { choosePhoto() }
        findViewById<Button>(R.id.take).setOnClickListener { takePhoto() }
        findViewById<Button>(R.id.variant).setOnClickListener { chooseVariant() }
        findViewById<Button>(R.id.selftest).setOnClickListener { startActivity(Intent(this, SelfTestActivity::class.java)) }
        findViewById<Button>(R.id.bench).setOnClickListener { startActivity(Intent(this, BenchActivity::class.java)) }
        photo = state?.getString(STATE_PHOTO)?.let(Uri::parse)
        variantId = state?.getString(STATE_VARIANT)
        @Suppress("DEPRECATION")
        if (state == null && intent.action == Intent.ACTION_SEND) photo = intent.getParcelableExtra(Intent.EXTRA_STREAM)
    }

    override fun onResume() {
        super.onResume()
        app.background(
            work = { app.bundle().let { it to (app.runnable(it).find { v -> v.id == variantId } ?: app.chosen(it)) } },
            failed = ::showProblem
        ) { (opened, chosen) ->
            bundle = opened
            showVariant(chosen)
            findViewById<TextView>(R.id.bundle).text = getString(R.string.bundle_line, opened.manifest.name, opened.source.name)
            photo?.let(::look)
        }
    }

    override fun onSaveInstanceState(out: Bundle) {
        super.onSaveInstanceState(out)
        out.putString(STATE_PHOTO, photo?.toString())
        out.putString(STATE_VARIANT, variant?.id)
    }

    override fun onActivityResult(
        request: Int,
        result: Int,
        data: Intent?
    ) {
        super.onActivityResult(request, result, data)
        if (result != RESULT_OK) return
        // onResume, which comes next, looks at it.
        photo = if (request == TAKE) CameraFile.uri(this) else data?.data ?: return
    }

    private fun choosePhoto() {
        val ask = Intent(Intent.ACTION_GET_CONTENT).setType("image/*").addCategory(Intent.CATEGORY_OPENABLE)
        start(ask, CHOOSE, R.string.main_no_gallery)
    }

    private fun takePhoto() {
        val target = CameraFile.uri(this)
        val ask = Intent(MediaStore.ACTION_IMAGE_CAPTURE).putExtra(MediaStore.EXTRA_OUTPUT, target)
        ask.clipData = ClipData.newRawUri("", target)
        ask.addFlags(Intent.FLAG_GRANT_WRITE_URI_PERMISSION or Intent.FLAG_GRANT_READ_URI_PERMISSION)
        start(ask, TAKE, R.string.main_no_camera)
    }

    private fun start(
        ask: Intent,
        request: Int,
        absent: Int
    ) = try {
        startActivityForResult(ask, request)
    } catch (e: ActivityNotFoundException) {
        showProblem(Problem(getString(absent), e))
    }

    private fun chooseVariant() {
        val variants = app.runnable(bundle ?: return)
        val at = variants.indexOfFirst { it.id == variant?.id }
        AlertDialog.Builder(this)
            .setTitle(R.string.main_variant_dialog)
            .setSingleChoiceItems(variants.map { it.id }.toTypedArray(), at) { dialog, index ->
                dialog.dismiss()
                showVariant(variants[index])
                photo?.let(::look)
            }.show()
    }

    private fun showVariant(chosen: Variant) {
        variant = chosen
        variantId = chosen.id
        val chip = findViewById<Button>(R.id.variant)
        chip.text = chosen.id
        chip.contentDescription = getString(R.string.main_variant, chosen.id)
        chip.visibility = View.VISIBLE
    }

    private fun look(uri: Uri) {
        val bundle = bundle ?: return
        val variant = variant ?: return
        findViewById<View>(R.id.busy).visibility = View.VISIBLE
        findViewById<TextView>(R.id.problem).showOrHide(null)
        app.background(work = { seen(bundle, variant, uri) }, failed = ::showProblem) { seen ->
            if (!isDestroyed) show(seen, variant)
        }
    }

    private fun seen(
        bundle: org.udacisense.core.Bundle,
        variant: Variant,
        uri: Uri
    ): Seen {
        val signature = bundle.manifest.signature
        val photo = PhotoReader.read(contentResolver, uri, signature.sizePx)
        var latencyMs = 0.0

        fun ask(asked: Variant): FloatArray {
            val classifier = app.classifier(bundle, asked)
            val input = Preprocess.tensor(photo.square, signature, asked.inputKind)
            // The first call of a loaded file allocates; what is shown is a call as all later ones are.
            classifier.answer(input, asked, signature)
            val start = System.nanoTime()
            val output = classifier.answer(input, asked, signature)
            latencyMs += (System.nanoTime() - start) / 1e6
            return Scores.probabilities(output, asked.outputKind)
        }
        // A cloud service would be one more row.
        val rows = listOfNotNull(variant, largerThan(variant, app.runnable(bundle))).map { Cascade.Row(it.id) { ask(it) } }
        return Seen(photo, Cascade(rows, signature.labels).decide(), latencyMs)
    }

    private fun show(
        seen: Seen,
        asked: Variant
    ) {
        val decision = seen.decision
        findViewById<ImageView>(R.id.photo).apply {
            scaleType = ImageView.ScaleType.CENTER_CROP
            setImageBitmap(seen.photo.preview)
            contentDescription = getString(R.string.main_photo)
        }
        findViewById<View>(R.id.busy).visibility = View.GONE
        findViewById<View>(R.id.hint).visibility = View.GONE
        findViewById<View>(R.id.answer).visibility = View.VISIBLE
        val best = decision.scores.first().label
        findViewById<TextView>(R.id.label).text = if (decision.isSure) best else getString(R.string.main_not_sure)
        val how = if (decision.answeredBy == asked.id) R.string.main_latency else R.string.main_latency_fallback
        val told = getString(how, digits(seen.latencyMs), decision.answeredBy)
        findViewById<TextView>(R.id.latency).text = if (decision.isSure) told else "${getString(R.string.main_maybe, best)} · $told"
        val scores = findViewById<LinearLayout>(R.id.scores)
        scores.removeAllViews()
        decision.scores.take(SHOWN).forEach(scores::addScore)
    }

    private fun showProblem(problem: Problem) {
        findViewById<View>(R.id.busy).visibility = View.GONE
        findViewById<View>(R.id.answer).visibility = View.GONE
        findViewById<TextView>(R.id.problem).showOrHide(problem.message)
    }

    private companion object {
        const val CHOOSE = 1
        const val TAKE = 2
        const val SHOWN = 5
        const val STATE_PHOTO = "photo"
        const val STATE_VARIANT = "variant"
    }
}
