"""Are an app's native libraries fit for phones with memory pages of 16 KB? Asked of an APK, AAB or AAR on a desk.

A library is mapped from its file page by page, so every loadable segment (ELF ``PT_LOAD``) must start on a page border
of the phone, and a library that lies uncompressed in the APK must itself begin on one. Sources: System V ABI, chapter 5
("Program Header": ``p_align``); Android developers' guide, "Support 16 KB page sizes".
"""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from exporters.preflight.checks import PreflightCheck, check
from exporters.preflight.run import PreflightReport
from udacisense.base.files import ZIP_ERRORS, why_absent
from udacisense.base.records import Outcome
from udacisense.errors import InputError

SUFFIXES = (".apk", ".aab", ".aar")
RUNTIME = "Android with pages of 16 KB"
WIDE_BYTES = 16 * 1024
PAGE_BYTES = 4 * 1024
# Phones with wide pages run 64-bit processes alone; libraries of the other two are held to the old pages.
_WIDE_ABIS = ("arm64-v8a", "x86_64")
_LIBRARY = re.compile(r"(?:^|/)(?:lib|jni)/(?P<abi>[^/]+)/[^/]+\.so$")
_PT_LOAD = 1
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip entry: name length, extra length

MEANING = (
    "On a phone with memory pages of 16 KB such a library does not load, or Android starts the app in a "
    "compatibility mode with a warning. Google Play has refused new apps and updates with such 64-bit libraries since "
    "1 November 2025 where they target Android 15 (API 35) or later; installing by adb, from other stores, and with a "
    "lower target stay possible."
)
WAYS_OUT = (
    "Ways out: (1) run the bundle's .onnx or .ort variants on a newer ONNX Runtime than 1.22 (until then its Java "
    "binding, libonnxruntime4j_jni.so, was reported as not aligned) and leave the PyTorch library out of the app; "
    "(2) export for ExecuTorch (-f executorch), PyTorch Mobile's successor, with a newer library than 0.6.0, or for "
    "LiteRT (-f tflite), with a newer one than tensorflow-lite 2.16.1: these two are not aligned either; (3) build the "
    "library again from its source, with NDK r28 or with -Wl,-z,max-page-size=16384. No released PyTorch Mobile is "
    "aligned. Check the AAR that is to replace it with this command before it goes into the app."
)
_REBUILD = "built without -Wl,-z,max-page-size=16384: replace the library, or build it again"
_REALIGN = "zipalign -P 16 -f 4 IN OUT, then sign again; or store it compressed"


def preflight_apk(path: Path) -> PreflightReport:
    """Check the page alignment of every native library of an app.

    Args:
        path: ``.apk``, ``.aab`` or ``.aar``. Where an ``.aab`` places its files is the store's business, and where an
            ``.aar`` does the app's, so of these two the segments alone are checked.

    Raises:
        InputError: it is no such file.
    """
    if not path.is_file():
        raise InputError(f"There is no file at {path}{why_absent(path)}; give an APK, AAB or AAR.")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no APK, AAB or AAR: it is not a zip file, or it is cut short.")
    checks: list[PreflightCheck] = []
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            found = [
                (entry, match["abi"]) for entry in archive.infolist() if (match := _LIBRARY.search(entry.filename))
            ]
            is_android = any(Path(name).name == "AndroidManifest.xml" for name in archive.namelist())
            for entry, abi in sorted(found, key=lambda item: item[0].filename):
                checks.append(_segments(archive, entry, abi))
                if path.suffix.lower() == ".apk":
                    checks.append(_place(stream, entry, abi))
    except ZIP_ERRORS as exc:
        raise InputError(f"{path} is no whole APK, AAB or AAR ({exc}); build or copy it again.") from exc
    if not checks:
        if not is_android:
            raise InputError(
                f"{path} is no APK, AAB or AAR: it holds neither an AndroidManifest.xml nor a native library; give the "
                "file that Android's build wrote."
            )
        found_none = "none: nothing is mapped, so nothing can be misaligned"
        checks.append(check("native libraries", found_none, "", "", is_ok=True))
    is_fit = all(one.outcome is Outcome.PASSED for one in checks)
    return PreflightReport(
        file=str(path),
        runtime=RUNTIME,
        verdict=Outcome.PASSED if is_fit else Outcome.FAILED,
        checks=tuple(checks),
        warnings=() if is_fit else (MEANING.rstrip("."), WAYS_OUT.rstrip(".")),
    )


def _limit(abi: str) -> int:
    return WIDE_BYTES if abi in _WIDE_ABIS else PAGE_BYTES


def _segments(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, abi: str) -> PreflightCheck:
    name, limit = f"{entry.filename}: segments", _limit(abi)
    allowed = f"{limit // 1024} KB or a multiple"
    try:
        with archive.open(entry) as library:
            alignments = load_alignments(library.read())
    except (InputError, *ZIP_ERRORS) as exc:
        return check(name, f"unreadable: {exc}", allowed, "pack it again", is_ok=False)
    smallest = min(alignments)
    return check(name, f"aligned to {_bytes(smallest)}", allowed, _REBUILD, is_ok=smallest % limit == 0)


def _place(stream: BinaryIO, entry: zipfile.ZipInfo, abi: str) -> PreflightCheck:
    """Check where an uncompressed library begins in the APK; a compressed one is unpacked when the app is installed."""
    name, limit = f"{entry.filename}: place in the APK", _limit(abi)
    allowed = f"compressed, or at a multiple of {limit // 1024} KB"
    if entry.compress_type != zipfile.ZIP_STORED:
        return check(name, "compressed", allowed, "", is_ok=True)
    try:
        stream.seek(entry.header_offset)
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    except (struct.error, ValueError) as exc:
        return check(name, f"unreadable: {exc}", allowed, "pack it again", is_ok=False)
    offset = entry.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    return check(name, f"uncompressed at byte {offset}", allowed, _REALIGN, is_ok=offset % limit == 0)


def load_alignments(library: bytes) -> tuple[int, ...]:
    """Return ``p_align`` (bytes) of every loadable segment of a little-endian ELF file.

    Raises:
        InputError: it is no such file, or it has none.
    """
    if library[:4] != b"\x7fELF" or len(library) < 64 or library[4] not in (1, 2) or library[5] != 1:
        raise InputError("it is no little-endian ELF library")
    # e_phoff, e_phentsize and e_phnum of the file header; p_type and p_align of a program header.
    is_wide = library[4] == 2
    (table,) = struct.unpack_from("<Q" if is_wide else "<I", library, 32 if is_wide else 28)
    size, count = struct.unpack_from("<HH", library, 54 if is_wide else 42)
    alignments = []
    try:
        for i in range(count):
            start = table + i * size
            (kind,) = struct.unpack_from("<I", library, start)
            (align,) = struct.unpack_from("<Q" if is_wide else "<I", library, start + (48 if is_wide else 28))
            if kind == _PT_LOAD:
                alignments.append(max(align, 1))
    except (struct.error, OverflowError) as exc:
        raise InputError("its program headers lie beyond its end") from exc
    if not alignments:
        raise InputError("it has no loadable segment")
    return tuple(alignments)


def _bytes(count: int) -> str:
    return f"{count // 1024} KB" if count % 1024 == 0 else f"{count} bytes"
