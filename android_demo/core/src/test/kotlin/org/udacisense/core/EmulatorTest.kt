package org.udacisense.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class EmulatorTest {
    private val exported = Manifest.parse(Fixtures.manifestText()).runnable(setOf(Format.PTL, Format.ONNX, Format.ORT))
    private val older = exported.map { it.copy(options = it.options - Emulator.OPTION) }

    private fun told(
        variants: List<Variant>,
        abi: String
    ) = Emulator.misleading(variants, abi).map { it.id }

    @Test
    fun `a plain ptl of an older exporter misleads on x86 alone`() {
        val plain = older.map { it.id }.filter { it.startsWith("ptl") && it != "ptl-fp32-xnnpack" }
        assertTrue("$plain", "ptl-fp32" in plain && "ptl-fp32-xnnpack" in older.map { it.id })
        for (abi in listOf("x86", "x86_64")) assertEquals(plain, told(older, abi))
        for (abi in listOf("arm64-v8a", "armeabi-v7a", "unknown")) assertEquals(emptyList<String>(), told(older, abi))
    }

    @Test
    fun `what the exporters write now is right there`() = assertEquals(emptyList<String>(), told(exported, "x86_64"))
}
