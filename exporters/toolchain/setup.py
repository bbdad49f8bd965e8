"""Set up, check and remove the environments of converters: whole and proved, or told to be broken.

An environment cannot be moved once it is made, so it is made in its place: its record is written last, and a folder
without one is taken for nothing. The downloads, checked by their hashes, stay until it is whole: a set-up that was
ended halfway goes on from there.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from udacisense.base.display import now_utc
from udacisense.base.files import cache_folder, locked, remove, size_bytes
from udacisense.base.records import read_json, record, write_record
from udacisense.errors import InputError, did_you_mean

OnProgress = Callable[[float, str], None]  # (fraction done, what is being done)

_RECORD = "toolchain.json"
_LOCK = Path(__file__).with_name("requirements.lock")  # made by `uv pip compile`; its first lines say how
_CHUNK = 8  # requirements that one run of pip downloads: what is whole after it stays
DOWNLOAD_BYTES = 2_900_000_000  # as measured on Linux, where torch brings its CUDA libraries along
DISK_BYTES = 9_000_000_000  # at its fullest: downloads and environment
SECONDS = 900.0  # rounded up from what was measured on 2 very busy cores


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """One row of :data:`TOOLCHAINS`."""

    name: str
    environment: str  # its folder; two names may share one
    formats: tuple[str, ...]  # that it writes and runs
    modules: tuple[str, ...]  # whose import proves it


# All pins of these work together, so both names are one environment. Where they cease to, a row gets its own lock.
TOOLCHAINS: dict[str, Toolchain] = {
    row.name: row
    for row in (
        Toolchain(
            name="executorch",
            environment="torch-2.14.1",
            formats=("executorch",),
            modules=("torch", "torchvision", "executorch.runtime", "executorch.exir", "torchao"),
        ),
        Toolchain(
            name="litert",
            environment="torch-2.14.1",
            formats=("tflite",),
            modules=("torch", "torchvision", "litert_torch", "ai_edge_litert.interpreter", "ai_edge_quantizer"),
        ),
    )
}


@record
class Installed:
    """``toolchain.json``: what an environment was made of."""

    lock_sha256: str
    python: str  # version
    entries: tuple[str, ...]  # of its site-packages
    created_utc: str
    disk_bytes: int


@dataclass(frozen=True, kw_only=True)
class ToolchainState:
    """A row of :func:`list_toolchains`."""

    name: str
    folder: Path | None  # None: not set up
    version: str
    disk_bytes: int | None
    reason: str | None  # why it cannot be used as it is, and what would help; None where it can


def toolchain(name: str) -> Toolchain:
    """Return a row of :data:`TOOLCHAINS`.

    Raises:
        InputError: there is no such row.
    """
    if name not in TOOLCHAINS:
        hint = did_you_mean(name, TOOLCHAINS)
        raise InputError(f"There is no toolchain {name!r}; there are {', '.join(TOOLCHAINS)}.{hint}")
    return TOOLCHAINS[name]


def folder_of(name: str) -> Path:
    """Return where a toolchain's environment is, or would be."""
    return cache_folder() / "toolchains" / toolchain(name).environment


def is_begun(name: str) -> bool:
    """Tell whether anything of a toolchain is here, its downloads alone too."""
    return any(path.exists() for path in _places(folder_of(name)))


def _places(folder: Path) -> tuple[Path, Path]:
    """Return where an environment is, and where its downloads wait until it is whole."""
    return folder, folder.with_name(f"{folder.name}.downloads")


def list_toolchains() -> tuple[ToolchainState, ...]:
    """Return the state of every toolchain there is, set up or not."""
    return tuple(_state(name) for name in TOOLCHAINS)


def _state(name: str) -> ToolchainState:
    made = _installed(folder_of(name))
    return ToolchainState(
        name=name,
        folder=folder_of(name) if made else None,
        version=toolchain(name).environment,
        disk_bytes=made.disk_bytes if made else None,
        reason=unusable(name),
    )


