"""Setting a runtime up: whole and proved, or not there at all."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.runtime import catalogue, setup
from harness.runtime.catalogue import JARS, ONNXRUNTIME, PYTORCH
from udacisense.base.files import locked, sha256_file
from udacisense.base.records import write_record
from udacisense.errors import InputError

PINNED = PYTORCH.artifact(PYTORCH.default_version)

MISSING = catalogue.wrong_host() or "; ".join(
    f"{tool} is not on PATH ({command})" for tool, command in catalogue.missing_tools("android-x86_64", offline=True)
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "nothing is missing")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "runtimes"


@pytest.fixture
def whole(x86_64: str, tmp_path: Path) -> Path:
    """A folder with the real artifacts, for ``offline_dir``. (Asked for before ``cache``, which hides them.)"""
    folder = tmp_path / "offline"
    folder.mkdir()
    for artifact in (PINNED, *JARS):
        (folder / artifact.file_name).symlink_to(catalogue.cache_root() / "downloads" / artifact.file_name)
    return folder


def _spoil(folder: Path, name: str, content: bytes) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)


def _nothing_stands(cache: Path, *, but: tuple[str, ...] = ()) -> None:
    assert {path.name for path in cache.iterdir()} <= {"downloads"}
    assert {path.name for path in (cache / "downloads").iterdir()} <= set(but)
    assert setup.find_folder("android-x86_64") is None


@pytest.mark.android
def test_a_truncated_library_is_refused(whole: Path, cache: Path) -> None:
    content = (whole / PINNED.file_name).read_bytes()
    _spoil(whole, PINNED.file_name, content[: len(content) // 2])
    with pytest.raises(InputError, match=r"pytorch_android_lite-1.12.2.aar is not the pinned file.*truncated"):
        setup.add_runtime("android-x86_64", offline_dir=whole)
    _nothing_stands(cache)


@pytest.mark.android
def test_a_jar_with_another_checksum_is_refused(whole: Path, cache: Path) -> None:
    _spoil(whole, JARS[0].file_name, b"another jar")
    with pytest.raises(InputError, match=JARS[0].file_name):
        setup.add_runtime("android-x86_64", offline_dir=whole)
    _nothing_stands(cache, but=(PINNED.file_name,))


@pytest.mark.android
def test_a_truncated_library_without_a_pin_is_refused(whole: Path, cache: Path) -> None:
    content = (whole / PINNED.file_name).read_bytes()
    _spoil(whole, "pytorch_android_lite-9.9.9.aar", content[: len(content) // 2])
    with pytest.raises(InputError, match="not a whole AAR"):
        setup.add_runtime("android-x86_64", library_version="9.9.9", offline_dir=whole)
    _nothing_stands(cache, but=tuple(jar.file_name for jar in JARS))


@pytest.mark.android
def test_a_truncated_onnxruntime_without_a_pin_is_refused(
    onnxruntime_arm64: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ONNXRUNTIME.artifact(ONNXRUNTIME.default_version).file_name
    content = (catalogue.cache_root() / "downloads" / name).read_bytes()
    offline, cache = tmp_path / "offline", tmp_path / "cache"
    offline.mkdir()
    _spoil(offline, "onnxruntime-9.9.9.jar", content[: len(content) // 2])
    monkeypatch.setenv("UDACISENSE_CACHE", str(cache))
    with pytest.raises(InputError, match="not a whole JAR"):
        setup.add_runtime(onnxruntime_arm64, library_version="9.9.9", offline_dir=offline)
    assert [path.name for path in (cache / "runtimes").iterdir()] == ["downloads"]
    assert not list((cache / "runtimes" / "downloads").iterdir())


@pytest.mark.android
def test_a_killed_set_up_is_taken_up_again(whole: Path, cache: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from harness.runtime import setup\n"
        "def tell(fraction, what):\n"
        "    if fraction > 0.75: os.kill(os.getpid(), signal.SIGKILL)\n"
        "setup.add_runtime('android-x86_64', offline_dir=Path(sys.argv[1]), on_progress=tell)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code, str(whole)], env=env, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert setup.find_folder("android-x86_64") is None
    fetched = cache / "downloads" / PINNED.file_name
    before = fetched.stat().st_mtime_ns
    (whole / PINNED.file_name).unlink()  # a second fetch would now fail

    made = setup.add_runtime("android-x86_64", offline_dir=whole)

    assert made.self_test_max_abs < 1e-4
    assert fetched.stat().st_mtime_ns == before
    assert setup.unusable("android-x86_64") is None
    assert {path.name for path in cache.iterdir()} == {"downloads", "android-x86_64-1.12.2"}
    assert not list((cache / "android-x86_64-1.12.2").rglob("*partial*"))


@pytest.mark.android
def test_removing_the_last_runtime_removes_its_downloads(whole: Path, cache: Path) -> None:
    setup.add_runtime("android-x86_64", offline_dir=whole)
    removed = setup.remove_runtime("android-x86_64")
    assert {path.name for path in removed} == {"android-x86_64-1.12.2", "downloads"}
    assert not list(cache.iterdir())
    assert setup.remove_runtime("android-x86_64") == ()


@pytest.mark.android
def test_a_disk_that_fills_up_leaves_nothing(whole: Path, cache: Path) -> None:
    """A limit on file size makes the kernel refuse a write in the middle, as a full disk does."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from harness.runtime import setup\n"
        "from udacisense.errors import InputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    setup.add_runtime('android-x86_64', offline_dir=Path(sys.argv[1]))\n"
        "except InputError as exc:\n"
        "    print(exc)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code, str(whole)], env=env, capture_output=True, text=True, check=False)
    assert "Nothing was set up" in ran.stdout, ran.stderr
    assert len(ran.stdout.splitlines()) == 1
    _nothing_stands(cache)


