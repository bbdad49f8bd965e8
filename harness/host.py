"""The machine that measures: its fingerprint, and its state from moment to moment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from harness.records import Host, HostState
from udacisense.base.child import allowed_cores
from udacisense.errors import InputError

_LIBRARIES = ("torch", "torchvision", "onnx", "onnxruntime", "coremltools", "executorch", "numpy", "udacisense")
_CPU = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")


def read_host() -> Host:
    """Read this machine's fingerprint."""
    import psutil

    from harness.runners.torch import gpu_name

    commit, dirty = _git(Path(__file__).resolve().parent)
    logical = os.cpu_count() or 1
    return Host(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=_cpu_name(),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        memory_bytes=psutil.virtual_memory().total,
        governor=_line(_CPU / "cpu0" / "cpufreq" / "scaling_governor"),
        load_average=os.getloadavg()[0],
        python=platform.python_version(),
        libraries=_versions(),
        git_commit=commit,
        git_dirty=dirty,
        gpu=gpu_name(),
    )


def host_name(host: Host) -> str:
    """Return a machine in a few words."""
    return f"{host.cpu}, {host.physical_cores} core{'s' if host.physical_cores != 1 else ''}, {host.machine}"


def read_state() -> HostState:
    """Read what changes while a sweep runs: load, frequency and temperature, where the host shows them."""
    import psutil

    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return HostState(
        load_average=os.getloadavg()[0],
        frequency_mhz=frequency.current if frequency is not None and frequency.current else None,
        temperature_c=_hottest_c(),
    )


def usable_cores(host: Host) -> int:
    """Return how many physical cores this process may really use (an affinity mask or a cpuset lowers it)."""
    return max(1, min(host.physical_cores, allowed_cores()))


def machine_differences(a: Host, b: Host) -> list[str]:
    """Return what makes two machines unlike, one entry a difference (``cpu: X against Y``); empty for like ones."""
    fields = ("system", "machine", "cpu", "physical_cores", "logical_cores", "governor", "gpu")
    found = [f"{f}: {getattr(a, f)} against {getattr(b, f)}" for f in fields if getattr(a, f) != getattr(b, f)]
    # The kernel keeps some memory for itself, and not the same amount at each start.
    if abs(a.memory_bytes - b.memory_bytes) > 0.02 * max(a.memory_bytes, b.memory_bytes):
        found.append(f"memory_bytes: {a.memory_bytes} against {b.memory_bytes}")
    return found


def software_differences(a: Host, b: Host) -> list[str]:
    """Return where Python and the libraries differ, one entry a difference."""
    found = [] if a.python == b.python else [f"Python {a.python} against {b.python}"]
    for name in sorted(a.libraries.keys() | b.libraries.keys()):
        left, right = a.libraries.get(name, "absent"), b.libraries.get(name, "absent")
        if left != right:
            found.append(f"{name} {left} against {right}")
    return found


def require_like(a: Host, b: Host) -> None:
    """Refuse to go on with records of unlike machines.

    Raises:
        InputError: they differ in CPU, cores, memory, governor or system.
    """
    differences = machine_differences(a, b)
    if differences:
        raise InputError(
            f"These figures come from unlike hosts ({'; '.join(differences)}) and cannot be compared: "
            "measure both on one machine."
        )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        first = info.read_text(errors="replace").split("\n\n", 1)[0]
        fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}
        if "model name" in fields:
            # Virtual machines say no more than "AMD EPYC": family and model tell the generations apart.
            return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"
        arm = [f"{k} {fields[k]}" for k in ("CPU implementer", "CPU architecture", "CPU part") if k in fields]
        if arm:
            return ", ".join(arm)
    if platform.system() == "Darwin":
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def _git(folder: Path) -> tuple[str | None, bool | None]:
    """Return (commit, whether files differ from it); (None, None) outside a repository or without git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - found on the PATH, as a user's own git is
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if commit.returncode != 0:
            return None, None
        status = subprocess.run(
            ["git", "status", "--porcelain"],  # noqa: S607
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip()) if status.returncode == 0 else None


def _hottest_c() -> float | None:
    degrees = []
    for zone in sorted(_THERMAL.glob("thermal_zone*/temp")):
        text = _line(zone)
        if text is not None and text.lstrip("-").isdigit():
            degrees.append(int(text) / 1000)
    return max(degrees) if degrees else None


def _line(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
