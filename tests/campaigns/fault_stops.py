"""Faults of ``faults.py`` that stop a command, or take its disk, its clock or its folder away while it runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_scene import LINES, Answer, Ended, Scene, in_child, is_rude, start_child, wait_child

from udacisense.base.files import sha256_file, sha256_path
from udacisense.cli.main import run
from udacisense.models.artifact import load_artifact


def result_of(name: str, folder: Path) -> str:
    """Return what must be the same in the end, interrupted or not."""
    if name == "train":
        return sha256_file(folder / "base" / "artifact" / "model.safetensors")
    if name == "compress":
        load_artifact(folder / "p2" / "artifact")
        return sha256_file(folder / "p2" / "artifact" / "model.safetensors") + graph_digest(folder / "p2" / "final.pt")
    if name == "export":
        manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
        return str([(v["id"], v["outcome"], v["sha256"] if v["deterministic"] else None) for v in manifest["variants"]])
    if name == "report":
        figures = json.loads((folder / "report.json").read_text())
        return str({key: value for key, value in figures.items() if key not in ("created_utc", "generated_utc")})
    record = json.loads((folder / f"bundle.{name}.json").read_text())
    if name == "verify":
        return str([(m["spec"]["variant_id"], m["outcome"], m["comparison"]) for m in record["measurements"]])
    return str((record["complete"], sorted({(r["cell_id"], r["round"], r["phase"]) for r in record["runs"]})))


def graph_digest(path: Path) -> str:
    """Digest a TorchScript file but for its debug records, which hold the Python stack of the call that saved it."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith((".debug_pkl", "/serialization_id")):
                digest.update(name.encode() + archive.read(name))
    return digest.hexdigest()


def half_taken_as_whole(name: str, folder: Path) -> str | None:
    """Look at what an interrupted command left: under its final name there are whole things only."""
    try:
        for artifact in folder.glob("*/artifact"):
            load_artifact(artifact)
        for record in (
            *folder.glob("*.json"),
            *folder.glob("*/training/history.json"),
            *folder.glob("*/steps/*/*.json"),
        ):
            if not any(part.startswith(".") for part in record.relative_to(folder).parts):
                json.loads(record.read_text())
        bundle = folder / "bundle"
        if bundle.exists() and run(["--quiet", "inspect", str(bundle)]) != 0:
            return "a bundle is there that is not whole"
    except Exception as exc:
        return f"{name}: {type(exc).__name__}: {exc}"
    return None


def kept_by(name: str, folder: Path) -> set[str]:
    """Return what an interrupted command had reported as kept: epochs, steps, measured runs."""
    kept = set()
    for history in folder.glob("*/training/history.json"):
        kept |= {
            f"epoch {epoch['epoch']}: {epoch['train_loss']}" for epoch in json.loads(history.read_text())["epochs"]
        }
    kept |= {f"step {path.parent.name} {sha256_path(path)}" for path in folder.glob("*/steps/*/step.json")}
    record = folder / "bundle.bench.json"
    if name == "bench" and record.exists():
        runs = json.loads(record.read_text())["runs"]
        kept |= {f"run {r['cell_id']} {r['round']} {r['phase']} {r['duration_s']}" for r in runs}
    return kept


def interrupted(name: str, stop: Callable[[int, random.Random], None]) -> Callable[[Scene, random.Random], Answer]:
    """A kind: stop a command at a random moment, do it again, and compare with the undisturbed result."""

    def inject(scene: Scene, rng: random.Random) -> Answer:
        with scene.scratch() as folder:
            line = LINES[name].format(w=scene.work, o=folder)
            log = folder / "log"
            delay = rng.uniform(0, 1.1 * scene.seconds[name])
            pid = start_child(line, log)
            time.sleep(delay)
            stop(pid, rng)
            ended = wait_child(pid, log)
            if is_rude(ended):
                return Answer("rude", f"after {delay:.2f} s: exit {ended.code}: {ended.told[-400:]}")
            half = half_taken_as_whole(name, folder)
            if half is not None:
                return Answer("wrong", f"after {delay:.2f} s: {half}")
            return finished(scene, name, folder, note=f"after {delay:.2f} s, exit {ended.code}")

    return inject


def finished(scene: Scene, name: str, folder: Path, *, note: str) -> Answer:
    """Do a command (again) without disturbance; nothing kept before may be lost, and the result is the usual one."""
    before = kept_by(name, folder)
    line = LINES[name].format(w=scene.work, o=folder)
    if name == "bench" and (folder / "bundle.bench.json").exists():
        line += " --resume"
    ended = in_child(line)
    if ended.code not in (0, 1) or "Traceback" in ended.told:
        return Answer("lost", f"{note}; the rerun ended with {ended.code}: {ended.told[-300:]}")
    gone = before - kept_by(name, folder)
    if gone:
        return Answer("lost", f"{note}; gone: {sorted(gone)[:3]}")
    mine, theirs = result_of(name, folder), result_of(name, scene.work)
    if name == "bench":
        return Answer("whole" if mine.startswith("(True") else "lost", note)
    return Answer("whole", note) if mine == theirs else Answer("lost", f"{note}; another result: {mine[:200]}")