def test_too_little_room_is_said_beforehand(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = dataclasses.replace(catalogue.RUNTIMES["android-x86_64"], disk_bytes=10**18)
    monkeypatch.setitem(catalogue.RUNTIMES, "android-x86_64", huge)
    with pytest.raises(InputError, match="make room, or set UDACISENSE_CACHE"):
        setup.add_runtime("android-x86_64", offline_dir=tmp_path)
    assert not list(cache.iterdir())


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UDACISENSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=str(tmp_path / "file")):
        setup.add_runtime("android-x86_64", offline_dir=tmp_path)


def test_an_offline_folder_without_the_files_says_which(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"does not hold {PINNED.file_name}"):
        setup.add_runtime("android-x86_64", offline_dir=tmp_path)
    _nothing_stands(cache)


def test_missing_tools_are_named_with_their_command(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"aarch64-linux-gnu-gcc \(sudo apt-get install gcc-aarch64-linux-gnu"):
        setup.add_runtime("android-arm64")
    names = [name for name, _ in catalogue.missing_tools("android-arm64")]
    assert {"javac", "gcc", "aarch64-linux-gnu-gcc", "qemu-aarch64", "mvn", "apt-get"} <= set(names)
    offline = [name for name, _ in catalogue.missing_tools("android-arm64", offline=True)]
    assert "mvn" not in offline


def test_maven_that_cannot_get_it_is_quoted(cache: Path) -> None:
    if not shutil.which("mvn"):
        pytest.skip("mvn is not on PATH")
    with pytest.raises(InputError, match=r"Maven could not get org.pytorch:pytorch_android_lite:0.0.1:aar") as caught:
        setup.add_runtime("android-x86_64", library_version="0.0.1")
    assert "://" not in str(caught.value)
    _nothing_stands(cache)


@pytest.mark.parametrize("version", ["latest", "1", "../1.12.2", "1.12.2-SNAPSHOT"])
def test_a_version_that_is_none_is_refused(cache: Path, version: str) -> None:
    with pytest.raises(InputError, match="is not a version"):
        setup.add_runtime("android-x86_64", library_version=version)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(InputError, match="android-x86_64, android-arm64"):
        setup.add_runtime("android-mips")


def test_list_says_what_to_do(cache: Path) -> None:
    states = setup.list_runtimes()
    assert [state.name for state in states] == list(catalogue.RUNTIMES)
    assert all(state.folder is None and f"runtime add {state.name}" in str(state.reason) for state in states)


@pytest.mark.android
def test_a_runtime_of_other_sources_is_not_used(whole: Path, cache: Path) -> None:
    setup.add_runtime("android-x86_64", offline_dir=whole)
    made = cache / "android-x86_64-1.12.2" / "runtime.json"
    made.write_text(made.read_text().replace(setup.sources_sha256("android-x86_64"), "0" * 64))
    assert "another version of udacisense" in str(setup.unusable("android-x86_64"))


def test_of_several_versions_the_one_added_last_is_used(cache: Path) -> None:
    for version, day in (("1.13.0", 1), ("1.9.0", 3), ("1.12.2", 2)):
        made = setup.Installed(
            name="android-x86_64",
            library_version=version,
            library_sha256="0" * 64,
            pinned=False,
            sources_sha256=setup.sources_sha256("android-x86_64"),
            created_utc=f"2026-11-0{day}T00:00:00+00:00",
            own_symbols=0,
            forwarded_symbols=0,
            refused_symbols=(),
            self_test_max_abs=0.0,
            counts_instructions=False,
        )
        (cache / f"android-x86_64-{version}").mkdir(parents=True)
        write_record(cache / f"android-x86_64-{version}" / "runtime.json", made)
    assert setup.find_folder("android-x86_64") == cache / "android-x86_64-1.9.0"
    assert setup.list_runtimes()[0].library_version == "1.9.0"


def test_one_set_up_at_a_time_fetches(cache: Path, tmp_path: Path) -> None:
    with (
        locked(cache / "downloads"),
        pytest.raises(InputError, match=r"Another `udacisense runtime add` fetches into .*/downloads now"),
    ):
        setup.add_runtime("android-x86_64", offline_dir=tmp_path)
    _nothing_stands(cache)
    with pytest.raises(InputError, match="does not hold"):  # it is free again
        setup.add_runtime("android-x86_64", offline_dir=tmp_path)
    _nothing_stands(cache)


@pytest.mark.android
def test_every_stated_cost_covers_what_stands(x86_64: str, arm64: str, onnxruntime_arm64: str) -> None:
    downloads = catalogue.cache_root() / "downloads"
    for state in setup.list_runtimes():
        if state.name not in (x86_64, arm64, onnxruntime_arm64):
            continue  # the tests set up no other
        row = catalogue.runtime(state.name)
        names = {artifact.file_name for artifact in (row.library.artifact(str(state.library_version)), *row.jars)}
        kept = [p for p in downloads.iterdir() if p.name in names or (p.suffix == ".deb" and row.emulator)]
        taken = (state.disk_bytes or 0) + sum(p.stat().st_size for p in kept)
        assert 0.7 * taken < catalogue.cost(state.name)[0] < 1.3 * taken
    assert sha256_file(downloads / PINNED.file_name) == PINNED.sha256
