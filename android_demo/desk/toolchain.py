"""What both desk builds share: the catalogue's versions, class paths by Maven, resources by aapt2, Kotlin's compiler.

The Android Studio build does the same through Gradle; both read ``gradle/libs.versions.toml`` and the same sources.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from exporters.toolchain.setup import unusable
from udacisense.base.files import sha256_file

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "org.udacisense.demo"
SOON_STARTED = (  # options of a JVM that lives for seconds
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:-BytecodeVerificationRemote",
)


def versions() -> dict[str, str]:
    """Return the [versions] of the catalogue."""
    text = (ROOT / "gradle" / "libs.versions.toml").read_text(encoding="utf-8")
    table = text.split("[versions]", 1)[1].split("\n[", 1)[0]
    return dict(re.findall(r'^(\w+) = "([^"]+)"', table, re.MULTILINE))


def run(*command: str | Path, **options: object) -> None:
    """Run a program; where it fails, end with its name."""
    done = subprocess.run([str(word) for word in command], check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"error: {Path(str(command[0])).name} ended with exit code {done.returncode}; see above")


def need(*tools: str) -> None:
    """End with the command that installs a missing program."""
    jdk = "openjdk-17-jdk-headless"
    packages = {"mvn": "maven", "javac": jdk, "keytool": jdk, "aapt2": "aapt"}
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        names = " ".join(sorted({packages.get(tool, tool) for tool in missing}))
        raise SystemExit(f"error: {', '.join(missing)} not found; sudo apt-get install {names}")


def fixtures(artifacts: Sequence[str] = ()) -> Path:
    """Return the folder of what the tests are run on, made anew where what it is made from has changed."""
    folder, script = ROOT / "build" / "fixtures", ROOT / "desk" / "make_fixtures.py"
    shipped = (p for p in (ROOT.parent / "udacisense" / "zoo").rglob("*") if p.suffix in {".json", ".safetensors"})
    limits = (ROOT.parent / "harness" / "verify" / name for name in ("compare.py", "limits.py"))
    sources = [script, *limits, *sorted((ROOT.parent / "exporters").rglob("*.py")), *sorted(shipped)]
    photos = os.environ.get("UDACISENSE_DATA", "")
    converter = unusable("litert") or ""
    made, wanted = folder / "made.txt", "\n".join([*map(sha256_file, sources), photos, converter, *artifacts])
    if not (made.is_file() and made.read_text() == wanted):
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, script, folder, *artifacts)
        made.write_text(wanted)
    return folder


def class_path(folder: Path, coordinates: list[str]) -> list[Path]:
    """Return the jars of ``group:name:version[:type]`` and of what they need, by Maven; AARs give their classes.

    The answer is kept in ``folder`` until the coordinates change.
    """
    key = hashlib.sha256("\n".join(coordinates).encode()).hexdigest()[:12]
    listing = folder / f"class-path-{key}.txt"
    if not listing.is_file() or not all(Path(p).exists() for p in listing.read_text().split(os.pathsep)):
        folder.mkdir(parents=True, exist_ok=True)
        pom = folder / f"class-path-{key}.xml"
        pom.write_text(_pom(coordinates), encoding="utf-8")
        goal = "dependency:build-classpath"
        run("mvn", "-B", "-q", "-f", pom, goal, f"-Dmdep.outputFile={listing}", stdout=sys.stderr)
    return [_jar(Path(p), folder) for p in listing.read_text().split(os.pathsep)]


def _pom(coordinates: list[str]) -> str:
    rows = []
    for words in (row.split(":") for row in coordinates):
        # What an AAR needs is named apart: their poms ask for jars that are AARs themselves.
        alone = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
        kind = f"<type>{words[3]}</type>{alone}" if len(words) > 3 else ""
        rows.append(
            f"<dependency><groupId>{words[0]}</groupId><artifactId>{words[1]}</artifactId>"
            f"<version>{words[2]}</version>{kind}</dependency>"
        )
    head = '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
    own = "<groupId>org.udacisense</groupId><artifactId>desk</artifactId><version>1</version><packaging>pom</packaging>"
    return f"{head}{own}<dependencies>{''.join(rows)}</dependencies></project>\n"


def _jar(path: Path, folder: Path) -> Path:
    if path.suffix != ".aar":
        return path
    jar = folder / f"{path.stem}.jar"
    if not jar.is_file():
        with zipfile.ZipFile(path) as archive:
            jar.write_bytes(archive.read("classes.jar"))
    return jar


def kotlinc(compiler: list[Path], *, sources: Path, classes: list[Path], to: Path, friend: Path | None = None) -> None:
    """Compile a folder of Kotlin into ``to``; warnings are errors. ``friend``: whose internals are seen."""
    v = versions()
    plugin = next(jar for jar in compiler if "serialization-compiler-plugin" in jar.name)
    words: list[str | Path] = ["-no-stdlib", "-no-reflect", "-Werror", "-jvm-target", v["jvm"], f"-Xplugin={plugin}"]
    # Android's own classes say more of null than the SDK that Android Studio compiles against.
    words += ["-Xnullability-annotations=@android.annotation:ignore"]
    words += [f"-Xfriend-paths={friend}"] if friend else []
    main = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
    jvm = ("-Xmx1g", *SOON_STARTED)
    run("java", *jvm, "-cp", joined(compiler), main, *words, "-cp", joined(classes), "-d", to, sources)


def joined(paths: list[Path]) -> str:
    """Return a class path as one word."""
    return os.pathsep.join(str(path) for path in paths)


def compiler_path(folder: Path) -> list[Path]:
    """Return Kotlin's compiler and its serialization plugin."""
    v = versions()
    names = ("kotlin-compiler-embeddable", "kotlin-serialization-compiler-plugin-embeddable")
    return class_path(folder, [f"org.jetbrains.kotlin:{name}:{v['kotlin']}" for name in names])


