package org.udacisense.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class ManifestTest {
    private val text = Fixtures.manifestText()

    private fun refused(changed: String): String {
        assertTrue("the change must reach the text", changed != text)
        return assertThrows(Problem::class.java) { Manifest.parse(changed) }.message!!
    }

    @Test
    fun `reads what the exporters wrote`() {
        for (folder in Fixtures.bundles) {
            val manifest = Manifest.parse(folder.resolve(Manifest.FILE_NAME).readText())
            assertEquals(32, manifest.signature.sizePx)
            assertTrue(manifest.runnable(setOf(Format.PTL)).size >= 3)
            assertTrue(manifest.golden.images.size > 6)
        }
    }

    @Test
    fun `an unknown schema is refused by its number`() {
        val message = refused(text.replace("\"schema_version\": 1", "\"schema_version\": 2"))
        assertTrue(message, "schema version 2" in message && "version 1" in message)
    }

    @Test
    fun `an unknown key is refused by name`() {
        assertTrue("thresold" in refused(text.replaceFirst("\"created_utc\"", "\"thresold\": 1, \"created_utc\"")))
    }

    @Test
    fun `a bundle of 0 1 0 with the setting that bench recommended is read`() {
        val setting = """{"variant_id": "ptl-fp32", "threads": 1}"""
        for (value in listOf("null", setting)) {
            val older = text.replaceFirst("\"created_utc\"", "\"recommended\": $value, \"created_utc\"")
            assertEquals(Manifest.parse(text), Manifest.parse(older))
        }
    }

    @Test
    fun `a missing key is refused by name`() {
        assertTrue("size_px" in refused(text.replace("\"size_px\": 32,", "")))
    }

    @Test
    fun `a value of another type is refused`() {
        assertTrue("manifest.json is not valid" in refused(text.replace("\"size_px\": 32", "\"size_px\": [32]")))
        assertTrue("fp33" in refused(text.replaceFirst("\"precision\": \"fp32\"", "\"precision\": \"fp33\"")))
    }

    @Test
    fun `a path that leaves the bundle is refused`() {
        for (path in listOf("../secret", "/etc/passwd", "golden/../../x", "golden//x", "a\\\\b")) {
            assertTrue(path, "leaves the bundle" in refused(text.replace("golden/images.u8", path)))
        }
    }

    @Test
    fun `a shape that contradicts itself is refused`() {
        assertTrue("size_px" in refused(text.replace("\"size_px\": 32", "\"size_px\": 33")))
        assertTrue("labels" in refused(text.replace("\"output_shape\": [\n      1,\n      10", "\"output_shape\": [\n      1,\n      11")))
    }

    @Test
    fun `a cascade that contradicts itself is refused by what is wrong`() {
        val ids = Manifest.parse(text).variants.map { it.id }

        fun member(
            name: String,
            threshold: String,
            ids: List<String>
        ): String {
            val confidence = """{"temperature": 1.5, "rule": "margin", "unsure_below": 0.1, "n_images": 9}"""
            val variants = ids.joinToString { "\"$it\": \"$it\"" }
            return """{"name": "$name", "artifact_sha256": "0", "confidence": $confidence, "threshold": $threshold, "variants": {$variants}}"""
        }

        fun cascade(vararg members: String) = text.replace(Regex(",\\s*\"members\": null"), "").replaceFirst("\"created_utc\"", "\"members\": [${members.joinToString()}], \"created_utc\"")
        val last = member("b", "null", ids.drop(2))
        assertEquals(0.25, Manifest.parse(cascade(member("a", "0.25", ids.take(2)), last)).members!!.first().threshold)
        assertTrue("two members" in refused(cascade(last)))
        assertTrue("name of its own" in refused(cascade(member("b", "0.25", ids.take(2)), last)))
        assertTrue("belong to one member" in refused(cascade(member("a", "0.25", ids.take(3)), last)))
        assertTrue("has a threshold" in refused(cascade(member("a", "null", ids.take(2)), last)))
        assertTrue("from 0 to 1" in refused(cascade(member("a", "1.5", ids.take(2)), last)))
    }

    @Test
    fun `text that is no JSON is refused`() {
        assertTrue("manifest.json is not valid" in refused(text.dropLast(100)))
        assertTrue("manifest.json is not valid" in refused("[]"))
    }
}
