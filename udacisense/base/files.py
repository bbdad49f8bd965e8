"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import lzma
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from udacisense.errors import BusyError, InputError, LoadError

METADATA_KEY = "udacisense"  # of what our files say about themselves, in the metadata that their format has

# What the standard library raises on a damaged, encrypted or exotic zip file; its decompressors' errors are no OSError.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    UnicodeDecodeError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
)
_PARTIAL = ".partial-"
_OLD = ".partial-old-"  # a folder on its way out


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write a file or a folder at; rename it into place on success.

    On any exception (Ctrl-C too) what was written is removed and ``target`` stays as it was. What a killed
    process left beside ``target`` is cleared up by the next writer.

    Raises:
        InputError: ``target`` is the folder that the user stands in, or holds it.
    """
    if target.is_dir() and Path.cwd().is_relative_to(target.resolve()):
        raise InputError(
            f"The output {target} is the folder that you stand in, or holds it, and would be replaced as a whole; "
            "give a new name, such as result."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_up(target)
    partial = target.parent / f".{target.name}{_PARTIAL}{os.getpid()}"
    remove(partial)
    try:
        yield partial
        if target.is_dir() and not target.is_symlink():
            _replace_folder(target, partial)
        else:
            partial.replace(target)
    except OSError as exc:
        # A write that finds the disk full names no file, and a copy the one that it reads; there may be several disks.
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and (
            exc.filename is None or exc.filename2 is not None
        ):
            exc.filename, exc.filename2 = str(target), None
        raise
    finally:
        remove(partial)


def _replace_folder(target: Path, partial: Path) -> None:
    # A folder cannot be renamed over a non-empty one: move the old one aside first.
    old = target.parent / f".{target.name}{_OLD}{os.getpid()}"
    remove(old)
    target.rename(old)
    try:
        partial.rename(target)
    except BaseException:
        old.rename(target)
        raise
    remove(old)


def _clear_up(target: Path) -> None:
    for left in target.parent.glob(f".{glob.escape(target.name)}{_PARTIAL}*"):
        pid = left.name.rsplit("-", 1)[1]
        if not pid.isdecimal() or _alive(int(pid)):
            continue
        if left.name == f".{target.name}{_OLD}{pid}" and not target.exists():
            left.rename(target)  # killed between the two renames: the old folder is whole
        else:
            remove(left)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep every other writer from ``target``, a file or a folder, while the block runs.

    The lock is the kernel's, on a hidden file beside the target, which is removed at the end: a killed process
    leaves no lock behind. Where the file system has no locks, the block runs without.

    Raises:
        BusyError: another process or thread writes there now.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.parent / f".{target.name}.lock"
    descriptor = _take_lock(path, target)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still held, so that nobody's new lock is removed
        os.close(descriptor)


def _take_lock(path: Path, target: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            who = os.pread(descriptor, 20, 0).decode(errors="replace")
            os.close(descriptor)
            raise BusyError(
                f"{target} is being written by another run{f' (process {who})' if who else ''}; wait for its end, or "
                "give another output."
            ) from exc
        except OSError as exc:
            if exc.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                os.close(descriptor)
                raise
            return descriptor
        # The holder before may have removed the file between our two calls: then this lock guards nothing.
        try:
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                with suppress(OSError):  # a full disk: the lock holds without the number that others are told
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def cache_folder() -> Path:
    """Return the folder of what is kept between runs: ``UDACISENSE_CACHE``, or ours in the user's cache folder."""
    chosen = os.environ.get("UDACISENSE_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser().resolve() / "udacisense"


def why_absent(path: Path) -> str:
    """Say behind "there is no file X" what the path is instead; nothing where it is a plain name."""
    if path.is_dir():
        return ": it is a folder"
    if path.is_symlink():
        return ": it is a link that leads nowhere"
    if re.match(r"\w[\w+.-]+:/", str(path)):
        return ": it is an address, and nothing is fetched from there"
    return ": the shell left its '~' as it is" if str(path).startswith("~") else ""


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as partial:
        partial.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file or a folder; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_path(path: Path) -> str:
    """Return the hex SHA-256 of a file, or of a folder's sorted ``relative path, digest`` lines."""
    if path.is_file():
        return sha256_file(path)
    lines = [f"{p.relative_to(path).as_posix()} {sha256_file(p)}\n" for p in sorted(path.rglob("*")) if p.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


PICKLE = "it is a pickle, which may run code and is not read: save its state_dict() with safetensors instead"
_FOREIGN = (
    (b"version https://git-lfs", "it is a Git LFS pointer: 'git lfs pull' fetches the file itself"),
    (b"\x80", PICKLE),
    (b"\0" * 32, "it holds zeros, as after a copy that failed"),
    (b"<", "it is a web page: download the file itself"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them"),
    *(
        (magic, "it is compressed: unpack it first")
        for magic in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
    ),
)
_ARCHIVES = (  # files in PyTorch's own archives, the most telling first
    ("bytecode.pkl", "it is a .ptl, of the lite interpreter"),
    ("constants.pkl", "it is TorchScript, a .pt"),
    ("data.pkl", PICKLE),
    ("serialized_exported_program.json", "it is a program of torch.export, a .pt2"),
)


def what_it_is(path: Path) -> str | None:
    """Return what a file is that people often give in place of another kind, as half a sentence; None: not known."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64).lstrip()
    except OSError:
        return "it is a folder" if path.is_dir() else None
    if start.startswith(b"PK"):
        return _zip_kind(path)
    if not start:
        return "it is empty"
    text = start.decode("utf-8", errors="ignore").split()
    is_text = len("".join(text)) > len(start) // 2 and all(map(str.isprintable, text))
    return next((kind for magic, kind in _FOREIGN if start.startswith(magic)), "it is text" if is_text else None)


def another_kind(path: Path, wanted: str) -> LoadError:
    """Return what to raise of a file that does not begin as one of the wanted kind."""
    found = what_it_is(path) or "it does not begin as one"
    return LoadError(f"{path} is no {wanted} ({found}); export or copy it again.")


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except ZIP_ERRORS:
        return "it is a .zip that was cut short or damaged"
    if any(name.endswith(".npy") for name in names):
        return "it is NumPy's .npz: save its arrays with safetensors.numpy.save_file"
    return next((kind for name, kind in _ARCHIVES if name in names), "it is a .zip")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_toml(path: Path) -> str:
    """Return the text of a TOML file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        why = (exc.strerror or type(exc).__name__).lower()
        raise InputError(f"The TOML file {path} cannot be read: {why}; give one that you may read.") from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"{path} is no TOML: it is not in UTF-8, as every TOML file is; save it so.") from exc


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Return the content of TOML text.

    Raises:
        InputError: it is no TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]
    try:
        content: dict[str, Any] = tomllib.loads(text)
    # ValueError: its own, and one of a number with thousands of digits; RecursionError: thousands of brackets.
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{source} is no valid TOML: {exc}.") from exc
    return content
