package org.udacisense.demo

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.udacisense.core.Format
import org.udacisense.core.Manifest
import org.udacisense.core.Problem
import org.udacisense.core.Runtimes

/** A small file in TensorFlow Lite's own library; whole models are in the tests of the screens where a desk can convert them. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class TfliteTest {
    private val small = Screens.fixtures.resolve("small")
    private val manifest = Manifest.parse(Screens.fixtures.resolve("bundles/tiny/manifest.json").readText())
    private val variant = manifest.variants.first().copy(id = "tflite-fp32", format = Format.TFLITE)
    private val signature = manifest.signature.copy(sizePx = 16, labels = List(4) { "$it" })

    private fun load(
        file: File = small.resolve("self_test.tflite"),
        sizePx: Int = 16,
        threads: Int = 1
    ) = Screens.loadLibrary().let { Runtimes(listOf(TfliteRuntime)).load(file, variant, signature.copy(sizePx = sizePx), threads) }

    private fun rows(name: String): List<FloatArray> {
        val values = ByteBuffer.wrap(small.resolve(name).readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return List(2) { FloatArray(values.capacity() / 2).also(values::get) }
    }

    @Test
    fun `each image gets the answer that PyTorch gives it`() {
        for (threads in listOf(1, 2)) {
            load(threads = threads).use { classifier ->
                for ((image, answer) in rows("images.f32").zip(rows("answers.f32"))) assertArrayEquals(answer, classifier.run(image), 1e-5f)
            }
        }
    }

    @Test
    fun `a file for other images and a damaged one get their sentences`() {
        val other = assertThrows(Problem::class.java) { load(sizePx = 32) }
        assertTrue(other.message, "2 × 16 × 16 × 3" in other.message!! && "another model" in other.message!!)
        val damaged = File.createTempFile("damaged", ".tflite").apply { deleteOnExit() }
        damaged.writeText("this is no model")
        assertTrue("cannot be loaded" in assertThrows(Problem::class.java) { load(damaged) }.message!!)
    }
}
