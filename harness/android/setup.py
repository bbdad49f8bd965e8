"""Setting the Android runtimes up in the user's cache folder: whole and proved, or not there at all."""

from __future__ import annotations

import errno
import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.android import fetch, shim
from harness.android.catalogue import (
    DEFAULT_LIBRARY_VERSION,
    JARS,
    RUNTIMES,
    AndroidRuntime,
    cache_root,
    library,
    missing_tools,
    runtime,
    wrong_host,
)
from harness.android.session import AndroidSession, plugin_argument
from udacisense.errors import InputError, UdacisenseError
from udacisense.files import atomic_path, remove, sha256_file, size_bytes
from udacisense.types import read_json, record, write_record

OnProgress = Callable[[float, str], None]  # (fraction done, what is being done)

_RECORD = "runtime.json"
_SELF_TEST_TOLERANCE = 1e-4
_SELF_TEST_TIMEOUT_S = 180.0
# qemu refuses a plugin of another interface version than its own; the few functions used are in all of these.
_PLUGIN_VERSIONS = (1, 2, 3, 4, 5)


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
    """Return where a runtime is set up; of several library versions the newest. None where it is not."""
    found = [path.parent for path in cache_root().glob(f"{runtime(name).name}-*/{_RECORD}")]
    return max(found, key=lambda path: [int(n) for n in library_version(path).split(".")], default=None)


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
    if read_json(Installed, folder / _RECORD).sources_sha256 != sources_sha256():
        return f"{name} was set up by another version of udacisense; {how}"
    program = row.emulator or "java"
    packages = "qemu-user" if row.emulator else "openjdk-17-jre-headless"
    if not shutil.which(program):
        return f"{name} needs {program}, which is not on PATH; install it with `sudo apt-get install {packages}`"
    return None


def sources_sha256() -> str:
    """Return the digest of everything that set-up compiles or generates from."""
    home = files("harness.android")
    names = ["Driver.java", "shim.py", *(f"native/{p.name}" for p in (home / "native").iterdir() if p.is_file())]
    return hashlib.sha256(b"".join((home / name).read_bytes() for name in sorted(names))).hexdigest()


