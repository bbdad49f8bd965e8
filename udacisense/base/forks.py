"""Children as forks of one process that has its libraries loaded: of a child's five seconds, four go into loading them.

Each is a process of its own all the same, in a group and a folder of its own, whose signal or exit code its parent
learns. What is timed is not started this way: a user's program has loaded nothing before its own first line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_MOST_BYTES = 1 << 20  # of one request
_POLL_S = 0.02


class NotStartedError(Exception):
    """The process that forks is gone; another way to start a child has to be taken."""


class Forge:
    """The parent's side: asks for children by a socket."""

    def __init__(self, start: Callable[[int], subprocess.Popen[bytes]]) -> None:
        """``start`` starts a process that calls :func:`serve_forks` with this descriptor, which it inherits.

        It is called when the first child is asked for.
        """
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket
        self._lock = threading.Lock()

    def fork(self, request: dict[str, Any]) -> Fork:
        """Ask for a child.

        Raises:
            NotStartedError: the forking process is gone.
        """
        with self._lock:
            if self._process is None:
                self._requests, inherited = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with inherited:
                    self._process = self._start(inherited.fileno())
        life, ours = os.pipe()
        answers, theirs = os.pipe()
        fork = Fork(os.fdopen(ours, "wb"), os.fdopen(answers, "rb", buffering=0))
        try:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [life, theirs])
        except OSError as exc:
            fork.close()
            raise NotStartedError from exc
        finally:
            os.close(life)
            os.close(theirs)
        return fork

    def close(self) -> None:
        """End the process; a child that still runs ends when its own :class:`Fork` is closed."""
        if self._process is None:
            return
        self._requests.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


class Fork:
    """One child, as far as a ``subprocess.Popen`` is asked for it here."""

    def __init__(self, life: IO[bytes], answers: IO[bytes]) -> None:
        self.stdin = life  # the child ends when this is closed
        self.pid = 0  # once it has started
        self.returncode: int | None = None
        self._answers = answers

    def started(self, timeout_s: float) -> bool:
        """Wait so many seconds for it to begin.

        Raises:
            NotStartedError: it never will.
        """
        if self.pid == 0 and select.select([self._answers], [], [], timeout_s)[0]:
            line = self._answers.readline()
            if not line:
                self.close()
                raise NotStartedError
            self.pid = int(line)
        return self.pid != 0

    def poll(self) -> int | None:
        """Return its exit code, minus the signal's number where one ended it; None while it runs."""
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            # Nothing comes where the forking process was ended too, as a system does that lacks memory.
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)
            self._answers.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code; raise ``subprocess.TimeoutExpired`` after so many seconds."""
        if self.returncode is None and not select.select([self._answers], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code

    def close(self) -> None:
        """Let go of it; where it runs, it ends."""
        self.stdin.close()
        self._answers.close()


def serve_forks(descriptor: int, loaded: list[str], work: Callable[[dict[str, Any]], int]) -> None:
    """Fork a child for every request, until the parent closes its end; this is the forking process.

    Args:
        descriptor: of the socket that requests come by.
        loaded: modules to import first; one that does not load is left to the child that needs it.
        work: what a child does with its request, its standard input a pipe that its parent holds; its exit code.
    """
    for name in loaded:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    requests = socket.socket(fileno=descriptor)
    children: dict[int, int] = {}  # by process: the pipe that its end is told by
    while True:
        while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _tell(children.pop(ended[0]), os.waitstatus_to_exitcode(ended[1]))
        if not select.select([requests], [], [], _POLL_S if children else None)[0]:
            continue
        text, pipes, _, _ = socket.recv_fds(requests, _MOST_BYTES, 2)
        if not text:
            os._exit(0)
        life, answers = pipes
        pid = os.fork()
        if pid == 0:
            for other in (requests.fileno(), *children.values()):
                os.close(other)
            _be_child(life, answers, json.loads(text), work)
        os.close(life)
        children[pid] = answers


def _tell(pipe: int, code: int) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(pipe, b"%d\n" % code)
    os.close(pipe)


def _be_child(life: int, answers: int, request: dict[str, Any], work: Callable[[dict[str, Any]], int]) -> None:
    code = 1
    try:
        os.setsid()
        os.write(answers, b"%d\n" % os.getpid())
        os.dup2(life, 0)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for spare in (life, answers, log):
            os.close(spare)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        sys.path[:] = request["path"]
        code = work(request)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def can_fork() -> bool:
    """Whether a process that has libraries loaded may be forked: macOS's own frameworks do not survive it."""
    return sys.platform == "linux" and Path("/proc/self").exists()
