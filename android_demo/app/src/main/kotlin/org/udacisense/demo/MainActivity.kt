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
import org.udacisense.core.Choice
import org.udacisense.core.Decision
import org.udacisense.core.Problem
import org.udacisense.core.Use

/** A photo in, a label out. */
class MainActivity : Activity() {
    private val app get() = App.of(this)
    private var bundle: org.udacisense.core.Bundle? = null
    private var choice: Choice? = null
    private var photo: Uri? = null
    private var choiceId: String? = null

    /** A photo is looked at again when the screen comes back, and counted once. */
    private var isCounted = false

    /** A photo that was looked at, how long that took, and what was asked so far. */
    private class Seen(
        val photo: PhotoReader.Photo,
        val decision: Decision,
        val latencyMs: Double,
        val use: Use,
        val failure: Problem?
    )

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        setContentView(R.layout.screen_main)
        findViewById<View>(R.id.frame).clipToOutline = true
        findViewById<Button>(R.id.choose).setOnClickListener { choosePhoto() }
        findViewById<Button>(R.id.take).setOnClickListener { takePhoto() }
        findViewById<Button>(R.id.variant).setOnClickListener { choose() }
        findViewById<Button>(R.id.selftest).setOnClickListener { startActivity(Intent(this, SelfTestActivity::class.java)) }
        findViewById<Button>(R.id.bench).setOnClickListener { startActivity(Intent(this, BenchActivity::class.java)) }
        photo = state?.getString(STATE_PHOTO)?.let(Uri::parse)
        choiceId = state?.getString(STATE_CHOICE)
        isCounted = state?.getBoolean(STATE_COUNTED) ?: false
        @Suppress("DEPRECATION")
        if (state == null && intent.action == Intent.ACTION_SEND) photo = intent.getParcelableExtra(Intent.EXTRA_STREAM)
    }

    override fun onResume() {
        super.onResume()
        app.background(
            work = { app.bundle().let { it to (app.choices(it).find { c -> c.id == choiceId } ?: app.chosen(it)) } },
            failed = ::showProblem
        ) { (opened, chosen) ->
            bundle = opened
            showChoice(chosen)
            findViewById<TextView>(R.id.bundle).text = getString(R.string.bundle_line, opened.manifest.name, opened.source.name)
            photo?.let(::look)
        }
    }

    override fun onSaveInstanceState(out: Bundle) {
        super.onSaveInstanceState(out)
        out.putString(STATE_PHOTO, photo?.toString())
        out.putString(STATE_CHOICE, choice?.id)
        out.putBoolean(STATE_COUNTED, isCounted)
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
        isCounted = false
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

    private fun choose() {
        val choices = app.choices(bundle ?: return)
        val at = choices.indexOfFirst { it.id == choice?.id }
        AlertDialog.Builder(this)
            .setTitle(R.string.main_variant_dialog)
            .setSingleChoiceItems(choices.map { it.id }.toTypedArray(), at) { dialog, index ->
                dialog.dismiss()
                showChoice(choices[index])
                isCounted = false
                photo?.let(::look)
            }.show()
    }

    private fun showChoice(chosen: Choice) {
        choice = chosen
        choiceId = chosen.id
        val chip = findViewById<Button>(R.id.variant)
        chip.text = chosen.id
        chip.contentDescription = getString(R.string.main_variant, chosen.id)
        chip.visibility = View.VISIBLE
    }

    private fun look(uri: Uri) {
        val bundle = bundle ?: return
        val choice = choice ?: return
        val counts = !isCounted
        isCounted = true
        findViewById<View>(R.id.busy).visibility = View.VISIBLE
        findViewById<TextView>(R.id.problem).showOrHide(null)
        app.background(work = { seen(bundle, choice, uri, counts) }, failed = ::showProblem) { seen ->
            if (!isDestroyed) show(seen, choice)
        }
    }

    private fun seen(
        bundle: org.udacisense.core.Bundle,
        choice: Choice,
        uri: Uri,
        counts: Boolean
    ): Seen {
        val photo = PhotoReader.read(contentResolver, uri, bundle.manifest.signature.sizePx)
        val seen = app.look(bundle, choice, photo.square)
        var failure = seen.first.failure
        try {
            if (counts) app.count(bundle, choice, seen)
        } catch (e: Problem) {
            failure = e
        }
        return Seen(photo, seen.first, seen.second.sumOf { it.ms }, app.use(bundle), failure)
    }

    private fun show(
        seen: Seen,
        choice: Choice
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
        val isFitted = decision.answeredBy.confidence.nImages > 0
        val doubt = if (isFitted) R.string.main_none to R.string.main_nearest else R.string.main_not_sure to R.string.main_maybe
        findViewById<TextView>(R.id.label).text = if (decision.isSure) best else getString(doubt.first)
        val told = listOfNotNull(if (decision.isSure) null else getString(doubt.second, best), getString(R.string.main_latency, digits(seen.latencyMs), who(decision)))
        findViewById<TextView>(R.id.latency).text = told.joinToString(" · ")
        findViewById<TextView>(R.id.counts).showOrHide(counts(seen.use, choice))
        findViewById<TextView>(R.id.problem).showOrHide(seen.failure?.message)
        val scores = findViewById<LinearLayout>(R.id.scores)
        scores.removeAllViews()
        decision.scores.take(SHOWN).forEach(scores::addScore)
    }

    /** Who answered, and why not the one before. */
    private fun who(decision: Decision): String {
        val unsure = decision.asked.dropLast(1).map { it.name }
        if (unsure.isEmpty()) return decision.answeredBy.name
        return resources.getQuantityString(R.plurals.main_unsure, unsure.size, decision.answeredBy.name, unsure.joinToString(", "))
    }

    /** How often each answered on this phone; nothing where there is one alone. */
    private fun counts(
        use: Use,
        choice: Choice
    ): String? {
        if (choice.asks.size < 2) return null
        return getString(R.string.main_counts, use.answered(choice).joinToString(" · ") { (ask, n) -> getString(R.string.main_count, ask.name, n) })
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
        const val STATE_CHOICE = "choice"
        const val STATE_COUNTED = "counted"
    }
}
