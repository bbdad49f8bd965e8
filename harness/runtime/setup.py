"""Setting the runtimes up in the user's cache folder: whole and proved, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from harness.runtime import build
from harness.runtime.build import OnProgress
from harness.runtime.catalogue import RUNTIMES, Runtime, cache_root, missing_tools, runtime, wrong_host
from udacisense.base.display import now_utc
from udacisense.base.files import atomic_path, remove, size_bytes
from udacisense.base.records import read_json, record, write_record
from udacisense.errors import InputError

_RECORD = "runtime.json"


@record
class Installed:
    """``runtime.json`` of a runtime that is set up: what it was made of and what proved it."""

    name: str
    library_version: str
    library_sha256: str
    pinned: bool  # whether that checksum is one the product knows
    sources_sha256: str  # of the shim's and the driver's sources
    created_utc: str
    own_symbols: int
    forwarded_symbols: int
    refused_symbols: tuple[str, ...]  # calling one of them ends the worker with its name
    self_test_max_abs: float
    counts_instructions: bool


@dataclass(frozen=True, kw_only=True)
class RuntimeState:
    """A row of :func:`list_runtimes`."""

    name: str
    folder: Path | None  # None: not set up
    library_version: str | None
    disk_bytes: int | None
    reason: str | None  # why it cannot be used as it is, and what would help; None where it can


def list_runtimes() -> tuple[RuntimeState, ...]:
    """Return the state of every runtime there is, set up or not."""
    states = []
    for name in RUNTIMES:
        folder = find_folder(name)
        states.append(
            RuntimeState(
                name=name,
                folder=folder,
                library_version=library_version(folder) if folder else None,
                disk_bytes=size_bytes(folder) if folder else None,
                reason=unusable(name),
            )
        )
    return tuple(states)


def find_folder(name: str) -> Path | None:
    """Return where a runtime is set up; of several library versions the one added last. None where it is not."""
    found = [path.parent for path in cache_root().glob(f"{runtime(name).name}-*/{_RECORD}")]
    if len(found) < 2:
        return found[0] if found else None
    # Always in UTC and to the second, so that the later text is the later time.
    return max(found, key=lambda path: read_json(Installed, path / _RECORD).created_utc)


def library_version(folder: Path) -> str:
    """Return the library's version of the runtime in a folder."""
    return folder.name.rsplit("-", 1)[1]


def unusable(name: str) -> str | None:
    """Return why a runtime cannot be used here, and what would help; None where it can."""
    row = runtime(name)
    folder = find_folder(name)
    how = f"run `udacisense runtime add {name}`"
    if (reason := wrong_host()) is not None:
        return reason
    if folder is None:
        return f"{name} is not set up; {how}"
    if read_json(Installed, folder / _RECORD).sources_sha256 != sources_sha256(name):
        return f"{name} was set up by another version of udacisense; {how}"
    program = row.emulator or "java"
    packages = "qemu-user" if row.emulator else "openjdk-17-jre-headless"
    if not shutil.which(program):
        return f"{name} needs {program}, which is not on PATH; install it with `sudo apt-get install {packages}`"
    return None


def sources_sha256(name: str) -> str:
    """Return the digest of everything that setting up a runtime compiles or generates from."""
    row, home = runtime(name), files("harness.runtime")
    native = [f"native/{p.name}" for p in (home / "native").iterdir() if p.is_file()]
    names = (
        ["shim.py", *native]
        if row.bionic
        else [*(f"native/{name}" for name in build.driver_sources(row)), "native/count.c"]
    )
    return hashlib.sha256(b"".join((home / name).read_bytes() for name in sorted(names))).hexdigest()


def add_runtime(
    name: str,
    *,
    library_version: str | None = None,
    offline_dir: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Installed:
    """Set a runtime up: fetch, verify, unpack, build, and prove it by running a small file.

    It is made beside its place and renamed into it. A set-up that was ended halfway leaves its whole downloads, which
    the next one takes up, and nothing that is taken for a runtime. The downloads stay until the last runtime goes, and
    one set-up at a time fetches into them. Of several versions of a library the one added last is used.

    Args:
        name: a row of ``RUNTIMES``.
        library_version: of its library; None takes the one that is known to work.
        offline_dir: a folder that holds the artifacts (and for arm64 the Debian packages); None fetches them.
        on_progress: called with the fraction done and what is being done.

    Raises:
        InputError: the host, a tool, a file or the disk does not allow it; nothing was set up.
    """
    row = runtime(name)
    version = library_version or row.library.default_version
    artifact = row.library.artifact(version)
    tell = on_progress or _tell_nobody
    _check_host(row, offline_dir)
    root = cache_root()
    with _plain_errors(root), atomic_path(root / f"{name}-{version}") as partial:
        (root / "downloads").mkdir(parents=True, exist_ok=True)
        built = build.make(row, partial, artifact, offline_dir=offline_dir, on_progress=tell)
        made = Installed(
            name=name,
            library_version=version,
            library_sha256=built.library_sha256,
            pinned=artifact.sha256 is not None,
            sources_sha256=sources_sha256(name),
            created_utc=now_utc(),
            own_symbols=len(built.symbols.own),
            forwarded_symbols=len(built.symbols.forwarded),
            refused_symbols=built.symbols.refused,
            self_test_max_abs=built.self_test_max_abs,
            counts_instructions=built.counts_instructions,
        )
        write_record(partial / _RECORD, made)
    tell(1.0, "done")
    return made


def _tell_nobody(fraction: float, what: str) -> None:
    del fraction, what


def remove_runtime(name: str) -> tuple[Path, ...]:
    """Remove a runtime, every version of it, and with the last runtime the downloads; return what was removed."""
    runtime(name)
    root = cache_root()
    removed = [path.parent for path in root.glob(f"{name}-*/{_RECORD}")]
    if not any(root.glob(f"*/{_RECORD}")) or {p.parent for p in root.glob(f"*/{_RECORD}")} == set(removed):
        removed += [path for path in (root / "downloads",) if path.exists()]
    for path in removed:
        remove(path)
    return tuple(removed)


def _check_host(row: Runtime, offline_dir: Path | None) -> None:
    if (reason := wrong_host()) is not None:
        raise InputError(f"{row.name} cannot be set up: {reason}.")
    if offline_dir is not None and not offline_dir.is_dir():
        raise InputError(f"{offline_dir} is not a folder; give one that holds the artifacts, or leave --offline out.")
    if missing := missing_tools(row.name, offline=offline_dir is not None):
        wanted = "; ".join(f"{tool} ({command})" for tool, command in missing)
        raise InputError(f"{row.name} needs programs that are not on PATH: {wanted}.")
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
    except OSError as exc:
        raise InputError(f"The cache folder {root} cannot be used: {exc.strerror or exc}.") from exc
    if free < row.disk_bytes:
        raise InputError(
            f"{row.name} takes {row.disk_bytes / 1e6:.0f} MB below {root}, where {free / 1e6:.0f} MB are free; "
            "make room, or set UDACISENSE_CACHE to another folder."
        )


@contextmanager
def _plain_errors(root: Path) -> Iterator[None]:
    """Say a full disk and the like in a sentence."""
    try:
        yield
    except OSError as exc:
        why = "the disk is full" if exc.errno == errno.ENOSPC else exc.strerror or str(exc)
        raise InputError(f"Setting up below {root} failed: {why}. Nothing was set up; run it again.") from exc
