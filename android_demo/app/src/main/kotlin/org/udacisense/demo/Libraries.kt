package org.udacisense.demo

/** What the app is built with; the build writes the catalogue's versions into its resources. */
object Libraries {
    val VERSIONS: Map<String, String> =
        mapOf(
            "pytorch_android_lite" to BuildConfig.PYTORCH_VERSION,
            "onnxruntime-android" to BuildConfig.ONNXRUNTIME_VERSION,
            "tensorflow-lite" to BuildConfig.TENSORFLOW_LITE_VERSION
        )
}
