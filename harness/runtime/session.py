"""One process with a phone's library and one loaded file, answering batches: for the Android runners and for counts.

It is a JVM, or a program in C++; a child of the process that opens the session, it ends with it. Nothing of the host
is shadowed: the shim is loaded by its path within the child, and no search path is changed.
"""

from __future__ import annotations

import math
import os
import selectors
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from harness.runtime.catalogue import Runtime
from harness.runtime.fetch import find_java
from harness.runtime.shim import BINDER, SHIMS
from udacisense.base.records import Scalar
from udacisense.errors import InferenceError, InputError, LoadError, UdacisenseError

_MAGIC = 0x55445331
_HEADER = struct.Struct(">IBI")
_MAX_ANSWER_BYTES = 1 << 28
PROGRAM = "driver"  # a runtime's own, where no JVM runs it
#: NEON with fp16 and dot products, as phones of 2018 and later have it.
CPU = "cortex-a76"


def plugin_argument(folder: Path, count_to: Path) -> str:
    """Return qemu's words for the counting plugin of a runtime in ``folder``; a comma is written twice."""
    return ",".join(part.replace(",", ",,") for part in (str(folder / "lib" / "libcount.so"), f"out={count_to}"))


def command(row: Runtime, folder: Path, *, plugin: str | None = None, interpreted: bool = False) -> list[str]:
    """Return the command of the worker of a runtime that is set up in ``folder``.

    ``plugin`` is handed to qemu; ``interpreted`` keeps Java's compiler threads out of instruction counts.
    """
    libraries = folder / "lib"
    root = folder / "jre"
    emulated: list[str] = []
    if row.emulator:
        emulated = [row.emulator, "-L", str(root), "-cpu", CPU]
        emulated += ["-E", f"LD_PRELOAD={libraries / 'libguard_pad.so'}"] if row.bionic else []
        emulated += ["-plugin", plugin] if plugin else []
    if not row.is_java:
        return [*emulated, str(libraries / PROGRAM)]
    return [
        *emulated,
        str(find_java(root)) if row.emulator else shutil.which("java") or "java",
        "-Xint" if interpreted else "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        "-XX:-CreateCoredumpOnCrash",
        "-XX:+DisplayVMOutputToStderr",
        "-XX:ErrorFile=/dev/null",
        f"-Djava.library.path={libraries}",
        f"-Donnxruntime.native.path={libraries}",
        "-cp",
        os.pathsep.join([str(folder / "classes"), *sorted(str(p) for p in (folder / "classes").glob("*.jar"))]),
        row.driver.removesuffix(".java"),
        *[str(libraries / name) for name in (*SHIMS, BINDER, *row.library.natives) if row.bionic],
    ]