def python_of(name: str | None) -> Path | None:
    """Return the interpreter of a toolchain; None, which is this one, for None and where it is :func:`unusable`."""
    return None if name is None or unusable(name) else _python(folder_of(name))


def unusable(name: str) -> str | None:
    """Return why a toolchain cannot be used here, and what would help; None where it can.

    Quick: what it looks at is the record and the names in one folder. :func:`damage` looks at every file.
    """
    folder = folder_of(name)
    how = f"run `udacisense runtime add {name}`"
    made = _installed(folder)
    if made is None:
        state = "its set-up was not finished" if is_begun(name) else "it is not set up"
        return f"{state}; {how} ({DISK_BYTES / 1e9:.0f} GB of disk)"
    if made.lock_sha256 != _lock_sha256():
        return f"its environment was made for another release of this program; {how}"
    if not _python(folder).exists():
        return f"the Python {made.python} that its environment was made with is gone; {how}"
    here = {path.name for path in _packages(folder).iterdir()} if _packages(folder).is_dir() else set()
    if missing := sorted(set(made.entries) - here):
        return f"its environment has lost {', '.join(missing[:3])}{' and more' if missing[3:] else ''}; {how}"
    return None


def damage(name: str) -> str | None:
    """Return what is wrong with a toolchain, every file of its packages looked at; None where all is well."""
    if (reason := unusable(name)) is not None:
        return reason
    folder, how = folder_of(name), f"run `udacisense runtime add {name}`"
    packages = _packages(folder)
    for listing in sorted(packages.glob("*.dist-info/RECORD")):
        with listing.open(newline="", encoding="utf-8") as stream:
            for place, _, size in (row for row in csv.reader(stream) if len(row) == 3):
                path = packages / place
                if size and (not path.is_file() or path.stat().st_size != int(size)):
                    return f"{place} of {listing.parent.name.removesuffix('.dist-info')} is not as installed; {how}"
    try:
        _prove(name, folder)
    except InputError as exc:
        return f"{exc} To make it anew, {how}"
    return None


def add_toolchain(name: str, *, offline_dir: Path | None = None, on_progress: OnProgress | None = None) -> Installed:
    """Set a toolchain's environment up, anew where it is there: download, check the hashes, install, import.

    Args:
        name: a row of ``TOOLCHAINS``.
        offline_dir: a folder with the distributions of ``requirements.lock``; None downloads them by pip, whose own
            settings say from where.
        on_progress: called with the fraction done and what is being done.

    Raises:
        InputError: the host, a file or the disk does not allow it; nothing was set up.
    """
    folder, tell = folder_of(name), on_progress or _tell_nobody
    downloads = _places(folder)[1] if offline_dir is None else offline_dir
    _check_room(name, folder, offline_dir)
    with locked(folder), _whole_or_nothing(folder):
        tell(0.0, "making an environment")
        # Not this interpreter where that is itself an environment's: its own base.
        _run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", str(folder)], "venv")
        if offline_dir is None:
            _download(folder, downloads, tell)
        tell(0.6, "unpacking the packages")
        _pip(folder, "install", "--no-index", "--find-links", str(downloads), "-r", str(_LOCK))
        tell(0.95, "importing them")
        _prove(name, folder)
        made = Installed(
            lock_sha256=_lock_sha256(),
            python=".".join(map(str, sys.version_info[:3])),
            entries=tuple(sorted(path.name for path in _packages(folder).iterdir())),
            created_utc=now_utc(),
            disk_bytes=size_bytes(folder),
        )
        write_record(folder / _RECORD, made)
    if offline_dir is None:
        remove(downloads)
    tell(1.0, "done")
    return made


def remove_toolchain(name: str) -> tuple[Path, ...]:
    """Remove a toolchain's environment, which others may share, and its downloads; return what was removed."""
    removed = tuple(path for path in _places(folder_of(name)) if path.exists())
    for path in removed:
        remove(path)
    return removed


def _tell_nobody(fraction: float, what: str) -> None:
    del fraction, what


