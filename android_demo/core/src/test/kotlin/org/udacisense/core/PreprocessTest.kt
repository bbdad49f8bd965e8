package org.udacisense.core

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class PreprocessTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val stored = Fixtures.readPpm(Fixtures.folder.resolve("photos/raw.ppm"))

    private fun expected(name: String) = Fixtures.folder.resolve("photos/$name.u8").readBytes()

    @Test
    fun `the golden pack's photos become the desk's tensors`() {
        for (folder in Fixtures.bundles) {
            val bundle = Fixtures.open(folder, temporary.newFolder())
            assertTrue("some photos must need a resize", bundle.golden.photos.any { it.width != it.height })
            val check = SelfTest(bundle, Runtimes(emptyList())).checkInputs()
            assertTrue("${folder.name}: ${check.maxAbs}", check.passed)
        }
    }

    @Test
    fun `a photo becomes Pillow's square, byte for byte`() {
        assertArrayEquals(expected("raw.ppm"), Preprocess.fitSquare(stored, 32).rgb)
    }

    @Test
    fun `every EXIF orientation becomes Pillow's square, byte for byte`() {
        for (orientation in Orientation.entries) {
            val wanted = expected("turned-${orientation.exif}.png")
            assertArrayEquals("$orientation", wanted, Preprocess.fitSquare(orientation.upright(stored), 32).rgb)
        }
    }

    @Test
    fun `cutting the square from the stored photo first gives the same`() {
        for (orientation in Orientation.entries) {
            val (left, top, edge) = orientation.storedSquare(stored.width, stored.height)
            val rgb = ByteArray(edge * edge * 3)
            for (y in 0 until edge) {
                stored.rgb.copyInto(rgb, y * edge * 3, ((top + y) * stored.width + left) * 3, ((top + y) * stored.width + left + edge) * 3)
            }
            val square = orientation.upright(RgbImage(edge, edge, rgb))
            assertArrayEquals("$orientation", expected("turned-${orientation.exif}.png"), Preprocess.resize(square, 32).rgb)
        }
    }

    @Test
    fun `an orientation that no camera writes means upright`() {
        assertEquals(Orientation.UPRIGHT, Orientation.of(0))
        assertEquals(Orientation.UPRIGHT, Orientation.of(9))
    }

    @Test
    fun `pixels are fed as they are where normalisation is in the graph`() {
        val bundle = Fixtures.open(Fixtures.bundles.last(), temporary.newFolder())
        val image = RgbImage(1, 1, byteArrayOf(0, 127, -1))
        assertArrayEquals(floatArrayOf(0f, 127f, 255f), Preprocess.tensor(image, bundle.manifest.signature, InputKind.PIXELS), 0f)
    }
}
