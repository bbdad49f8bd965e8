"""``make android-apk``: the app as an APK without Gradle, signed for debugging, and checked.

Usage: python apk/build.py [--bundle BUNDLE] [-o APK]

Kotlin's own compiler, D8, and Debian's aapt2, zipalign and apksigner, on the sources and versions that Gradle reads.
The bundle within is BUNDLE, else the one that ``udacisense device stage`` put into the sources, else the tests'
tiny one. All that is written lies in ``android_demo/build/``.

Native libraries are compressed in the APK and unpacked when it is installed. ONNX Runtime's come with its Android AAR;
where Maven cannot get that one, the APK carries the same Java API without them, and says so: ``.ptl`` and ``.tflite``
variants run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "desk"), str(ROOT.parent)]

import toolchain  # noqa: E402
from toolchain import class_path, compiler_path, core_path, joined, kotlinc, resources, versions  # noqa: E402

from exporters.bundle.manifest import Manifest  # noqa: E402
from exporters.bundle.open import Bundle, check_files, open_bundle  # noqa: E402
from exporters.preflight.apk import preflight_apk  # noqa: E402
from harness.device.rollout import Rollout  # noqa: E402
from udacisense.base.records import Outcome  # noqa: E402

BUILD = ROOT / "build"
DESK = BUILD / "desk"
WORK = BUILD / "apk"
ABIS = ("arm64-v8a", "armeabi-v7a", "x86", "x86_64")
LIBRARIES = ("libc++_shared.so", "libfbjni.so", "libpytorch_jni_lite.so", "libtensorflowlite_jni.so")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same inputs give the same bytes


def main() -> None:
    """Build, sign and check; end with 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--bundle", type=Path, help="folder of the bundle within")
    parser.add_argument("-o", "--output", type=Path, default=BUILD / "udacisense-demo.apk")
    options = parser.parse_args()
    toolchain.need("mvn", "javac", "keytool", "aapt2", "zipalign", "apksigner")
    WORK.mkdir(parents=True, exist_ok=True)
    bundle = chosen_bundle(options.bundle)
    classes, libraries, linked = step("compile", compile_all)
    dexed = step("D8", lambda: dex(classes))
    step("pack", lambda: pack(linked, dexed, libraries, bundle))
    step("align and sign", lambda: align_and_sign(options.output))
    if not step("check", lambda: check(options.output, bundle)):
        raise SystemExit(1)
    size = options.output.stat().st_size
    print(f"{options.output}: {size / 1e6:.1f} MB with the bundle {bundle.manifest.name}")
    print(f"\nNext:  udacisense device install {os.path.relpath(options.output)}")


def step(name: str, work):  # type: ignore[no-untyped-def]
    """Run one step and tell how long it took."""
    start = time.monotonic()
    answer = work()
    print(f"== {name}: {time.monotonic() - start:.1f} s", flush=True)
    return answer


def chosen_bundle(given: Path | None) -> Bundle:
    """Return the bundle that goes into the APK, whole."""
    staged = ROOT / "app" / "src" / "main" / "assets" / "bundle"
    place = given or (staged if staged.is_dir() else toolchain.fixtures() / "bundles" / "tiny")
    bundle = open_bundle(place)
    if problems := [one for one in check_files(bundle) if not one.startswith(f"{Rollout.FILE_NAME} is extra")]:
        raise SystemExit(f"error: the bundle {place} is not whole: {problems[0]}")
    print(f"bundle: {bundle.manifest.name} ({place})", flush=True)
    return bundle


def compile_all() -> tuple[list[Path], list[Path], Path]:
    """Compile ``:core`` and ``:app``; return (classes and jars of the app, AARs with libraries, resource APK)."""
    v = versions()
    table = class_path(DESK, [f"org.robolectric:android-all:{v['androidResources']}"])[0]
    android = class_path(DESK, [f"org.robolectric:android-all:{v['androidAll']}"])[0]
    _, linked, generated = resources(WORK / "resources", table)
    linked = debuggable(linked, table)
    pytorch_aar, pytorch = aar("org.pytorch", "pytorch_android_lite", v["pytorch"])
    java = [
        f"com.facebook.fbjni:fbjni-java-only:{v['fbjni']}",
        f"com.facebook.soloader:nativeloader:{v['nativeloader']}",
    ]
    tensorflow_aar, tensorflow = aar("org.tensorflow", "tensorflow-lite", v["tensorflowLite"])
    _, tensorflow_api = aar("org.tensorflow", "tensorflow-lite-api", v["tensorflowLite"])
    libraries = [pytorch_aar, tensorflow_aar]
    jars = [pytorch, tensorflow, tensorflow_api, *class_path(DESK, java)]
    try:
        onnx_aar, onnx = aar("com.microsoft.onnxruntime", "onnxruntime-android", v["onnxruntime"])
        libraries.append(onnx_aar)
    except SystemExit:
        print("note: onnxruntime-android cannot be had here; the APK has its Java API and no library of it", flush=True)
        onnx = class_path(DESK, [f"com.microsoft.onnxruntime:onnxruntime:{v['onnxruntime']}"])[0]
    jars.append(onnx)
    compiler, common = compiler_path(DESK), core_path(DESK)
    core, app = WORK / "core", WORK / "app"
    for folder in (core, app):
        shutil.rmtree(folder, ignore_errors=True)
    kotlinc(compiler, sources=ROOT / "core" / "src" / "main" / "kotlin", classes=common, to=core)
    path = [generated, core, *common, *jars, android]
    kotlinc(compiler, sources=ROOT / "app" / "src" / "main" / "kotlin", classes=path, to=app)
    return [core, app, generated, *common, *jars], libraries, linked


