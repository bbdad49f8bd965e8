package org.udacisense.core

import java.io.File
import kotlinx.serialization.ExperimentalSerializationApi
import kotlinx.serialization.KSerializer
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonElement
import kotlinx.serialization.json.JsonNamingStrategy
import kotlinx.serialization.json.JsonNull
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.JsonPrimitive
import kotlinx.serialization.json.intOrNull
import kotlinx.serialization.json.jsonPrimitive

/** Records as JSON: field names as the desk writes them; a key that is missing or unknown is refused by name. */
@OptIn(ExperimentalSerializationApi::class)
internal val STRICT_JSON =
    Json {
        namingStrategy = JsonNamingStrategy.SnakeCase
        prettyPrint = true
        prettyPrintIndent = "  "
    }

/** Reads one record but for its [former] keys; [source] says where the text came from and opens the message of a [Problem]. */
internal fun <T> readRecord(
    serializer: KSerializer<T>,
    text: String,
    source: String,
    schemaVersion: Int,
    former: Set<String> = emptySet()
): T {
    try {
        val tree = STRICT_JSON.parseToJsonElement(text)
        val version = (tree as? JsonObject)?.get("schema_version")?.jsonPrimitive?.intOrNull
        if (version != null && version != schemaVersion) {
            throw Problem("$source has schema version $version; this app reads version $schemaVersion. Export the bundle again or update the app.")
        }
        return STRICT_JSON.decodeFromJsonElement(serializer, if (tree is JsonObject) JsonObject(tree - former) else tree)
    } catch (e: SerializationException) {
        throw Problem("$source is not valid: ${firstLine(e)}", e)
    } catch (e: IllegalArgumentException) {
        throw Problem("$source is not valid: ${firstLine(e)}", e)
    }
}

internal fun <T> writeRecord(
    serializer: KSerializer<T>,
    record: T
): String = STRICT_JSON.encodeToString(serializer, record) + "\n"

/** Writes a file whole or not at all: to a temporary name in the same folder, then renamed. */
fun writeWhole(
    target: File,
    text: String
) {
    val folder = target.absoluteFile.parentFile
    if (!folder.isDirectory && !folder.mkdirs()) throw Problem("The folder $folder cannot be made; is the storage full?")
    val partial = File(folder, ".${target.name}.partial")
    try {
        partial.writeText(text)
        if (!partial.renameTo(target)) throw Problem("$target cannot be written.")
    } catch (e: java.io.IOException) {
        throw Problem("$target cannot be written: ${e.message}", e)
    } finally {
        partial.delete()
    }
}

/** The first line of a parser's message, with fields as they are called in the file. */
private fun firstLine(e: Throwable): String =
    (e.message ?: e.javaClass.simpleName)
        .lineSequence()
        .first()
        .trim()
        .replace(Regex("(?<=['.])[a-z][A-Za-z0-9]*")) { word -> word.value.replace(Regex("[A-Z]")) { "_" + it.value.lowercase() } }

/** A nested tree is no scalar; records of the desk hold scalars in their free-form fields. */
internal fun requireScalars(
    element: Map<String, JsonElement>,
    source: String
) {
    val nested = element.filterValues { it is JsonObject || it is JsonArray }.keys
    if (nested.isNotEmpty()) throw Problem("$source holds something else than a plain value: ${nested.joinToString()}.")
}

internal fun scalar(value: Any?): JsonPrimitive =
    when (value) {
        null -> JsonNull
        is Number -> JsonPrimitive(value)
        is Boolean -> JsonPrimitive(value)
        else -> JsonPrimitive(value.toString())
    }
