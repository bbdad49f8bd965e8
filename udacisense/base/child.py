"""Starts processes of this program's own: a model, a runtime or a converter may crash or hang, and takes them along.

A child imports what its parent would, and nothing of the folder that the user stands in before that. It works in a
folder of its own, where its output is kept. It ends with its parent, however that ends, and all that it started ends
with it.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from udacisense.base.forks import Forge, Fork, NotStartedError, can_fork, serve_forks
from udacisense.base.records import read_json
from udacisense.errors import LoadError, cause

T = TypeVar("T")

RESULT = "result.json"  # where most children leave their answer
LOG = "log.txt"
READ_S = 120.0  # that reading one file may take
_DONE = "done"  # left in a child's folder when its work is done
_FAILED = "failed.txt"  # or this: the exception that ended it
_POLL_S = 0.1
log = logging.getLogger(__name__)
_MOST_TOLD = 8_000  # characters of a child's output
_ROOT = str(Path(__file__).resolve().parents[2])  # where this program itself is found
# Before this line, the child's search path starts with the folder that it works in, which is empty of code.
_BEFORE = "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
_PROGRAM = _BEFORE + "from udacisense.base.child import serve; serve()"
_FORGE_PROGRAM = _BEFORE + "from udacisense.base.child import serve_children; serve_children()"
# Another interpreter keeps its own packages. Ours are found in their folder, which may hold others, by their names
# alone; what the user works on comes behind all.
_PROGRAM_ELSEWHERE = """
import sys
from importlib.machinery import PathFinder

class Ours:
    root, *places = sys.argv.pop(1).split("\\n")

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return PathFinder.find_spec(name, [cls.root]) if name in ("udacisense", "exporters", "harness") else None

sys.meta_path.insert(0, Ours)
sys.path[:] = sys.path[1:] + Ours.places
from udacisense.base.child import serve
serve()
"""
_LOCAL = threading.local()
_forges: list[Forge] = []  # one while a block of warm_children runs
_started_from: str | None = None  # in a child: the folder that its parent works in


class StoppedError(Exception):
    """A child was ended, or not started, because the command was interrupted."""


@contextmanager
def child_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that run children; whatever ends the block early ends those children, and no other starts."""
    stop = threading.Event()
    with ThreadPoolExecutor(workers, initializer=setattr, initargs=(_LOCAL, "stop", stop)) as pool:
        try:
            yield pool
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def allowed_cores() -> int:
    """Return how many cores this process may use: an affinity mask or a cpuset lowers it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_child(
    module: str,
    folder: Path,
    *arguments: str,
    timeout_s: float,
    threads: int = 1,
    shares_cores: bool = True,
    progressed: Callable[[], bool] | None = None,
    python: Path | None = None,
) -> str | None:
    """Call ``module.main(folder, *arguments)`` in a process of its own, and wait for it.

    Args:
        module: whose ``main`` takes the folder, and leaves its answer there.
        folder: of this child alone: it works there, and its output is kept there as ``log.txt``.
        arguments: what else ``main`` takes.
        timeout_s: after which it is ended.
        threads: of OpenMP.
        shares_cores: other processes run beside it.
        progressed: asked ten times a second; an answer of True starts the time limit anew.
        python: interpreter of another environment, with packages of its own; None takes this one.

    Returns:
        Why ``main`` did not come to its end, in words, and its output is logged at DEBUG; None where it did.

    Raises:
        StoppedError: the block of :func:`child_pool`, of whose threads this is one, was left early.
    """
    stop: threading.Event = getattr(_LOCAL, "stop", None) or threading.Event()
    if stop.is_set():
        raise StoppedError
    folder = folder.absolute()
    words = [module, str(folder), str(Path.cwd()), *arguments]
    env = _environment(threads, shares_cores, python)
    process = _begin(words, folder, env, stop, python=python, may_fork=shares_cores and threads == 1)
    try:
        code = _code_within(timeout_s, process, stop, progressed)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
    if code is None:
        return f"no answer within the time limit of {timeout_s:g} s; its process was ended"
    return _how_it_ended(folder, code)


@contextmanager
def warm_children(*modules: str) -> Iterator[None]:
    """In the block, start children that share the cores as forks of a process that has these modules loaded.

    Each is a process of its own as ever, and sooner at its work. Within another such block, and where the system does
    not fork safely, nothing changes.
    """
    if _forges or not can_fork():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="udacisense-forge-") as folder:

        def start(descriptor: int) -> subprocess.Popen[bytes]:
            words = [str(descriptor), *modules]
            return _start(_FORGE_PROGRAM, words, Path(folder), _environment(1, True), (descriptor,))

        _forges.append(Forge(start))
        try:
            yield
        finally:
            _forges.pop().close()


def _begin(
    words: list[str],
    folder: Path,
    env: dict[str, str],
    stop: threading.Event,
    *,
    python: Path | None,
    may_fork: bool,
) -> subprocess.Popen[bytes] | Fork:
    for left in (_DONE, _FAILED):
        (folder / left).unlink(missing_ok=True)
    if python is not None:
        return _start(_PROGRAM_ELSEWHERE, words, folder, env, python=python, places=[_ROOT, *_users_places()])
    fork = _fork(words, folder, env, stop) if may_fork else None
    return fork or _start(_PROGRAM, words, folder, env)


def _fork(words: list[str], folder: Path, env: dict[str, str], stop: threading.Event) -> Fork | None:
    if not _forges:
        return None
    request = {"words": words, "log": str(folder / LOG), "env": env, "cwd": str(folder), "path": _search_path()}
    try:
        fork = _forges[0].fork(request)
        while not fork.started(_POLL_S):
            if stop.is_set():
                fork.close()
                raise StoppedError
    except NotStartedError:  # what it loaded took it along: each child tells of that itself
        return None
    return fork


def _start(
    program: str,
    words: list[str],
    folder: Path,
    env: dict[str, str],
    keep: tuple[int, ...] = (),
    *,
    python: Path | None = None,
    places: list[str] | None = None,
) -> subprocess.Popen[bytes]:
    with (folder / LOG).open("wb") as stream:
        return subprocess.Popen(
            [str(python or sys.executable), "-c", program, "\n".join(places or _search_path()), *words],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env=env,
            cwd=folder,
            start_new_session=True,
            pass_fds=keep,
        )


def read_in_child(kind: type[T], module: str, path: Path, *arguments: str, python: Path | None = None) -> T:
    """Return the record that ``module.main(folder, path, *arguments)`` leaves as ``result.json``.

    Args:
        kind: the record.
        module: reads the file.
        path: of the file.
        arguments: what else ``main`` takes.
        python: as of :func:`run_child`.

    Raises:
        LoadError: the child crashed, was ended, took too long, or refused the file.
    """
    with tempfile.TemporaryDirectory(prefix="udacisense-read-") as name:
        folder = Path(name)
        failure = run_child(module, folder, str(path.absolute()), *arguments, timeout_s=READ_S, python=python)
        if failure is not None:
            raise LoadError(f"{path} could not be read: {failure}; if the file is damaged, export or copy it again.")
        return read_json(kind, folder / RESULT)


def _search_path() -> list[str]:
    """Return where this process finds modules; the folder that the user stands in comes behind all others."""
    here = str(Path.cwd())
    places = [place or here for place in sys.path]
    return sorted(places, key=lambda place: place == here and place != _ROOT)


def _users_places() -> list[str]:
    """Return where this process finds what is neither its interpreter's nor ours."""
    own = {"site-packages", "dist-packages"}
    return [
        place
        for place in _search_path()
        if place != _ROOT and not own & {*Path(place).parts} and not Path(place).is_relative_to(sys.base_prefix)
    ]


