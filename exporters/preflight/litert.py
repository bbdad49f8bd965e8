"""Will a ``.tflite`` run in a release of TensorFlow Lite's Android library? Read from the file; nothing runs."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from exporters.bundle.metadata import read_extra_file
from exporters.bundle.tflite_file import read_tflite
from exporters.preflight.checks import PreflightCheck, check, check_shape, say_labels, skipped

# Releases of org.tensorflow:tensorflow-lite. A converter notes in the file which release its operators need at least.
# By release: to how many KB its arm64 library is aligned, as `preflight FILE.aar` reads it.
TFLITE_RUNTIMES = {"2.16.1": 4, "2.14.0": 4, "2.8.0": 64}


def check_tflite(path: Path, runtime: str) -> list[PreflightCheck]:
    """Hold a file against a release.

    Raises:
        LoadError: it is damaged.
    """
    file = read_tflite(path)
    own = [name for name, _ in file.codes if name.startswith("custom:") or name == "unknown"]
    needed = file.min_runtime_version
    has_metadata = b"TFLITE_METADATA" in [file.model.Metadata(i).Name() for i in range(file.model.MetadataLength())]
    metadata = read_extra_file(path) if zipfile.is_zipfile(path) else None
    version = "runtime version"
    return [
        check(
            "operators",
            f"not built in: {', '.join(own)}" if own else f"{len({*file.codes})} operators",
            "built-in ones alone",
            "link the library that has them, or rewrite the model without them",
            is_ok=not own,
        ),
        skipped(version, "the file does not say which release its operators need")
        if needed is None
        else check(
            version,
            f"needs {needed}",
            f"up to {runtime}",
            "use a newer library",
            is_ok=_numbers(needed) <= _numbers(runtime),
        ),
        say_labels("there" if has_metadata else None),
        check_shape(metadata),
    ]


def page_warnings(runtime: str) -> tuple[str, ...]:
    """Say so where a release's own library is not fit for phones with memory pages of 16 KB."""
    if TFLITE_RUNTIMES[runtime] >= 16:
        return ()
    return (
        f"the arm64 library of tensorflow-lite {runtime} is aligned to {TFLITE_RUNTIMES[runtime]} KB, so a phone with "
        "memory pages of 16 KB does not load it. Check the AAR that the app takes with `udacisense preflight FILE.aar`",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
