package org.udacisense.demo

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.OpenableColumns
import java.io.File
import java.io.FileNotFoundException

/** The one file that the camera app may write: granted for each photo, in the app's own cache, replaced by the next. */
class CameraFile : ContentProvider() {
    override fun onCreate() = true

    override fun openFile(
        uri: Uri,
        mode: String
    ): ParcelFileDescriptor {
        val context = context ?: throw FileNotFoundException("not ready")
        if (uri != uri(context)) throw FileNotFoundException("$uri")
        return ParcelFileDescriptor.open(file(context), ParcelFileDescriptor.parseMode(mode))
    }

    override fun getType(uri: Uri) = "image/jpeg"

    override fun query(
        uri: Uri,
        projection: Array<String>?,
        selection: String?,
        selectionArgs: Array<String>?,
        sortOrder: String?
    ): Cursor =
        MatrixCursor(arrayOf(OpenableColumns.DISPLAY_NAME, OpenableColumns.SIZE)).apply {
            val file = context?.let { file(it) }
            if (file != null) addRow(arrayOf<Any>(file.name, file.length()))
        }

    override fun insert(
        uri: Uri,
        values: ContentValues?
    ): Uri? = null

    override fun delete(
        uri: Uri,
        selection: String?,
        selectionArgs: Array<String>?
    ) = 0

    override fun update(
        uri: Uri,
        values: ContentValues?,
        selection: String?,
        selectionArgs: Array<String>?
    ) = 0

    companion object {
        fun uri(context: Context): Uri = Uri.parse("content://${context.packageName}.camera/photo.jpg")

        fun file(context: Context): File = File(context.cacheDir, "photo.jpg")
    }
}
