"""A bundle on the phone: whole, byte by byte, or not there at all."""

from __future__ import annotations

import hashlib
import io
import shlex
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePosixPath

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import Bundle, bundle_sha256, check_files
from harness.device.contract import BUNDLE, FILES, FORMATS, PACKAGE
from harness.device.phone import OnBytes, Phone, RefusedError
from udacisense.base.display import megabytes
from udacisense.base.files import sha256_file, size_bytes
from udacisense.base.records import record
from udacisense.errors import InputError, LoadError

_PARTIAL = f"{BUNDLE}.partial-"
_OLD = f"{BUNDLE}.old"
_APP_START_S = 20.0
_SHELL_NOT_FOUND = 127


@record
class Pushed:
    """What :func:`push_bundle` left on one phone."""

    serial: str
    bundle: str
    bundle_sha256: str  # of its manifest.json
    files: int
    n_bytes: int
    duration_s: float


def check_for_app(bundle: Bundle) -> None:
    """Refuse a bundle that is damaged, or that holds nothing for the app.

    Raises:
        LoadError: a file is changed, missing or extra.
        InputError: no variant is of a format that the app runs.
    """
    if problems := check_files(bundle):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise LoadError(f"The bundle {bundle.root} is not whole: {problems[0]}{more}. Export it again.")
    if not any(variant.format in FORMATS for variant in bundle.exported()):
        raise InputError(
            f"The bundle {bundle.root} holds nothing that the app runs; export it with one of the formats "
            f"{', '.join(FORMATS)}, for example: udacisense export ARTIFACT -f ptl."
        )


def bundle_bytes(bundle: Bundle) -> int:
    """Return the bytes of every file that is sent."""
    return sum(size_bytes(bundle.root / name) for name in _names(bundle))


def push_bundle(
    phone: Phone, bundle: Bundle, *, on_bytes: OnBytes, stop: threading.Event, beside: Mapping[str, bytes] | None = None
) -> Pushed:
    """Send a checked bundle: beside its place, compared by SHA-256 on the phone, then renamed into it.

    Args:
        phone: the app must be installed.
        bundle: see :func:`check_for_app`.
        on_bytes: told of every block that was sent.
        stop: where it is set, the sending ends and what was sent is removed.
        beside: files to lie beside the bundle's, of :func:`harness.device.rollout.rollout_file`.

    Raises:
        InputError: the app is missing, the phone is full, went away, or what it holds is not what was sent.
    """
    start = time.monotonic()
    require_app(phone)
    _await_folder(phone, stop)
    needed = bundle_bytes(bundle)
    free = phone.free_bytes(FILES)
    if free is not None and free < needed:
        raise InputError(_full(phone, needed, free))
    partial = f"{_PARTIAL}{uuid.uuid4().hex[:8]}"
    try:
        phone.ask(f"rm -rf {shlex.quote(_PARTIAL)}*; mkdir -p {shlex.quote(partial)}", doing="make a folder")
        _send_all(phone, bundle, partial, beside or {}, on_bytes=on_bytes, stop=stop)
        _compare(phone, bundle, partial, beside or {})
        # A folder cannot be renamed over another one.
        phone.ask(
            f"rm -rf {_OLD}; [ ! -e {BUNDLE} ] || mv {BUNDLE} {_OLD}; mv {partial} {BUNDLE} && rm -rf {_OLD}",
            doing="put the bundle in its place",
        )
    except RefusedError as exc:
        _clear(phone, partial)
        free = phone.free_bytes(FILES)
        if free is not None and free < needed:
            raise InputError(_full(phone, needed, free)) from exc
        raise
    except BaseException:
        _clear(phone, partial)
        raise
    return Pushed(
        serial=phone.serial,
        bundle=bundle.manifest.name,
        bundle_sha256=bundle_sha256(bundle.root),
        files=len(_names(bundle)),
        n_bytes=needed,
        duration_s=time.monotonic() - start,
    )