def _lock_sha256() -> str:
    return hashlib.sha256(_LOCK.read_bytes()).hexdigest()


def _installed(folder: Path) -> Installed | None:
    return read_json(Installed, folder / _RECORD) if (folder / _RECORD).is_file() else None


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _packages(folder: Path) -> Path:
    found = sorted(folder.glob("lib/python3.*/site-packages"))
    return found[0] if found else folder / "lib"


def _check_room(name: str, folder: Path, offline_dir: Path | None) -> None:
    if offline_dir is not None and not offline_dir.is_dir():
        raise InputError(f"{offline_dir} is not a folder; give one that holds the packages, or leave --offline out.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    except OSError as exc:
        raise InputError(f"The cache folder {folder.parent} cannot be used: {exc.strerror or exc}.") from exc
    # The environment is made anew, and what is downloaded stays.
    free += sum(size_bytes(path) for path in _places(folder) if path.is_dir())
    if free < DISK_BYTES:
        raise InputError(
            f"{name} takes {DISK_BYTES / 1e9:.0f} GB below {folder.parent}, where {free / 1e9:.1f} GB are free; "
            "make room, or set UDACISENSE_CACHE to another folder."
        )


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[None]:
    """Remove what was made where the block is left early; say a full disk and the like in a sentence."""
    try:
        yield
    except BaseException as exc:
        remove(folder)
        if isinstance(exc, OSError):
            why = "the disk is full" if exc.errno == errno.ENOSPC else exc.strerror or str(exc)
            exc = InputError(f"Setting up {folder} failed: {why}.")
        if isinstance(exc, InputError):
            raise InputError(f"{exc} Nothing was set up, and what is downloaded stays; run it again.") from exc
        raise


def _download(folder: Path, downloads: Path, tell: OnProgress) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    wanted = _requirements(_LOCK.read_text(encoding="utf-8"))
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        tell(0.05 + 0.55 * start / len(wanted), f"getting {chunk[0].split('==')[0]} and others")
        with tempfile.TemporaryDirectory(prefix="udacisense-pip-") as scratch:
            part = Path(scratch) / "part.txt"
            part.write_text("\n".join(chunk), encoding="utf-8")
            _pip(folder, "download", "--dest", str(downloads), "-r", str(part))


def _requirements(lock: str) -> list[str]:
    """Return the entries of a lock, each with the hashes that follow it."""
    return [entry for entry in re.split(r"\n(?=\S)", lock) if not entry.startswith("#") and entry.strip()]


def _pip(folder: Path, *words: str) -> None:
    # The lock is whole, dependencies and all: none is looked for.
    options = ("--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps", "--only-binary", ":all:")
    _run([str(_python(folder)), "-m", "pip", words[0], *options, *words[1:]], "pip", scratch=folder)


def _prove(name: str, folder: Path) -> None:
    """Import what a toolchain is for.

    Raises:
        InputError: that failed.
    """
    imports = f"import {', '.join(toolchain(name).modules)}"
    _run([str(_python(folder)), "-I", "-W", "ignore", "-c", imports], f"importing {name}'s packages")


def _run(words: list[str], what: str, *, scratch: Path | None = None) -> None:
    # What is unpacked on the way lies on the disk whose room was checked.
    env = {**os.environ, **({"TMPDIR": str(scratch)} if scratch else {})}
    try:
        ran = subprocess.run(words, capture_output=True, text=True, check=False, env=env, timeout=3600)
    except subprocess.TimeoutExpired as exc:
        raise InputError(f"{what} came to no end within an hour.") from exc
    if ran.returncode:
        lines = [line.strip() for line in (ran.stderr or ran.stdout).splitlines() if line.strip()] or [
            "it gave no reason"
        ]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        # Addresses of mirrors may carry a user's credentials: they stay out of messages.
        said = re.sub(r"\b[a-z]+://\S+", "(its index)", (errors or lines)[-1])
        raise InputError(f"{what} failed: {said[:300].rstrip('.')}.")
