"""``make android-test``: the Android sources compiled, checked and tested on a desk, with the real libraries.

Usage: python desk/test.py [--only CLASS ...] [--skip-lint] [--pictures FOLDER] [--artifact NAME=FOLDER]

Kotlin's own compiler, ktlint, JUnit for ``:core``, and Robolectric for the screens. There the x86_64 libraries of the
AARs of PyTorch and TensorFlow Lite run, on one stand-in for bionic, made as ``udacisense runtime add`` makes one for
each. All that is written lies in ``android_demo/build/``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import toolchain
from toolchain import ROOT, class_path, compiler_path, core_path, joined, kotlinc, resources, versions

from harness.runtime import shim
from harness.runtime.catalogue import runtime
from harness.runtime.setup import find_folder, unusable

BUILD = ROOT / "build"
RUNTIMES = tuple(runtime(name) for name in ("android-x86_64", "litert-android-x86_64"))
NATIVES = tuple(name for row in RUNTIMES for name in row.library.natives)


def main() -> None:
    """Run all steps; each is told with its seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--artifact", action="append", default=[], help="NAME=ARTIFACT of make_fixtures.py")
    parser.add_argument("--only", nargs="+", default=[], help="test classes")
    parser.add_argument("--skip-lint", action="store_true")
    parser.add_argument("--pictures", type=Path, help="where the screens are drawn to")
    options = parser.parse_args()
    toolchain.need("mvn", "javac", "aapt2", "gcc")
    folders = step("the phone's libraries", lambda: [runtime_folder(row.name) for row in RUNTIMES])
    fixtures = step("fixtures", lambda: toolchain.fixtures(options.artifact))
    if not options.skip_lint:
        step("ktlint", lint)
    core, core_tests = step(":core", compile_core)
    tests = step(":app", lambda: compile_app(core, folders))
    selected = options.only or [name_of(p) for p in sorted(ROOT.glob("*/src/test/kotlin/**/*Test.kt"))]
    jvm = [f"-Dudacisense.fixtures={fixtures}", "-Xmx3g"]
    in_core = [name for name in selected if name.startswith("org.udacisense.core")]
    in_app = [name for name in selected if name not in in_core]
    if in_core:
        step("tests of :core", lambda: junit([core, *core_tests], in_core, jvm))
    if in_app:
        jvm += screen_options(natives(folders), options.pictures)
        orders = {f"{toolchain.PACKAGE}.{name}" for name in ("OrderTest", "CascadeTest")} <= set(in_app)
        if orders:
            shutil.rmtree(fixtures / "results", ignore_errors=True)
        step("tests of the screens", lambda: junit(tests, in_app, jvm))
        if orders:
            step("the harness takes home what the app wrote", read_results)


def step(name: str, work):  # type: ignore[no-untyped-def]
    """Run one step and tell how long it took."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    answer = work()
    print(f"== {name}: {time.monotonic() - start:.1f} s", flush=True)
    return answer


def runtime_folder(name: str) -> Path:
    """Return the folder of an AAR's x86_64 library on its stand-in for bionic; set it up where it is not."""
    if unusable(name) is not None:
        add = "import sys; from udacisense.cli.main import run; sys.exit(run(['runtime', 'add', sys.argv[1]]))"
        toolchain.run(sys.executable, "-c", add, name)
    folder = find_folder(name)
    assert folder is not None
    return folder


def natives(folders: list[Path]) -> Path:
    """Return a folder of all libraries on one stand-in for bionic: one process has one ``libc.so``."""
    target, how = BUILD / "natives", RUNTIMES[0].bionic
    assert how is not None
    if fresh(target, *folders):
        for row, folder in zip(RUNTIMES, folders, strict=True):
            for name in row.library.natives:
                shutil.copyfile(folder / "lib" / name, target / name)
        shim.build(target, compiler=how.compiler, readelf=how.readelf, target=how.target, names=NATIVES)
        done(target)
    return target


def lint() -> None:
    """Run ktlint over all Kotlin, by the .editorconfig beside it."""
    v = versions()
    path = class_path(BUILD / "desk", [f"com.pinterest.ktlint:ktlint-cli:{v['ktlint']}"])
    opened = ["--add-opens=java.base/java.lang=ALL-UNNAMED"]
    command = [
        "java",
        *opened,
        "-cp",
        joined(path),
        "com.pinterest.ktlint.Main",
        "--relative",
        "*/src/**/*.kt",
        "**/*.kts",
    ]
    toolchain.run(*command, cwd=ROOT)


def compile_core() -> tuple[Path, list[Path]]:
    """Compile ``:core`` and its tests; return its classes, and what its tests run with besides."""
    compiler, library = compiler_path(BUILD / "desk"), core_path(BUILD / "desk")
    junit_jars = class_path(BUILD / "desk", [f"junit:junit:{versions()['junit']}"])
    classes, tests = BUILD / "core" / "main", BUILD / "core" / "test"
    if fresh(classes, ROOT / "core" / "src" / "main"):
        kotlinc(compiler, sources=ROOT / "core" / "src" / "main" / "kotlin", classes=library, to=classes)
        done(classes)
    path = [classes, *library, *junit_jars]
    if fresh(tests, ROOT / "core" / "src"):
        kotlinc(compiler, sources=ROOT / "core" / "src" / "test" / "kotlin", classes=path, to=tests, friend=classes)
        done(tests)
    return classes, [tests, *library, *junit_jars]


