plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "org.udacisense.demo"
    compileSdk = libs.versions.targetSdk.get().toInt()

    defaultConfig {
        applicationId = "org.udacisense.demo"
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = libs.versions.appVersionCode.get().toInt()
        versionName = libs.versions.appVersionName.get()
        buildConfigField("String", "PYTORCH_VERSION", "\"${libs.versions.pytorch.get()}\"")
        buildConfigField("String", "ONNXRUNTIME_VERSION", "\"${libs.versions.onnxruntime.get()}\"")
        buildConfigField("String", "TENSORFLOW_LITE_VERSION", "\"${libs.versions.tensorflowLite.get()}\"")
    }

    buildFeatures { buildConfig = true }

    // Models are read through a copy anyway, and compress little; the native libraries need page alignment.
    androidResources { noCompress += listOf("ptl", "onnx", "ort", "tflite") }

    // Two runtimes bring the C++ library.
    packaging { jniLibs.pickFirsts += "**/libc++_shared.so" }

    compileOptions {
        sourceCompatibility = JavaVersion.toVersion(libs.versions.jvm.get())
        targetCompatibility = JavaVersion.toVersion(libs.versions.jvm.get())
    }
}

kotlin { jvmToolchain(libs.versions.jvm.get().toInt()) }

dependencies {
    implementation(project(":core"))
    implementation(libs.serialization.json)
    implementation(libs.pytorch)
    implementation(libs.onnxruntime.android)
    implementation(libs.tensorflow.lite)
}