def aar(group: str, name: str, version: str) -> tuple[Path, Path]:
    """Return an AAR, without what it depends on, and its classes."""
    target = DESK / f"{name}-{version}.aar"
    if not target.is_file():
        DESK.mkdir(parents=True, exist_ok=True)
        coordinates = f"-Dartifact={group}:{name}:{version}:aar"
        goal = ["mvn", "-B", "-q", "-C", "dependency:copy", coordinates, f"-DoutputDirectory={DESK}"]
        toolchain.run(*goal, stdout=subprocess.DEVNULL)
    jar = DESK / f"{name}-{version}-classes.jar"
    with zipfile.ZipFile(target) as archive:
        jar.write_bytes(archive.read("classes.jar"))
    return target, jar


def debuggable(linked: Path, table: Path) -> Path:
    """Link again with the mark of a debug build, which lets adb look into the app's own folder (``run-as``)."""
    folder = linked.parent
    manifest = folder / "AndroidManifest-debug.xml"
    text = (folder / "AndroidManifest.xml").read_text(encoding="utf-8")
    manifest.write_text(text.replace("<application", '<application android:debuggable="true"', 1), encoding="utf-8")
    target = folder / "resources-debug.apk"
    words = ["aapt2", "link", "-I", table, "--manifest", manifest, "-o", target, "--auto-add-overlay"]
    toolchain.run(*words, folder / "resources.zip")
    return target


def dex(classes: list[Path]) -> list[Path]:
    """Make the app's classes into what Android runs."""
    v = versions()
    d8 = class_path(DESK, [f"com.android.tools:r8:{v['r8']}"])
    android = class_path(DESK, [f"org.robolectric:android-all:{v['androidAll']}"])[0]
    target = WORK / "dex"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    inputs: list[Path] = []
    for i, entry in enumerate(classes):
        inputs.append(WORK / f"input-{i}.jar")
        _classes_alone(entry, inputs[-1])
    # Robolectric's jar of Android has no java.lang: those classes are the JDK's.
    jdk = Path(shutil.which("javac") or "javac").resolve().parents[1]
    words = ["--debug", "--min-api", v["minSdk"], "--lib", android, "--lib", jdk, "--output", target]
    toolchain.run("java", "-Xmx1g", "-XX:+UseSerialGC", "-cp", joined(d8), "com.android.tools.r8.D8", *words, *inputs)
    return sorted(target.glob("classes*.dex"))


def _classes_alone(source: Path, jar: Path) -> None:
    """Copy the classes of a folder or a jar: D8 takes neither natives nor module descriptors."""
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_STORED) as out:
        if source.is_dir():
            for path in sorted(source.rglob("*.class")):
                out.write(path, path.relative_to(source).as_posix())
            return
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if name.endswith(".class") and not name.startswith("META-INF/") and name != "module-info.class":
                    out.writestr(name, archive.read(name))


def pack(linked: Path, dexed: list[Path], libraries: list[Path], bundle: Bundle) -> None:
    """Write the unsigned APK: resources as aapt2 made them, classes, libraries of the four ABIs, the bundle."""
    target = WORK / "unsigned.apk"
    shutil.copyfile(linked, target)
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as apk:
        for path in dexed:
            _add(apk, path.name, path.read_bytes())
        for aar_path in libraries:
            with zipfile.ZipFile(aar_path) as archive:
                for name in sorted(archive.namelist()):
                    if re.fullmatch(rf"jni/({'|'.join(ABIS)})/[^/]+\.so", name):
                        _add(apk, f"lib/{name.removeprefix('jni/')}", archive.read(name))
        for name in files_of(bundle):
            _add(apk, f"assets/bundle/{name}", (bundle.root / name).read_bytes())


