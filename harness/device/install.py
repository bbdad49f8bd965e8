"""The demo app onto a phone."""

from __future__ import annotations

import re
import uuid
import zipfile
from contextlib import suppress
from pathlib import Path

from harness.device.contract import PACKAGE
from harness.device.phone import OnBytes, Phone, last_line
from udacisense.base.files import ZIP_ERRORS
from udacisense.errors import InputError

_FOLDER = "/data/local/tmp"
_INSTALL_S = 300.0
# What Android answers, and what to do about it.
_ADVICE = {
    "INSTALL_FAILED_INSUFFICIENT_STORAGE": "the phone is full: free some space",
    "INSTALL_FAILED_NO_MATCHING_ABIS": "the APK holds no library for this phone's processor: build it for all four",
    "INSTALL_FAILED_OLDER_SDK": "the phone's Android is older than the app supports (7.0)",
    "INSTALL_FAILED_UPDATE_INCOMPATIBLE": "another build of the app, signed by another key, is installed: "
    f"run 'adb uninstall {PACKAGE}' (its results are lost) and install again",
    "INSTALL_FAILED_USER_RESTRICTED": "the phone asked on its screen and was not allowed: allow installing over USB",
    "INSTALL_FAILED_VERSION_DOWNGRADE": f"a newer build is installed: run 'adb uninstall {PACKAGE}' first",
    "INSTALL_PARSE_FAILED_NO_CERTIFICATES": "the APK is not signed: sign it with apksigner",
}


def check_apk(path: Path) -> None:
    """Refuse a file that is no APK.

    Raises:
        InputError: it does not exist or is no zip with a manifest.
    """
    if not path.is_file():
        raise InputError(f"There is no APK at {path}; build one with 'make android-apk' or in Android Studio.")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no APK: it is not a zip file, or it is cut short.")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_ERRORS as exc:
        raise InputError(f"{path} is no whole APK ({exc}); build or copy it again.") from exc
    if "AndroidManifest.xml" not in names:
        raise InputError(f"{path} is no APK: it holds no AndroidManifest.xml.")


def install_apk(phone: Phone, path: Path, *, on_bytes: OnBytes) -> None:
    """Install an APK, in place of an older one.

    Raises:
        InputError: Android refuses it (with the way out where it is known), or the phone went away.
    """
    remote = f"{_FOLDER}/udacisense-{uuid.uuid4().hex[:8]}.apk"
    try:
        with path.open("rb") as source:
            phone.send(source, remote, on_bytes=on_bytes)
        ran = phone.run("pm", "install", "-r", "-t", remote, timeout_s=_INSTALL_S)
    finally:
        with suppress(InputError):  # where the phone is gone, the first error is the one to tell
            phone.run("rm", "-f", remote)
    if "Success" in ran.text:
        return
    code = re.search(r"INSTALL_[A-Z_]+", ran.text)
    said = last_line(ran.text) or f"exit code {ran.code}"
    advice = _ADVICE.get(code[0], said) if code else said
    raise InputError(f"{path.name} was not installed on {phone}: {advice}.")