def require_app(phone: Phone) -> None:
    """Refuse to go on where the demo app is not installed.

    Raises:
        InputError: it is not.
    """
    if not phone.has_app():
        raise InputError(
            f"The demo app is not installed on {phone}: run 'udacisense device install APK' with the one that "
            "'make android-apk' or Android Studio built."
        )


def remote_manifest_sha256(phone: Phone) -> str | None:
    """Return the SHA-256 of the manifest of the bundle that was pushed; None where there is none."""
    if phone.run("test", "-f", f"{BUNDLE}/{Manifest.FILE_NAME}").code:
        return None
    return hashlib.sha256(phone.read(f"{BUNDLE}/{Manifest.FILE_NAME}")).hexdigest()


def _names(bundle: Bundle) -> list[str]:
    return [Manifest.FILE_NAME, *(file.path for file in bundle.manifest.files)]


def _await_folder(phone: Phone, stop: threading.Event) -> None:
    """Open the app once where its folder is not there: a folder that the app did not make may be closed to it."""
    if phone.run("test", "-d", FILES).code == 0:
        return
    phone.ask(
        f"am start -a android.intent.action.MAIN -c android.intent.category.LAUNCHER {PACKAGE}", doing="open the app"
    )
    end = time.monotonic() + _APP_START_S
    while time.monotonic() < end and not stop.is_set():
        if phone.run("test", "-d", FILES).code == 0:
            return
        stop.wait(0.5)
    raise InputError(f"The app on {phone} did not make its folder {FILES}: open it by hand once and run again.")


def _send_all(
    phone: Phone,
    bundle: Bundle,
    partial: str,
    beside: Mapping[str, bytes],
    *,
    on_bytes: OnBytes,
    stop: threading.Event,
) -> None:
    folders = sorted({str(PurePosixPath(partial, name).parent) for name in _names(bundle)})
    phone.ask(f"mkdir -p {shlex.join(folders)}", doing="make a folder")

    def sent(n_bytes: int) -> None:
        if stop.is_set():
            raise InputError("The sending was ended.")
        on_bytes(n_bytes)

    for name in _names(bundle):
        with (bundle.root / name).open("rb") as source:
            phone.send(source, f"{partial}/{name}", on_bytes=sent)
    for name, content in beside.items():
        phone.send(io.BytesIO(content), f"{partial}/{name}", on_bytes=sent)


def _compare(phone: Phone, bundle: Bundle, partial: str, beside: Mapping[str, bytes]) -> None:
    expected = {file.path: file.sha256 for file in bundle.manifest.files}
    expected[Manifest.FILE_NAME] = sha256_file(bundle.root / Manifest.FILE_NAME)
    expected |= {name: hashlib.sha256(content).hexdigest() for name, content in beside.items()}
    ran = phone.script(f"cd {shlex.quote(partial)} && sha256sum {shlex.join(expected)}", timeout_s=300)
    if ran.code == _SHELL_NOT_FOUND:  # before Android 8: read back
        found = {name: hashlib.sha256(phone.read(f"{partial}/{name}")).hexdigest() for name in expected}
    else:
        lines = [line.split(maxsplit=1) for line in ran.text.splitlines()]
        found = {parts[1].removeprefix("*"): parts[0] for parts in lines if len(parts) == 2}
    for name, sha256 in expected.items():
        if found.get(name) != sha256:
            raise InputError(
                f"{name} is not on {phone} as it was sent (its SHA-256 differs): check the cable and push again."
            )


def _clear(phone: Phone, partial: str) -> None:
    with suppress(InputError):  # the phone may be gone; the next push clears up
        phone.run("rm", "-rf", partial)


def _full(phone: Phone, needed: int, free: int) -> str:
    return (
        f"{phone} is full: the bundle takes {megabytes(needed)} and {megabytes(free)} are free. Free some space, or "
        "push a bundle with fewer variants."
    )