def _add(apk: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=_ZIP_DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    if name not in apk.namelist():  # two AARs may carry the same C++ library
        apk.writestr(entry, content)


def files_of(bundle: Bundle) -> list[str]:
    """Return the paths of a bundle's files, the manifest first, and of the rollout that was staged with it."""
    beside = [Rollout.FILE_NAME] if (bundle.root / Rollout.FILE_NAME).is_file() else []
    return [Manifest.FILE_NAME, *(file.path for file in bundle.manifest.files), *beside]


def align_and_sign(output: Path) -> None:
    """Align, and sign with the user's debug key, which Android Studio uses too; one is made where there is none."""
    aligned = WORK / "aligned.apk"
    toolchain.run("zipalign", "-p", "-f", "4", WORK / "unsigned.apk", aligned)
    key = Path.home() / ".android" / "debug.keystore"
    if not key.is_file():
        key = WORK / "debug.keystore"
    if not key.is_file():
        words = ["-genkeypair", "-keyalg", "RSA", "-keysize", "2048", "-validity", "10950", "-alias", "androiddebugkey"]
        secret = ["-storepass", "android", "-keypass", "android", "-storetype", "PKCS12"]
        toolchain.run("keytool", *words, *secret, "-dname", "CN=Android Debug,O=Android,C=US", "-keystore", key)
    output.parent.mkdir(parents=True, exist_ok=True)
    signing = ["--ks", key, "--ks-pass", "pass:android", "--ks-key-alias", "androiddebugkey"]
    level = ["--min-sdk-version", versions()["minSdk"], "--v4-signing-enabled", "false"]
    toolchain.run("apksigner", "sign", *signing, *level, "--out", output, aligned)


def check(path: Path, bundle: Bundle) -> bool:
    """Hold the finished APK against what it should be; tell every point."""
    points = [*_signature(path), *_badging(path), *_content(path, bundle), *_pages(path)]
    for passed, what in points:
        print(f"{'passed' if passed else 'FAILED'}  {what}", flush=True)
    wide = preflight_apk(path)
    failed = [check for check in wide.checks if check.outcome is not Outcome.PASSED]
    if failed:
        print(f"note: {len(failed)} libraries are not aligned to 16 KB; 'udacisense preflight --apk {path}' tells")
    return all(passed for passed, _ in points)


def _output(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _signature(path: Path) -> list[tuple[bool, str]]:
    code, text = _output("apksigner", "verify", "--verbose", "--min-sdk-version", versions()["minSdk"], path)
    is_v2 = re.search(r"Verified using v2 scheme.*: true", text) is not None
    aligned, _ = _output("zipalign", "-c", "-p", "4", path)
    return [
        (code == 0 and is_v2, "signature (apksigner verify, scheme 2)"),
        (aligned == 0, "alignment (zipalign -c -p 4)"),
    ]


def _badging(path: Path) -> list[tuple[bool, str]]:
    v = versions()
    _, text = _output("aapt2", "dump", "badging", path)
    wanted = {
        f"package: name='{toolchain.PACKAGE}' versionCode='{v['appVersionCode']}'": "package and version",
        f"sdkVersion:'{v['minSdk']}'": f"minSdk {v['minSdk']}",
        f"targetSdkVersion:'{v['targetSdk']}'": f"targetSdk {v['targetSdk']}",
        f"launchable-activity: name='{toolchain.PACKAGE}.MainActivity'": "MainActivity starts it",
        "native-code: " + " ".join(f"'{abi}'" for abi in ABIS): f"native code for {', '.join(ABIS)}",
    }
    points = [(line in text, f"badging: {what}") for line, what in wanted.items()]
    asked = re.findall(r"uses-permission: name='([^']+)'", text)
    return [*points, (not asked, f"badging: no permission at all{': ' + ', '.join(asked) if asked else ''}")]


def _content(path: Path, bundle: Bundle) -> list[tuple[bool, str]]:
    with zipfile.ZipFile(path) as apk:
        names = set(apk.namelist())
        expected = {f"assets/bundle/{name}": _sha256((bundle.root / name).read_bytes()) for name in files_of(bundle)}
        packed = {name for name in names if name.startswith("assets/")}
        equal = packed == set(expected) and all(_sha256(apk.read(name)) == expected[name] for name in packed)
        wanted = {f"lib/{abi}/{library}" for abi in ABIS for library in LIBRARIES}
        whole = apk.testzip() is None
        dexed = all(apk.read(n)[:4] == b"dex\n" for n in names if n.endswith(".dex")) and "classes.dex" in names
    return [
        (whole, "every entry unpacks"),
        (dexed, "classes.dex"),
        (wanted <= names, f"{len(wanted)} libraries of PyTorch and TensorFlow Lite, {len(LIBRARIES)} for each ABI"),
        (equal, f"assets: {len(packed)} files, every SHA-256 that of the bundle"),
    ]


def _pages(path: Path) -> list[tuple[bool, str]]:
    """Pages of 4 KB are what every phone of the app's minSdk has; wider ones are told as a note."""
    checks = preflight_apk(path).checks
    places = [c.outcome is Outcome.PASSED for c in checks if c.name.endswith(": place in the APK")]
    segments = [c.found.startswith("aligned to ") and c.found.endswith(" KB") for c in checks if ": seg" in c.name]
    return [
        (bool(places) and all(places), f"{len(places)} libraries lie where they can be mapped, or are compressed"),
        (bool(segments) and all(segments), f"{len(segments)} libraries have segments of whole 4 KB pages"),
    ]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