class LibrarySession:
    """A file loaded by a runtime's library, ready to answer.

    Args:
        row: the runtime.
        folder: where it is set up.
        path: the file, of one of the runtime's formats.
        library_version: of the library, for ``actual``.
        engine: quantised engine asked for; a library has the row's alone.
        threads: set before the file is loaded (in the Android library by ``PyTorchAndroid.setNumThreads``).
        answer_timeout_s: how long one answer may take; None waits for ever (a cell's own limit then applies).
        count_to: where the instruction counts of qemu's plugin go; None runs without it.

    Raises:
        InputError: the engine is not in the library.
        LoadError: the library would not load the file, or fell while it did.
    """

    def __init__(
        self,
        row: Runtime,
        folder: Path,
        path: Path,
        *,
        library_version: str,
        engine: str | None,
        threads: int,
        answer_timeout_s: float | None = None,
        count_to: Path | None = None,
    ) -> None:
        if engine not in (None, row.engine):
            has = f"one quantised engine, {row.engine}" if row.engine else "no choice of a quantised engine"
            raise InputError(f"The library of {row.name} has {has}; {engine!r} was asked for.")
        self._name = row.name
        self._timeout_s = answer_timeout_s
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _end
        plugin = plugin_argument(folder, count_to) if count_to else None
        self._process = _start(command(row, folder, plugin=plugin, interpreted=count_to is not None), self._log)
        self._end = weakref.finalize(self, _end, self._process, self._log)
        self._actual: dict[str, Scalar] = {
            "engine": row.engine,
            "threads": threads,
            "library": f"{row.library.name} {library_version}",
            "abi": row.abi,
            "cpu": CPU if row.emulator else "host",
        }
        try:
            self._ask(b"T" + struct.pack(">i", threads), LoadError)
            name = os.fsencode(path.resolve())
            self._ask(b"L" + struct.pack(">i", len(name)) + name, LoadError)
        except BaseException:
            self.close()
            raise

    @property
    def actual(self) -> Mapping[str, Scalar]:
        """Engine, threads (as set; the library has no way to ask), library and ABI."""
        return self._actual

    @property
    def model_pid(self) -> int:
        """Process id of the JVM, which holds the model."""
        return self._process.pid

    def run(self, batch: NDArray[np.float32], *, calls: int = 1) -> NDArray[np.float32]:
        """Answer a batch: float32 (n, 3, H, W) in, float32 (n, C) out; ``calls`` times, the last answer returned.

        Raises:
            InferenceError: the library failed or fell, or gave no float32 (n, C).
        """
        values = np.ascontiguousarray(batch, dtype="<f4")
        head = struct.pack(f">ii{values.ndim}i", calls, values.ndim, *values.shape)
        answer = self._ask(b"R" + head + values.tobytes(), InferenceError)
        (ndim,) = struct.unpack_from(">i", answer)
        shape = struct.unpack_from(f">{ndim}i", answer, 4)
        output = np.frombuffer(answer, dtype="<f4", offset=4 * (1 + ndim)).astype(np.float32)
        if ndim != 2 or shape[0] != batch.shape[0] or output.size != math.prod(shape):
            raise InferenceError(f"{self._name} gave an output of shape {shape} for a batch of {batch.shape[0]}.")
        return output.reshape(shape)

    def close(self) -> None:
        """End the JVM."""
        self._end()

    def __enter__(self) -> LibrarySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: bytes, error: type[UdacisenseError]) -> bytes:
        """Send a request and return the answer's bytes; whatever goes wrong is raised as ``error``."""
        stdin = self._process.stdin
        assert stdin is not None
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        try:
            stdin.write(request)
            stdin.flush()
        except OSError as exc:
            raise error(f"{self._name}: {self._cause_of_death()}") from exc
        magic, status, size = _HEADER.unpack(self._read(_HEADER.size, deadline, error))
        if magic != _MAGIC or size > _MAX_ANSWER_BYTES:
            raise error(f"{self._name}: what came back is no answer; {_last_words(self._log)}.")
        answer = self._read(size, deadline, error)
        if status:
            raise error(f"{self._name}: {_first_line(answer.decode(errors='replace'))}")
        return answer

    def _read(self, size: int, deadline: float | None, error: type[UdacisenseError]) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        parts: list[bytes] = []
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while size:
                if not selector.select(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    self._process.kill()
                    raise error(f"{self._name}: no answer within {self._timeout_s:g} s; {_last_words(self._log)}.")
                part = os.read(stdout.fileno(), size)
                if not part:
                    raise error(f"{self._name}: {self._cause_of_death()}")
                parts.append(part)
                size -= len(part)
        return b"".join(parts)

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        # A JVM reports a signal of its own as 128 + its number.
        number = -code if code < 0 else code - 128
        known = number in {s.value for s in signal.Signals}
        cause = f"signal {number} ({signal.Signals(number).name})" if known else f"exit code {code}"
        return f"the library's process ended with {cause}; {_last_words(self._log)}."


def _start(words: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    # The end of standard input ends the driver; a call that hangs does not see it, the kernel's signal does.
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        words = [setpriv, "--pdeathsig", "KILL", "--", *words]
    # The user's Java options could print to standard output or load agents: they are not for this child.
    hidden = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "LD_PRELOAD")
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            env=env,
            cwd=tempfile.gettempdir(),
        )
    except OSError as exc:
        log.close()
        raise LoadError(f"{words[0]} could not be started: {exc.strerror or exc}.") from exc


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, log):
        if pipe is not None:
            pipe.close()


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0][:400] if lines else "the library gave no reason"


def _last_words(log: IO[bytes]) -> str:
    """Return the library's last error, the JVM's note of a crash, or its last line of any kind."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    aborts = [line for line in lines if line.startswith(("[abort]", "[log 6", "[log 7"))]
    crashes = [line.lstrip("# ") for line in lines if line.startswith("#") and ("SIG" in line or "[lib" in line)]
    thrown = [line for line in lines if line.startswith("Exception in thread")]
    if thrown and not aborts:
        return f"its log: {thrown[-1][:400]}"
    if aborts:
        return f"its log: {aborts[-1][:400]}"
    if crashes:
        return f"its log: {' '.join(crashes)[:400]}"
    return f"its last line: {lines[-1][:400]}" if lines else "it left no log"
