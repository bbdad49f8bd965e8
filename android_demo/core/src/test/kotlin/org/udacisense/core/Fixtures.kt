package org.udacisense.core

import java.io.File

/** What `desk/make_fixtures.py` wrote. */
object Fixtures {
    val folder: File = File(System.getProperty("udacisense.fixtures") ?: error("set -Dudacisense.fixtures to the folder that desk/make_fixtures.py wrote"))

    val bundles: List<File> = listOf("baseline", "p1", "tiny").map { File(folder, "bundles/$it") }

    fun open(
        bundle: File,
        cache: File
    ): Bundle = Bundle.open(FolderSource(bundle), cache)

    fun manifestText(): String = File(bundles.last(), Manifest.FILE_NAME).readText()

    /** Binary PPM (P6), as Pillow writes it. */
    fun readPpm(file: File): RgbImage {
        val bytes = file.readBytes()
        val words = mutableListOf<String>()
        var at = 0
        while (words.size < 4) {
            val start = at
            while (!bytes[at].toInt().toChar().isWhitespace()) at++
            if (at > start) words += String(bytes, start, at - start)
            at++
        }
        check(words[0] == "P6" && words[3] == "255")
        return RgbImage(words[1].toInt(), words[2].toInt(), bytes.copyOfRange(at, bytes.size))
    }
}