def add_runtime(
    name: str,
    *,
    library_version: str = DEFAULT_LIBRARY_VERSION,
    offline_dir: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Installed:
    """Set a runtime up: fetch, verify, unpack, build, and prove it by running a small file.

    It is made beside its place and renamed into it. A set-up that was ended halfway leaves its whole downloads, which
    the next one takes up, and nothing that is taken for a runtime. The downloads stay until the last runtime goes.

    Args:
        name: a row of ``RUNTIMES``.
        library_version: of ``pytorch_android_lite``.
        offline_dir: a folder that holds the artifacts (and for arm64 the Debian packages); None fetches them.
        on_progress: called with the fraction done and what is being done.

    Raises:
        InputError: the host, a tool, a file or the disk does not allow it; nothing was set up.
    """
    row = runtime(name)
    tell = on_progress or _tell_nobody
    _check_host(row, offline_dir)
    root = cache_root()
    target = root / f"{name}-{library_version}"
    with _plain_errors(root), atomic_path(target) as partial:
        (root / "downloads").mkdir(parents=True, exist_ok=True)
        (partial / "lib").mkdir(parents=True)
        digest = _fetch(row, partial, library_version, offline_dir, tell)
        tell(0.7, "building the shim")
        symbols = shim.build(partial / "lib", compiler=row.compiler, readelf=row.readelf, target=row.target)
        _compile_driver(partial)
        tell(0.8, "proving it with a small file")
        max_abs = _self_test(row, partial, library_version)
        counts = row.emulator is not None and _build_counter(row, partial)
        remove(partial / "lib" / "src")
        made = Installed(
            name=name,
            library_version=library_version,
            library_sha256=digest,
            pinned=library(library_version).sha256 is not None,
            sources_sha256=sources_sha256(),
            created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            own_symbols=len(symbols.own),
            forwarded_symbols=len(symbols.forwarded),
            refused_symbols=symbols.refused,
            self_test_max_abs=max_abs,
            counts_instructions=counts,
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


def _check_host(row: AndroidRuntime, offline_dir: Path | None) -> None:
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


def _fetch(row: AndroidRuntime, folder: Path, version: str, offline_dir: Path | None, on_progress: OnProgress) -> str:
    """Fill ``lib``, ``classes`` and for arm64 ``jre``; return the SHA-256 of the library's AAR."""
    downloads = cache_root() / "downloads"
    artifact = library(version)
    on_progress(0.0, f"getting {artifact.file_name}")
    aar = fetch.fetch_artifact(artifact, downloads, offline_dir=offline_dir)
    classes = folder / "classes"
    classes.mkdir()
    for jar in JARS:
        on_progress(0.3, f"getting {jar.file_name}")
        shutil.copyfile(fetch.fetch_artifact(jar, downloads, offline_dir=offline_dir), classes / jar.file_name)
    _unpack_library(aar, row.abi, folder)
    if row.emulator:
        on_progress(0.35, "getting the arm64 Java runtime")
        packages = fetch.fetch_java_packages(downloads, offline_dir=offline_dir)
        on_progress(0.6, "unpacking the arm64 Java runtime")
        fetch.unpack_packages(packages, folder / "jre")
        fetch.find_java(folder / "jre")
    return sha256_file(aar)


def _unpack_library(aar: Path, abi: str, folder: Path) -> None:
    try:
        with zipfile.ZipFile(aar) as archive:
            (folder / "classes" / "pytorch_android_lite.jar").write_bytes(archive.read("classes.jar"))
            for name in shim.LIBRARIES:
                (folder / "lib" / name).write_bytes(archive.read(f"jni/{abi}/{name}"))
    except (zipfile.BadZipFile, KeyError, EOFError) as exc:
        remove(aar)
        raise InputError(f"{aar.name} is not a whole AAR with the ABI {abi}: {exc}. Run again to get it anew.") from exc


def _compile_driver(folder: Path) -> None:
    classes = folder / "classes"
    source = folder / "Driver.java"
    source.write_text((files("harness.android") / "Driver.java").read_text(encoding="utf-8"), encoding="utf-8")
    path = ":".join(str(p) for p in classes.glob("*.jar"))
    shim.compile_c(["javac", "--release", "17", "-cp", path, "-d", str(classes), str(source)], folder)
    source.unlink()


def _self_test(row: AndroidRuntime, folder: Path, version: str) -> float:
    """Run a small file in the library and here; return the largest difference.

    Raises:
        InputError: the library fell, or its answer is another one.
    """
    model, image, expected = _small_model(folder)
    try:
        with AndroidSession(
            row,
            folder,
            model,
            library_version=version,
            engine=None,
            threads=1,
            answer_timeout_s=_SELF_TEST_TIMEOUT_S,
        ) as session:
            answer = session.run(image)
    except UdacisenseError as exc:
        raise InputError(f"{row.name} with library {version} was built but fails its self-test: {exc}") from exc
    finally:
        model.unlink()
    max_abs = float(np.abs(answer - expected).max())
    if not max_abs <= _SELF_TEST_TOLERANCE:
        raise InputError(f"{row.name} was built but its self-test differs by {max_abs:.3g} from this host's answer.")
    return max_abs


def _small_model(folder: Path) -> tuple[Path, NDArray[np.float32], NDArray[np.float32]]:
    """Write a small file; return it, an input and the answer to it here."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    image = torch.randn(2, 3, 16, 16, generator=generator)
    path = folder / "self_test.ptl"
    traced = torch.jit.trace(net.eval(), image)  # type: ignore[no-untyped-call]
    torch.jit.freeze(traced)._save_for_lite_interpreter(str(path))
    with torch.inference_mode():
        return path, image.numpy(), net(image).numpy()


def _build_counter(row: AndroidRuntime, folder: Path) -> bool:
    """Build qemu's plugin; return whether this qemu takes it (a static one takes none)."""
    emulator = row.emulator
    assert emulator is not None
    source = folder / "lib" / "src" / "count.c"
    source.write_text(shim.native_source("count.c"), encoding="utf-8")
    plugin = folder / "lib" / "libcount.so"
    root = folder / "jre"
    loader = root / "lib" / "ld-linux-aarch64.so.1"
    for version in _PLUGIN_VERSIONS:
        shim.compile_c(
            ["gcc", "-shared", "-fPIC", "-O2", f"-DPLUGIN_VERSION={version}", "count.c", "-o", "../libcount.so"],
            source.parent,
        )
        counts = folder / "counts"
        run = [emulator, "-L", str(root), "-plugin", plugin_argument(folder, counts), str(loader), "--version"]
        subprocess.run(run, capture_output=True, check=False, timeout=_SELF_TEST_TIMEOUT_S)
        counted = counts.exists() and counts.stat().st_size > 0
        remove(counts)
        if counted:
            return True
    plugin.unlink()
    return False
