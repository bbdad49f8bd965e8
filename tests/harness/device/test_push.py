"""A bundle over real adb: whole on the phone or not there at all, and one sentence for each way that it fails."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from scripted_phone import ScriptedPhone

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import open_bundle
from harness.device.phones import choose, connect
from harness.device.push import bundle_bytes, push_bundle
from udacisense.base.files import sha256_path
from udacisense.cli.main import run
from udacisense.errors import InputError

pytestmark = pytest.mark.adb

PlugIn = Callable[..., ScriptedPhone]
# The client library leaves the socket of a refused transport to the garbage collector.
LEFT_SOCKET = "ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning"


def pushed(phone: ScriptedPhone) -> Path:
    return phone.files / "bundle"


def leftovers(phone: ScriptedPhone) -> list[str]:
    return [path.name for path in phone.files.iterdir() if path.name.startswith("bundle.")]


def test_what_arrives_is_the_bundle_byte_by_byte(plug_in: PlugIn, phone_bundle: Path) -> None:
    phone = plug_in()
    assert run(["device", "push", str(phone_bundle)]) == 0
    assert sha256_path(pushed(phone)) == sha256_path(phone_bundle)
    assert leftovers(phone) == []


def test_a_second_push_replaces_the_first(plug_in: PlugIn, phone_bundle: Path, tmp_path: Path) -> None:
    phone = plug_in()
    pushed(phone).mkdir()
    (pushed(phone) / "old.ptl").write_text("from another bundle")
    assert run(["device", "push", str(phone_bundle)]) == 0
    assert sha256_path(pushed(phone)) == sha256_path(phone_bundle)


def test_a_rollout_lies_beside_the_bundle(plug_in: PlugIn, phone_bundle: Path) -> None:
    phone = plug_in()
    assert run(["device", "push", str(phone_bundle), "--rollout", "ptl-fp32=10"]) == 0
    assert '"ptl-fp32": 10.0' in (pushed(phone) / "rollout.json").read_text()
    (pushed(phone) / "rollout.json").unlink()
    assert sha256_path(pushed(phone)) == sha256_path(phone_bundle)


def test_two_phones_at_once_and_neither_by_chance(
    plug_in: PlugIn, phone_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = plug_in(), plug_in(model="Desk_2")
    assert run(["device", "push", str(phone_bundle)]) == 2
    told = capsys.readouterr().err
    assert first.serial in told
    assert second.serial in told
    assert "--serial" in told
    assert not pushed(first).exists()
    assert run(["device", "push", str(phone_bundle), "--all"]) == 0
    assert sha256_path(pushed(first)) == sha256_path(pushed(second)) == sha256_path(phone_bundle)
    shutil.rmtree(pushed(first))
    assert run(["device", "push", str(phone_bundle), "--serial", second.serial]) == 0
    assert not pushed(first).exists()


def test_one_phone_that_fails_does_not_end_the_others_work(
    plug_in: PlugIn, phone_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without, ready = plug_in(app=False), plug_in()
    assert run(["device", "push", str(phone_bundle), "--all"]) == 2
    assert f"not installed on Desk 1 ({without.serial})" in capsys.readouterr().err
    assert sha256_path(pushed(ready)) == sha256_path(phone_bundle)


def test_the_app_makes_its_own_folder(plug_in: PlugIn, phone_bundle: Path) -> None:
    phone = plug_in(app=False)
    phone.state("installed")
    assert run(["device", "push", str(phone_bundle)]) == 0
    assert len(phone.orders) == 1  # the app was opened, once
    assert sha256_path(pushed(phone)) == sha256_path(phone_bundle)


@pytest.mark.filterwarnings(LEFT_SOCKET)
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_unplugged_half_way(plug_in: PlugIn, phone_bundle: Path, part: float) -> None:
    phone = plug_in()
    bundle = open_bundle(phone_bundle)
    sent = 0

    def unplug(n_bytes: int) -> None:
        nonlocal sent
        sent += n_bytes
        if sent >= part * bundle_bytes(bundle):
            phone.unplug()

    (chosen,) = choose(connect(), serials=(), every=False)
    with pytest.raises(InputError, match="was unplugged or switched off"):
        push_bundle(chosen, bundle, on_bytes=unplug, stop=threading.Event())
    on_disk = phone.root / "sdcard" / phone.files.relative_to(phone.sdcard)
    assert not (on_disk / "bundle").exists()


def test_a_phone_without_room_is_told_before_a_byte_is_sent(
    plug_in: PlugIn, phone_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = plug_in(sdcard="64k")
    assert run(["device", "push", str(phone_bundle)]) == 2
    assert "is full" in capsys.readouterr().err
    assert leftovers(phone) == []


def test_a_phone_that_fills_up_while_it_is_sent_to(plug_in: PlugIn, phone_bundle: Path) -> None:
    bundle = open_bundle(phone_bundle)
    phone = plug_in(sdcard=f"{bundle_bytes(bundle) // 1024 + 200}k")
    (chosen,) = choose(connect(), serials=(), every=False)

    def fill(_: int) -> None:
        with suppress(OSError), (phone.sdcard / "video").open("ab", buffering=0) as out:
            while True:
                out.write(b"x" * 4096)

    with pytest.raises(InputError, match=r"is full: the bundle takes .* MB and .* MB are free"):
        push_bundle(chosen, bundle, on_bytes=fill, stop=threading.Event())
    assert leftovers(phone) == []
    assert not pushed(phone).exists()


def test_a_file_that_arrives_changed_is_not_put_in_place(plug_in: PlugIn, phone_bundle: Path) -> None:
    phone = plug_in()
    bundle = open_bundle(phone_bundle)
    (chosen,) = choose(connect(), serials=(), every=False)

    def damage(_: int) -> None:
        for path in phone.files.glob("bundle.partial-*/golden/images.u8"):
            path.write_bytes(b"\x01" + path.read_bytes()[1:])

    with pytest.raises(InputError, match=r"golden/images\.u8 is not on .* as it was sent"):
        push_bundle(chosen, bundle, on_bytes=damage, stop=threading.Event())
    assert not pushed(phone).exists()
    assert leftovers(phone) == []


def test_a_phone_without_sha256sum_is_read_back(plug_in: PlugIn, phone_bundle: Path) -> None:
    phone = plug_in()
    missing = phone.root / "phone" / "bin" / "sha256sum"
    missing.write_text("#!/bin/sh\nexit 127\n")
    missing.chmod(0o755)
    assert run(["device", "push", str(phone_bundle)]) == 0
    assert sha256_path(pushed(phone)) == sha256_path(phone_bundle)


def test_a_damaged_bundle_never_leaves_the_desk(plug_in: PlugIn, phone_bundle: Path, tmp_path: Path) -> None:
    phone = plug_in()
    copy = shutil.copytree(phone_bundle, tmp_path / "damaged")
    with (copy / "golden" / "logits.f32").open("r+b") as stream:
        stream.write(b"\xff")
    assert run(["device", "push", str(copy)]) == 3
    assert not pushed(phone).exists()


def test_a_locked_phone_is_listed_and_refused(
    plug_in: PlugIn, phone_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phone = plug_in(secure=True, app=False)
    assert run(["device", "list"]) == 0
    assert "allow USB debugging" in capsys.readouterr().out
    assert run(["device", "push", str(phone_bundle)]) == 2
    assert f"The phone {phone.serial} is unauthorized" in capsys.readouterr().err


def test_the_list_shows_what_a_phone_is(plug_in: PlugIn, capsys: pytest.CaptureFixture[str]) -> None:
    phone = plug_in()
    assert run(["device", "list"]) == 0
    told = capsys.readouterr().out
    for words in (phone.serial, "ready", "Desk 1", "14 (API 34)", "arm64-v8a", "installed"):
        assert words in told


def test_an_apk_is_installed_or_android_says_why(
    plug_in: PlugIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import zipfile

    apk = tmp_path / "app.apk"
    with zipfile.ZipFile(apk, "w") as archive:
        archive.writestr("AndroidManifest.xml", "binary xml")
    phone = plug_in(app=False)
    assert run(["device", "install", str(apk)]) == 0
    assert (phone.root / "phone" / "state" / "installed").read_bytes() == apk.read_bytes()
    assert list((phone.root / "data" / "local" / "tmp").iterdir()) == []
    phone.state("refuse-install", "Failure [INSTALL_FAILED_UPDATE_INCOMPATIBLE: signatures do not match]\n")
    capsys.readouterr()
    assert run(["device", "install", str(apk)]) == 2
    assert "adb uninstall org.udacisense.demo" in capsys.readouterr().err


def test_a_bundle_without_anything_for_the_app(phone_bundle: Path, tmp_path: Path) -> None:
    import dataclasses

    from udacisense.base.records import read_json, write_record

    copy = shutil.copytree(phone_bundle, tmp_path / "other")
    manifest = read_json(Manifest, copy / Manifest.FILE_NAME)
    variants = tuple(dataclasses.replace(v, format="torchscript") for v in manifest.variants)
    write_record(copy / Manifest.FILE_NAME, dataclasses.replace(manifest, variants=variants))
    assert run(["device", "push", str(copy)]) == 2
