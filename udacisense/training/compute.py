"""Where training runs: device, precision, processes and compilation; by Lightning Fabric."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from udacisense.base.child import allowed_cores
from udacisense.base.records import record
from udacisense.errors import InputError, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Multiply-adds of a whole run from which compiling pays: it costs a minute or two. Counted and not timed, so that the
# same run decides the same way each time.
_LONG_RUN_MACS = {"cpu": 1e12, "cuda": 4e14}
_PATIENCE_S = 30.0
_COMPILERS = ("g++", "clang++", "c++")


@record
class Compute:
    """What a run computes on. It changes rounding and speed alone: a run begun on one may be finished on another."""

    device: str = "cpu"  # cpu, cuda, mps or auto
    precision: Literal["32", "bf16", "16"] = "32"  # of the student's and the teacher's products; weights stay float32
    devices: int = 1  # a process each, on every node
    nodes: int = 1
    compile: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        allowed = {
            "device": (self.device in ("cpu", "cuda", "mps", "auto"), "cpu, cuda, mps or auto"),
            "precision": (self.precision in ("32", "bf16", "16"), "32, bf16 or 16"),
            "devices": (self.devices >= 1, "1 or more"),
            "nodes": (self.nodes >= 1, "1 or more"),
            "compile": (self.compile in ("auto", "on", "off"), "auto, on or off"),
        }
        for name, (is_good, words) in allowed.items():
            if not is_good:
                raise InputError(f"{name} is {getattr(self, name)}; allowed is {words}.")

    def check(self) -> torch.device:
        """Return the device.

        Raises:
            InputError: this machine lacks it, has fewer of it, or it cannot compute in the precision.
        """
        found = resolve_device(self.device)
        present = {"cuda": torch.cuda.device_count(), "mps": 1}.get(found.type, allowed_cores())
        if self.devices > present:
            what = "cores for processes" if found.type == "cpu" else f"of {found.type}"
            raise InputError(f"devices is {self.devices}; this machine has {present} {what}.")
        if self.precision == "16" and found.type == "cpu":
            raise InputError("precision 16 needs a GPU; a CPU computes in 32 or bf16.")
        return found

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: the name is unknown, or this machine has no such device.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if present[d]))
    if not present.get(name, False):
        has = ", ".join(d for d, is_there in present.items() if is_there)
        raise InputError(f"The device {name!r} is not available here; this machine has {has} (or auto).")
    return torch.device(name)


def launch(compute: Compute) -> Fabric:
    """Return Fabric with its processes started; further calls in a run start no more of them.

    Raises:
        InputError: as :meth:`Compute.check`.
    """
    from lightning_fabric import Fabric

    device = compute.check()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device.type,
        devices=compute.devices,
        num_nodes=compute.nodes,
        strategy="ddp" if compute.processes > 1 else "auto",
        precision={"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[compute.precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    started = getattr(fabric.strategy.launcher, "procs", [])
    if started:
        _WATCHES.append(_Watch(started))
    return fabric


class _Watch(threading.Thread):
    """Tells why a process that this one started has ended early, and ends the others.

    It takes the place of Fabric's own watch, which kills this process too, without a word.
    """

    def __init__(self, started: list[subprocess.Popen[bytes]]) -> None:
        super().__init__(daemon=True)
        self._children = list(started)
        started.clear()  # an empty list is one that Fabric's watch is done with
        self.cause: str | None = None
        self.start()

    def run(self) -> None:
        """Wait until all have ended well, or one has not."""
        codes: list[int | None] = [None]
        while any(code is None for code in codes) and not any(codes):
            time.sleep(0.2)
            codes = [child.poll() for child in self._children]
        bad = [(child.pid, code) for child, code in zip(self._children, codes, strict=True) if code]
        if not bad:
            return
        pid, code = bad[0]
        self.cause = f"process {pid} ended " + (f"by signal {-code}" if code < 0 else f"with exit code {code}")
        for child in self._children:
            child.kill()
        time.sleep(_PATIENCE_S)  # in which this process notices; a GPU's collective calls may wait for ever
        sys.stderr.write(f"{_broken(self.cause)}\n")
        os._exit(TrainingError.exit_code)


_WATCHES: list[_Watch] = []


def _broken(cause: str) -> str:
    return f"Training on several processes broke off: {cause}; the same command goes on from the last finished epoch."


@contextmanager
def together() -> Iterator[None]:
    """Say in a sentence what a collective call means by its error: another process has ended.

    Raises:
        TrainingError: of a RuntimeError in the block, where several processes train.
    """
    try:
        yield
    except RuntimeError as exc:
        if not torch.distributed.is_initialized():
            raise
        cause = str(exc).strip().splitlines()[0]
        for watch in _WATCHES:
            watch.join(timeout=1.0)  # it needs a moment to see who has ended
            cause = watch.cause or cause
        raise TrainingError(_broken(cause)) from exc


def is_leader() -> bool:
    """Tell whether this is the process that measures and writes; the others of a run train along."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def meet() -> None:
    """Wait until all processes of the run are here."""
    if torch.distributed.is_initialized():
        with together():
            torch.distributed.barrier()


def will_compile(compute: Compute, device: torch.device, *, macs: float, is_plain: bool) -> bool:
    """Tell whether a run compiles its network.

    Args:
        compute: the setting.
        device: of the run.
        macs: multiply-adds of the run's forward passes.
        is_plain: nothing changes the network between its epochs.
    """
    if compute.compile != "auto":
        return compute.compile == "on"
    has_compiler = any(shutil.which(name) for name in _COMPILERS)
    return has_compiler and is_plain and macs >= _LONG_RUN_MACS.get(device.type, float("inf"))


@contextmanager
def repeatable(seed: int, device: torch.device, *, precision: str = "32") -> Iterator[None]:
    """Seed torch, choose convolutions, and leave both as they were afterwards.

    In 32 bits they are the repeatable ones; in fewer, where speed is what is wanted, whichever.
    """
    chosen, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    devices = [] if device.type == "cpu" else [torch.cuda.current_device() if device.type == "cuda" else 0]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = precision == "32", False
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = chosen, benchmark