def compile_app(core: Path, folders: list[Path]) -> list[Path]:
    """Compile ``:app`` and its tests; return the class path that its tests run with."""
    v, desk = versions(), BUILD / "desk"
    android = class_path(desk, [f"org.robolectric:android-all:{v['androidAll']}"])[0]
    table = class_path(desk, [f"org.robolectric:android-all:{v['androidResources']}"])[0]
    manifest, linked, generated = resources(BUILD / "app" / "resources", table)
    onnx = class_path(desk, [f"com.microsoft.onnxruntime:onnxruntime:{v['onnxruntime']}"])
    android_jars = [jar for folder in folders for jar in sorted((folder / "classes").glob("*.jar"))]
    main, tests = BUILD / "app" / "main", BUILD / "app" / "test"
    compiler, common = compiler_path(desk), [generated, core, *core_path(desk), *android_jars, *onnx]
    if fresh(main, ROOT / "app" / "src" / "main", ROOT / "core" / "src" / "main"):
        kotlinc(compiler, sources=ROOT / "app" / "src" / "main" / "kotlin", classes=[*common, android], to=main)
        done(main)
    robolectric = class_path(
        desk,
        [
            f"org.robolectric:robolectric:{v['robolectric']}",
            f"androidx.test:monitor:{v['testMonitor']}:aar",
            f"androidx.tracing:tracing:{v['tracing']}:aar",
            f"junit:junit:{v['junit']}",
        ],
    )
    path = [main, *common, *robolectric]
    if fresh(tests, ROOT / "app" / "src", ROOT / "core" / "src" / "main"):
        kotlinc(
            compiler, sources=ROOT / "app" / "src" / "test" / "kotlin", classes=[*path, android], to=tests, friend=main
        )
        done(tests)
    config = BUILD / "app" / "config" / "com" / "android" / "tools"
    config.mkdir(parents=True, exist_ok=True)
    assets = BUILD / "app" / "assets"
    assets.mkdir(exist_ok=True)
    lines = {
        "android_merged_manifest": manifest,
        "android_resource_apk": linked,
        "android_merged_assets": assets,
        "android_custom_package": toolchain.PACKAGE,
    }
    (config / "test_config.properties").write_text("".join(f"{k}={v}\n" for k, v in lines.items()), encoding="utf-8")
    # Robolectric needs the names of Android before its own loader takes over.
    return [BUILD / "app" / "config", tests, *path, android]


def fresh(to: Path, *sources: Path) -> bool:
    """Return whether something is newer than what was compiled from it; then an empty folder is ready."""
    stamp = to.with_suffix(".done")
    newest = max(p.stat().st_mtime for folder in sources for p in folder.rglob("*") if p.is_file())
    if stamp.exists() and stamp.stat().st_mtime > newest and stamp.read_text() == compiled_by():
        return False
    shutil.rmtree(to, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    to.mkdir(parents=True)
    return True


def done(to: Path) -> None:
    """Mark what was compiled as whole."""
    to.with_suffix(".done").write_text(compiled_by())


def compiled_by() -> str:
    """Return the versions that compiled classes depend on."""
    v = versions()
    names = ("kotlin", "serialization", "jvm", "onnxruntime", "pytorch", "tensorflowLite", "robolectric")
    return " ".join(v[name] for name in names)


def screen_options(libraries: Path, pictures: Path | None) -> list[str]:
    """Return what the JVM of the screen tests needs: the Android libraries by path, Robolectric's Android offline."""
    v = versions()
    offline = BUILD / "robolectric"
    offline.mkdir(exist_ok=True)
    for jar in class_path(BUILD / "desk", [f"org.robolectric:android-all-instrumented:{v['androidAll']}-i7"]):
        target = offline / jar.name
        if not target.exists():
            target.symlink_to(jar)
    loaded = ":".join(str(libraries / name) for name in (*shim.SHIMS, shim.BINDER, *NATIVES))
    opened = ["java.lang", "java.util", "java.io", "java.net", "sun.nio.ch"]
    return [
        f"-Djava.library.path={libraries}",
        f"-Dudacisense.natives={loaded}",
        "-Drobolectric.offline=true",
        f"-Drobolectric.dependency.dir={offline}",
        *([f"-Dudacisense.pictures={pictures.resolve()}"] if pictures else []),
        *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in opened),
    ]


def junit(path: list[Path], names: list[str], jvm: list[str]) -> None:
    """Run test classes, in a JVM of their own."""
    command = ["java", *toolchain.SOON_STARTED, *jvm, "-cp", joined(path), "org.junit.runner.JUnitCore", *names]
    code = subprocess.run(command, cwd=ROOT, check=False, timeout=900).returncode
    if code:
        raise SystemExit(f"error: tests failed (exit code {code}); see above")


def read_results() -> None:
    """Take what the tests left the way of a phone's own results: report, gate, comparison."""
    tests = ROOT.parent / "tests" / "harness" / "device" / "test_app_results.py"
    toolchain.run(sys.executable, "-m", "pytest", "-q", tests, cwd=ROOT.parent)


def name_of(path: Path) -> str:
    """Return a test's class name."""
    return ".".join(path.relative_to(next(p for p in path.parents if p.name == "kotlin")).with_suffix("").parts)


if __name__ == "__main__":
    main()