def kill(pid: int, rng: random.Random) -> None:
    del rng
    _signal(pid, signal.SIGKILL)


def interrupt(pid: int, rng: random.Random) -> None:
    """Ctrl-C, and in half of the cases once more, a little later."""
    _signal(pid, signal.SIGINT)
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 0.1))
        _signal(pid, signal.SIGINT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of that size; needs root."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)], check=True)  # noqa: S607
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S607


def full_disk(name: str, most_bytes: int) -> Callable[[Scene, random.Random], Answer]:
    """A kind: the disk has room for a random part of what a command writes; then room is made, and it is done again."""

    def inject(scene: Scene, rng: random.Random) -> Answer:
        size = rng.randrange(8192, most_bytes)
        with scene.scratch() as folder, small_disk(folder, size) as place:
            ended = in_child(LINES[name].format(w=scene.work, o=place))
            if is_rude(ended):
                return Answer("rude", f"{size} bytes: exit {ended.code}: {ended.told[-400:]}")
            half = half_taken_as_whole(name, place)
            if half is not None:
                return Answer("wrong", f"{size} bytes: {half}")
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)  # noqa: S607
            return finished(scene, name, place, note=f"{size} bytes, exit {ended.code}")

    return inject


def read_only(name: str) -> Callable[[Scene, random.Random], Answer]:
    """A kind: the disk turns read-only at a random moment, and back again before the work is done anew."""

    def inject(scene: Scene, rng: random.Random) -> Answer:
        with scene.scratch() as folder, small_disk(folder, 64_000_000) as place:
            log = folder / "log"
            delay = rng.uniform(0, scene.seconds[name])
            pid = start_child(LINES[name].format(w=scene.work, o=place), log)
            time.sleep(delay)
            frozen = subprocess.run(["mount", "-o", "remount,ro", str(place)], check=False, capture_output=True)  # noqa: S607
            ended = wait_child(pid, log)
            if is_rude(ended):
                return Answer("rude", f"after {delay:.2f} s: exit {ended.code}: {ended.told[-400:]}")
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)  # noqa: S607
            half = half_taken_as_whole(name, place)
            if half is not None:
                return Answer("wrong", f"after {delay:.2f} s: {half}")
            note = f"after {delay:.2f} s ({'read-only' if frozen.returncode == 0 else 'busy'}), exit {ended.code}"
            return finished(scene, name, place, note=note)

    return inject


def two_at_once(name: str) -> Callable[[Scene, random.Random], Answer]:
    """A kind: the same command twice on one output folder; one works, the other is told to wait or comes after."""

    def inject(scene: Scene, rng: random.Random) -> Answer:
        with scene.scratch() as folder:
            line = LINES[name].format(w=scene.work, o=folder)
            logs = [folder / "log-a", folder / "log-b"]
            pids = [start_child(line, logs[0])]
            time.sleep(rng.uniform(0, scene.seconds[name]))
            pids.append(start_child(line, logs[1]))
            ends = [wait_child(pid, log) for pid, log in zip(pids, logs, strict=True)]
            for ended in ends:
                if is_rude(ended) or (ended.code == 2 and "is being written by another run" not in ended.told):
                    return Answer("rude", f"exit {ended.code}: {ended.told[-400:]}")
            if all(ended.code == 2 for ended in ends):
                return Answer("lost", "both were refused")
            note = f"exit codes {[ended.code for ended in ends]}"
            if result_of(name, folder) != result_of(name, scene.work) and name != "bench":
                return Answer("wrong", f"{note}; another result")
            return Answer("whole", note)

    return inject


def clock_jumps(name: str) -> Callable[[Scene, random.Random], Answer]:
    """A kind: the wall clock jumps by up to ten years, back and forth, while a command runs (libfaketime)."""

    def inject(scene: Scene, rng: random.Random) -> Answer:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
        if library is None:
            raise FileNotFoundError("libfaketime is not installed")
        with scene.scratch() as folder:
            clock = folder / "clock"
            clock.write_text("+0")
            env = {
                **os.environ,
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
            line = LINES[name].format(w=scene.work, o=folder).split()
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-c", "from udacisense.cli.main import main; main()", *line],
                    env=env,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
                while process.poll() is None:
                    fresh = folder / "clock.new"
                    fresh.write_text(f"{rng.choice('+-')}{rng.randrange(10 * 365)}d")
                    fresh.rename(clock)
                    time.sleep(rng.uniform(0.05, 0.5))
            told = (folder / "log").read_text(errors="replace")
            if is_rude(Ended(process.returncode, told)) or process.returncode not in (0, 1):
                return Answer("rude", f"exit {process.returncode}: {told[-400:]}")
            return finished(scene, name, folder, note=f"exit {process.returncode}")

    return inject
