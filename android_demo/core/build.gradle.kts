plugins {
    alias(libs.plugins.kotlin.jvm)
    alias(libs.plugins.kotlin.serialization)
}

kotlin { jvmToolchain(libs.versions.jvm.get().toInt()) }

dependencies {
    implementation(libs.serialization.json)
    testImplementation(libs.junit)
}

// desk/make_fixtures.py writes them: ./gradlew :core:test -Pfixtures=FOLDER
tasks.test {
    onlyIf { project.hasProperty("fixtures") }
    systemProperty("udacisense.fixtures", project.findProperty("fixtures") ?: "")
}
