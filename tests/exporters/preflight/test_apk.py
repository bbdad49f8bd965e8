"""Page alignment of an app's native libraries: libraries that a linker made, in APKs that zipalign aligned."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from exporters.preflight.apk import load_alignments, preflight_apk
from udacisense.base.records import Outcome
from udacisense.cli.main import run
from udacisense.errors import InputError

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """The same library, linked for pages of 4 KB and of 16 KB."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "one.c").write_text("int one = 1; int get(void) { return one; }\n")
    made = {}
    for size in (4096, 16384):
        target = folder / f"lib{size}.so"
        flags = ["-shared", "-fPIC", "-nostdlib", f"-Wl,-z,max-page-size={size}"]
        subprocess.run([gcc, *flags, "-o", str(target), str(folder / "one.c")], check=True)
        made[size] = target.read_bytes()
    return made


def write_apk(path: Path, entries: dict[str, bytes], *, method: int = DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("AndroidManifest.xml", "binary xml")
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def outcomes(path: Path) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in preflight_apk(path).checks}


def test_each_library_is_judged_by_its_own_segments(libraries: dict[int, bytes], tmp_path: Path) -> None:
    apk = write_apk(
        tmp_path / "app.apk",
        {"lib/arm64-v8a/libwide.so": libraries[16384], "lib/arm64-v8a/libnarrow.so": libraries[4096]},
    )
    found = outcomes(apk)
    assert found["lib/arm64-v8a/libwide.so: segments"] is Outcome.PASSED
    assert found["lib/arm64-v8a/libnarrow.so: segments"] is Outcome.FAILED
    assert preflight_apk(apk).verdict is Outcome.FAILED


def test_32_bit_libraries_keep_the_old_pages(libraries: dict[int, bytes], tmp_path: Path) -> None:
    apk = write_apk(tmp_path / "app.apk", {"lib/armeabi-v7a/libnarrow.so": libraries[4096]})
    assert preflight_apk(apk).verdict is Outcome.PASSED


def test_an_uncompressed_library_must_begin_on_a_page(libraries: dict[int, bytes], tmp_path: Path) -> None:
    name = "lib/arm64-v8a/libwide.so"
    apk = write_apk(tmp_path / "app.apk", {name: libraries[16384]}, method=STORED)
    assert outcomes(apk) == {f"{name}: segments": Outcome.PASSED, f"{name}: place in the APK": Outcome.FAILED}
    # The same entry with as much padding in its local header as brings its first byte to a page border.
    aligned = tmp_path / "aligned.apk"
    with zipfile.ZipFile(aligned, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.extra = b"\x35\xd9" + (16384 - 30 - len(name) - 4).to_bytes(2, "little") + bytes(16384 - 34 - len(name))
        archive.writestr(entry, libraries[16384])
    assert preflight_apk(aligned).verdict is Outcome.PASSED
    assert libraries[16384] == aligned.read_bytes()[16384 : 16384 + len(libraries[16384])]


def test_what_zipalign_aligned_to_4_kb_is_refused_for_wide_pages_alone(
    libraries: dict[int, bytes], tmp_path: Path
) -> None:
    zipalign = shutil.which("zipalign")
    if zipalign is None:
        pytest.skip("zipalign is not installed")
    names = {f"lib/{abi}/libone.so": libraries[16384] for abi in ("x86", "x86_64")}
    source = write_apk(tmp_path / "app.apk", {"assets/odd": b"123", **names}, method=STORED)
    subprocess.run([zipalign, "-p", "-f", "4", str(source), str(tmp_path / "aligned.apk")], check=True)
    found = outcomes(tmp_path / "aligned.apk")
    assert found["lib/x86/libone.so: place in the APK"] is Outcome.PASSED
    assert found["lib/x86_64/libone.so: place in the APK"] is (
        Outcome.PASSED if _offset(tmp_path / "aligned.apk", "lib/x86_64/libone.so") % 16384 == 0 else Outcome.FAILED
    )


def _offset(path: Path, name: str) -> int:
    with zipfile.ZipFile(path) as archive:
        return path.read_bytes().index(b"\x7fELF", archive.getinfo(name).header_offset)


def test_an_aar_and_an_aab_are_judged_by_segments_alone(libraries: dict[int, bytes], tmp_path: Path) -> None:
    aar = write_apk(tmp_path / "one.aar", {"jni/x86_64/libone.so": libraries[4096]}, method=STORED)
    aab = write_apk(tmp_path / "one.aab", {"base/lib/x86_64/libone.so": libraries[16384]}, method=STORED)
    assert outcomes(aar) == {"jni/x86_64/libone.so: segments": Outcome.FAILED}
    assert outcomes(aab) == {"base/lib/x86_64/libone.so: segments": Outcome.PASSED}


def test_damage_is_a_failed_check_by_name(libraries: dict[int, bytes], tmp_path: Path) -> None:
    apk = write_apk(
        tmp_path / "app.apk",
        {
            "lib/x86_64/libtext.so": b"no library",
            "lib/x86_64/libcut.so": libraries[16384][:100],
            "lib/x86_64/libwhole.so": libraries[16384],
        },
    )
    failed = [name for name, outcome in outcomes(apk).items() if outcome is Outcome.FAILED]
    assert failed == ["lib/x86_64/libcut.so: segments", "lib/x86_64/libtext.so: segments"]


def test_alignments_are_those_that_the_linker_was_told(libraries: dict[int, bytes]) -> None:
    assert set(load_alignments(libraries[16384])) == {16384}
    assert set(load_alignments(libraries[4096])) == {4096}


def test_an_app_without_libraries_has_nothing_to_align(tmp_path: Path) -> None:
    report = preflight_apk(write_apk(tmp_path / "app.apk", {}))
    assert report.verdict is Outcome.PASSED
    assert "none" in report.checks[0].found


def test_the_command_says_what_it_means_and_the_ways_out(
    libraries: dict[int, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apk = write_apk(tmp_path / "app.apk", {"lib/arm64-v8a/libpytorch_jni_lite.so": libraries[4096]})
    assert run(["preflight", "--apk", str(apk)]) == 1
    told = capsys.readouterr().out
    for words in ("libpytorch_jni_lite.so", "Google Play", "ONNX Runtime", "ExecuTorch"):
        assert words in told
    assert run(["preflight", "--apk", str(apk), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "failed"
    assert run(["preflight", "--apk", str(apk), "--runtime", "2.1.0"]) == 2


def test_what_is_no_app_is_refused(tmp_path: Path) -> None:
    (tmp_path / "app.apk").write_text("no zip")
    with pytest.raises(InputError, match="not a zip file"):
        preflight_apk(tmp_path / "app.apk")
    with pytest.raises(InputError, match="no file"):
        preflight_apk(tmp_path / "absent.apk")
    with zipfile.ZipFile(tmp_path / "photos.apk", "w") as archive:
        archive.writestr("cat.jpg", b"123")
    with pytest.raises(InputError, match="neither an AndroidManifest"):
        preflight_apk(tmp_path / "photos.apk")
