"""What must hold of any bytes: a value or one deliberate error, without a hang, and nothing written outside."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_seeds import Seeds

from udacisense.cli.main import run
from udacisense.errors import UdacisenseError

HANGS_S = 60  # far beyond what any of these takes
_MOST_MORE_BYTES = 4 << 30  # of address space: a length in a file must not decide how much memory is taken


class HungError(BaseException):
    """Not an Exception, so that no parser takes it for one of its own."""


@dataclass(frozen=True)
class Place:
    """A folder to parse in, deep in one that is looked at afterwards."""

    outer: Path
    seeds: Seeds
    kept: dict[str, Path] = field(default_factory=dict)

    @property
    def inner(self) -> Path:
        folder = self.outer / "of" / "a" / "place"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def temporary(self) -> Path:
        """Where temporary folders are made meanwhile, so that what leaves them lands in sight."""
        folder = self.outer / "of" / "a" / "temporary"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, name: str, data: bytes) -> Path:
        path = self.inner / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def copy(self, source: Path, name: str) -> Path:
        """A copy of a folder, made once: a parser that is given damage does not change the rest."""
        if name not in self.kept:
            self.kept[name] = Path(shutil.copytree(source, self.inner / name))
        return self.kept[name]

    def outside(self) -> set[Path]:
        """What lies beside the places where something may."""
        own = (self.inner, self.temporary)
        found = {path for path in self.outer.rglob("*") if not any(path.is_relative_to(folder) for folder in own)}
        return found | set(Path("/").glob("udacisense-escaped*"))


def judge(place: Place, parse: Callable[[], object], *, limits_memory: bool = True) -> None:
    """Parse, and fail where what must hold does not."""
    before = place.outside()
    refusal: Exception | None = None
    try:
        with _guarded(place, limits_memory=limits_memory):
            parse()
    except (UdacisenseError, OSError) as exc:
        refusal = exc
    except HungError as exc:
        raise AssertionError(str(exc)) from exc
    finally:
        shutil.rmtree(place.temporary)
    if isinstance(refusal, UdacisenseError):
        check_sentence(str(refusal))
        assert refusal.exit_code in (1, 2, 3, 4)
    elif isinstance(refusal, OSError):
        # The command line says these in a sentence of its own, where the system gave a reason.
        assert refusal.errno is not None, f"{type(refusal).__name__}: {refusal}"
    assert place.outside() == before, "something was written outside"


def command(*words: object) -> int:
    """Run a command line; return its exit code, one of the documented ones, with one error at most."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = run([str(word) for word in words])
    text = told.getvalue().strip()
    assert code in (0, 1, 2, 3, 4), f"exit code {code}: {text}"
    if code > 1:
        assert text.startswith("error: "), text
        check_sentence(text)
    return code


def check_sentence(text: str) -> None:
    assert text.strip(), "an error without a word"
    assert len(text.splitlines()) == 1, f"more than a line: {text!r}"
    assert "Traceback" not in text


@contextlib.contextmanager
def _guarded(place: Place, *, limits_memory: bool) -> Iterator[None]:
    def hung(number: int, frame: object) -> None:
        raise HungError(f"no answer within {HANGS_S} s")

    kept = signal.signal(signal.SIGALRM, hung), tempfile.tempdir, resource.getrlimit(resource.RLIMIT_AS)
    signal.alarm(HANGS_S)
    tempfile.tempdir = str(place.temporary)
    statm = Path("/proc/self/statm")
    if limits_memory and statm.exists():
        most = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + _MOST_MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, kept[2][1]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they go to the terminal of who asked for them, and end nothing
            yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, kept[2])
        tempfile.tempdir = kept[1]
        signal.signal(signal.SIGALRM, kept[0])