def _environment(threads: int, shares_cores: bool, python: Path | None = None) -> dict[str, str]:
    # OpenMP reads these once, when its library is loaded: they must be in place before the child starts.
    count = str(max(1, threads))
    env = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    if shares_cores:
        # Idle OpenMP threads spin, which is quick while one child runs and ruinous where several share the cores.
        env["OMP_WAIT_POLICY"] = "PASSIVE"
    env |= {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}
    # Tools of a Python package, such as ExecuTorch's flatc, lie beside an interpreter that may not be active.
    env["PATH"] = os.pathsep.join([str(Path(python or sys.executable).parent), env.get("PATH", os.defpath)])
    if "UDACISENSE_CACHE" in env:
        env["UDACISENSE_CACHE"] = str(Path(env["UDACISENSE_CACHE"]).expanduser().absolute())
    return env


def _code_within(
    timeout_s: float,
    process: subprocess.Popen[bytes] | Fork,
    stop: threading.Event,
    progressed: Callable[[], bool] | None,
) -> int | None:
    """Return a child's exit code; None where it came to no end in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() <= deadline:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=_POLL_S)
        if stop.is_set():
            raise StoppedError
        if progressed is not None and progressed():
            deadline = time.monotonic() + timeout_s
    return None


def _how_it_ended(folder: Path, code: int) -> str | None:
    if (folder / _DONE).exists():
        return None  # whatever the interpreter ran into at its end
    said = (folder / LOG).read_text(errors="replace")
    log.debug("What the process said in %s:\n%s", folder, said[-_MOST_TOLD:])
    failed = folder / _FAILED
    if failed.exists() and (reason := failed.read_text(encoding="utf-8")):
        return reason
    how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL:
        how += ", as a system ends what takes its last memory"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # What C++ and the interpreter say of their own end, before the addresses and frames that follow.
    telling = [line for line in lines if line.startswith(("what():", "Fatal Python error:"))]
    words = f"; its last words: {(telling or lines)[-1][:300]}" if lines else ""
    return f"its process ended with {how}{words}"


def serve() -> None:
    """Do what :func:`run_child` asked for; this is the child."""
    global _started_from
    module, name, _started_from, *arguments = sys.argv[1:]
    sys.argv = [module]
    _end_with_parent()
    try:
        importlib.import_module(module).main(Path(name), *arguments)
    # Models, runtimes and converters raise whatever they like; the parent says it.
    except BaseException as exc:
        traceback.print_exc()
        Path(name, _FAILED).write_text(cause(exc), encoding="utf-8")
        sys.exit(1)
    Path(name, _DONE).touch()


def serve_children() -> None:
    """Fork the children of a block of :func:`warm_children`; this is the process that does it."""
    descriptor, *modules = sys.argv[1:]
    serve_forks(int(descriptor), modules, _serve_request)


def _serve_request(request: dict[str, Any]) -> int:
    sys.argv = ["-c", *request["words"]]
    try:
        serve()
    except SystemExit:
        return 1
    return 0


def _end_with_parent() -> None:
    """End with the pipe on standard input: the parent holds its other end, and never writes to it."""
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if hasattr(fcntl, "F_SETSIG"):
        # Linux does it itself, also where a call that never returns keeps the interpreter's lock.
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)

    def wait() -> None:
        os.read(pipe, 1)  # not through sys.stdin, whose lock would abort the interpreter's end
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def where_the_user_stands() -> Iterator[None]:
    """Work in the folder that the command was started in: a user's code may open files beside it."""
    here = Path.cwd()
    if _started_from is not None:
        os.chdir(_started_from)
    try:
        yield
    finally:
        os.chdir(here)
