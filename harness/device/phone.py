"""One phone over adb: run a command, send a file, read a file.

Whatever goes wrong on the way (unplugged, no answer, no space) is one sentence in a deliberate error.
"""

from __future__ import annotations

import re
import shlex
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from harness.device.contract import PACKAGE
from udacisense.errors import InputError

if TYPE_CHECKING:
    from adbutils import AdbClient

_SHELL_S = 30.0  # a command on the phone
_IO_S = 60.0  # without a byte in either direction
_BLOCK_BYTES = 64 * 1024  # the most that adb's sync protocol takes in one piece
_MODE = stat.S_IFREG | 0o644

OnBytes = Callable[[int], None]


class RefusedError(InputError):
    """The phone took the request and answered no; the message is the phone's own reason."""


@dataclass(frozen=True)
class Ran:
    """What a command on the phone left."""

    code: int
    text: str  # standard output and error, stripped


class Phone:
    """A phone that adb calls ready.

    Args:
        client: of the adb server.
        serial: as ``adb devices`` shows it.
        model: what it is called, for messages.
    """

    def __init__(self, client: AdbClient, serial: str, model: str | None) -> None:
        self._client = client
        self._device: Any = client.device(serial)
        self.serial = serial
        self.model = model

    def __str__(self) -> str:
        return f"{self.model} ({self.serial})" if self.model else self.serial

    @property
    def label(self) -> str:
        """The serial as a part of a file name."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.serial).strip("-")

    def run(self, *command: str, timeout_s: float = _SHELL_S) -> Ran:
        """Run a command on the phone; every argument is quoted.

        Raises:
            InputError: the phone went away or does not answer.
        """
        return self.script(shlex.join(command), timeout_s=timeout_s)

    def script(self, text: str, *, timeout_s: float = _SHELL_S) -> Ran:
        """Run text as the phone's shell reads it; see :meth:`run`."""
        with self._talking("ran a command"):
            made = self._device.shell2(text, timeout=timeout_s, v2=True)
        return Ran(made.returncode, made.output.strip())

    def ask(self, text: str, *, doing: str) -> str:
        """Return what a script prints.

        Raises:
            RefusedError: it ends with an error; ``doing`` says what it was for.
            InputError: see :meth:`run`.
        """
        ran = self.script(text)
        if ran.code:
            raise RefusedError(f"{self} could not {doing}: {last_line(ran.text) or f'exit code {ran.code}'}.")
        return ran.text

    def property(self, name: str) -> str | None:
        """Return one of Android's system properties; None where it is not set."""
        return self.run("getprop", name).text or None

    def has_app(self) -> bool:
        """Tell whether the demo app is installed."""
        return self.run("pm", "path", PACKAGE).code == 0

    def free_bytes(self, folder: str) -> int | None:
        """Return the free space of the file system that holds ``folder``; None where the phone does not tell."""
        # Filesystem, 1K-blocks, Used, Available, Use%, Mounted on; a long first name stands on a line of its own.
        numbers = re.search(r"\s\d+\s+\d+\s+(\d{1,18})\s+\d+%", self.run("df", "-k", folder).text)
        return int(numbers[1]) * 1024 if numbers else None

    def send(self, source: BinaryIO, target: str, *, on_bytes: OnBytes) -> None:
        """Write a file on the phone; its folder must be there.

        The client library's own push tells no reason where the phone refuses, and may send a part of a block only
        where a time limit is set: these lines of adb's sync protocol do neither.

        Raises:
            RefusedError: the phone cannot write it; its own words.
            InputError: the phone went away.
        """
        with self._talking(f"took {target.rsplit('/', 1)[1]}"), self._device.open_transport(timeout=_IO_S) as link:
            link.send_command("sync:")
            link.check_okay()
            name = f"{target},{_MODE}".encode()
            link.conn.sendall(b"SEND" + struct.pack("<I", len(name)) + name)
            while block := source.read(_BLOCK_BYTES):
                link.conn.sendall(b"DATA" + struct.pack("<I", len(block)) + block)
                on_bytes(len(block))
            link.conn.sendall(b"DONE" + struct.pack("<I", int(time.time())))
            status, length = link.read_exact(4), link.read_uint32()
            reason = link.read_exact(length).decode(errors="replace") if status == b"FAIL" else None
        if reason is not None:
            raise RefusedError(f"{self} could not write {target}: {reason}.")

    def read(self, path: str, *, on_bytes: OnBytes = lambda _: None) -> bytes:
        """Return a file's bytes; ``on_bytes`` is told of every block that came.

        Raises:
            InputError: it cannot be read, or the phone went away.
        """
        blocks = []
        with self._talking(f"sent {path.rsplit('/', 1)[1]}"):
            for block in self._device.sync.iter_content(path):
                on_bytes(len(block))
                blocks.append(block)
        return b"".join(blocks)

    @contextmanager
    def _talking(self, doing: str) -> Iterator[None]:
        from adbutils.errors import AdbError, AdbTimeout

        try:
            yield
        except (AdbTimeout, TimeoutError) as exc:
            raise InputError(
                f"{self} did not answer while it {doing}: unlock its screen, check the cable and run again."
            ) from exc
        # The client library reads adb's answers with int(), struct and assert: a cut connection shows as any of these.
        except (AdbError, OSError, EOFError, ValueError, struct.error, AssertionError) as exc:
            if not self._is_there():
                raise InputError(
                    f"{self} was unplugged or switched off while it {doing}: connect it and run again."
                ) from exc
            raise InputError(f"The connection to {self} broke while it {doing} ({exc}): run again.") from exc

    def _is_there(self) -> bool:
        from adbutils.errors import AdbError

        try:
            return any(found.serial == self.serial and found.state == "device" for found in self._client.list())
        except (AdbError, OSError, ValueError):
            return False


def last_line(text: str) -> str:
    """Return the last line that says something, without its full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""