def core_path(folder: Path) -> list[Path]:
    """Return what ``:core`` is compiled with."""
    v = versions()
    return class_path(folder, [f"org.jetbrains.kotlinx:kotlinx-serialization-json-jvm:{v['serialization']}"])


def merged_manifest(to: Path) -> Path:
    """Write the manifest as Gradle would merge it: package and SDK levels in, tools' marks out."""
    v = versions()
    text = (ROOT / "app" / "src" / "main" / "AndroidManifest.xml").read_text(encoding="utf-8")
    text = re.sub(r'\s*<uses-permission [^>]*tools:node="remove" />', "", text)
    text = re.sub(r'\s*xmlns:tools="[^"]*"', "", text)
    text = text.replace('android:name=".', f'android:name="{PACKAGE}.')
    version = f'android:versionCode="{v["appVersionCode"]}" android:versionName="{v["appVersionName"]}"'
    text = text.replace("<manifest ", f'<manifest package="{PACKAGE}" {version} ', 1)
    levels = f'<uses-sdk android:minSdkVersion="{v["minSdk"]}" android:targetSdkVersion="{v["targetSdk"]}" />'
    to.write_text(text.replace("<application", f"{levels}\n    <application", 1), encoding="utf-8")
    return to


def resources(folder: Path, android: Path) -> tuple[Path, Path, Path]:
    """Compile and link the app's resources; return (merged manifest, resource APK, folder of R and BuildConfig)."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = merged_manifest(folder / "AndroidManifest.xml")
    compiled, linked, java = folder / "resources.zip", folder / "resources.apk", folder / "java"
    shutil.rmtree(java, ignore_errors=True)
    run("aapt2", "compile", "--dir", ROOT / "app" / "src" / "main" / "res", "-o", compiled)
    link = ["aapt2", "link", "-I", android, "--manifest", manifest, "--java", java, "-o", linked, "--auto-add-overlay"]
    run(*link, compiled)
    v = versions()
    libraries = {"PYTORCH": "pytorch", "ONNXRUNTIME": "onnxruntime", "TENSORFLOW_LITE": "tensorflowLite"}
    lines = [f'  public static final String {name}_VERSION = "{v[key]}";' for name, key in libraries.items()]
    body = "\n".join([f"package {PACKAGE};", "", "public final class BuildConfig {", *lines, "}", ""])
    (java / PACKAGE.replace(".", "/") / "BuildConfig.java").write_text(body, encoding="utf-8")
    classes = folder / "generated"
    sources = [str(p) for p in sorted(java.rglob("*.java"))]
    run("javac", "-nowarn", "--release", v["jvm"], "-d", classes, *sources)
    return manifest, linked, classes
