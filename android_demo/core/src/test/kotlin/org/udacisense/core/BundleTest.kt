package org.udacisense.core

import java.io.File
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class BundleTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private fun copied(): File = temporary.newFolder("bundle").also { Fixtures.bundles.last().copyRecursively(it, overwrite = true) }

    private fun Bundle.first() = manifest.runnable(setOf(Format.PTL)).first()

    /** As if the model had been trained again: other bytes, and a manifest that says so. */
    private fun retrain(
        folder: File,
        variant: Variant
    ) {
        val model = File(folder, variant.path!!)
        model.appendBytes(byteArrayOf(1))
        val manifest = File(folder, Manifest.FILE_NAME)
        manifest.writeText(manifest.readText().replace(variant.sha256!!, Bundle.sha256(model)))
    }

    @Test
    fun `a newer asset replaces the cached copy`() {
        val folder = copied()
        val cache = temporary.newFolder("cache")
        val old = Fixtures.open(folder, cache)
        val before = old.modelFile(old.first())
        assertTrue(before.isFile)

        retrain(folder, old.first())
        val fresh = Fixtures.open(folder, cache)
        val after = fresh.modelFile(fresh.first())
        assertArrayEquals(File(folder, fresh.first().path!!).readBytes(), after.readBytes())
        assertFalse("the stale copy must be gone", before.exists())
        assertEquals(1, cache.listFiles()!!.size)
    }

    @Test
    fun `a cached copy that was damaged is made again`() {
        val bundle = Fixtures.open(copied(), temporary.newFolder("cache"))
        val file = bundle.modelFile(bundle.first())
        file.writeText("garbage")
        assertEquals(bundle.first().sha256, Bundle.sha256(bundle.modelFile(bundle.first())))
    }

    @Test
    fun `the copy of another variant whose id begins alike is left alone`() {
        val bundle = Fixtures.open(copied(), temporary.newFolder("cache"))
        val (plain, xnnpack) = bundle.manifest.runnable(setOf(Format.PTL)).filter { it.precision == Precision.FP32 }
        val other = bundle.modelFile(xnnpack)
        bundle.modelFile(plain)
        assertTrue(other.isFile)
    }

    @Test
    fun `a damaged model is refused and leaves nothing`() {
        val folder = copied()
        val cache = temporary.newFolder("cache")
        val bundle = Fixtures.open(folder, cache)
        File(folder, bundle.first().path!!).writeText("garbage")
        val message = assertThrows(Problem::class.java) { bundle.modelFile(bundle.first()) }.message!!
        assertTrue(message, "damaged" in message)
        assertEquals(0, cache.listFiles()!!.size)
    }

    @Test
    fun `a missing model is named`() {
        val folder = copied()
        val bundle = Fixtures.open(folder, temporary.newFolder("cache"))
        File(folder, bundle.first().path!!).delete()
        val message = assertThrows(Problem::class.java) { bundle.modelFile(bundle.first()) }.message!!
        assertTrue(message, bundle.first().path!! in message)
    }

    @Test
    fun `a folder without a bundle is named`() {
        val empty = temporary.newFolder("empty")
        val message = assertThrows(Problem::class.java) { Fixtures.open(empty, temporary.newFolder("cache")) }.message!!
        assertTrue(message, empty.path in message)
    }

    @Test
    fun `a golden pack that was changed is refused`() {
        val folder = copied()
        File(folder, "golden/inputs.f32").appendBytes(ByteArray(4))
        val bundle = Fixtures.open(folder, temporary.newFolder("cache"))
        assertThrows(Problem::class.java) { bundle.golden }
    }
}
