"""Faults of ``faults.py`` that stop ``device pull``: real adb, the daemon that runs on phones, the tests' phone."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fault_damage import damage
from fault_extras import app_selftest, as_app, timed_here
from fault_scene import Answer, Ended, Scene, in_child, is_rude, start_child, wait_child
from fault_stops import small_disk

sys.path.append(str(Path(__file__).resolve().parent.parent / "helpers"))

from scripted_phone import ADBD, AdbServer, ScriptedPhone, why_not

from harness.records import MeasurementSet
from udacisense.base.files import sha256_file, sha256_path, size_bytes
from udacisense.base.records import to_json, write_record
from udacisense.cli.main import INTERRUPTED

_BENCHES = 6
_BENCH_BYTES = 4_000_000  # of each, at least: so much that a pull takes most of its time
_ENDS_S = 30.0  # after Ctrl-C: a pull that goes on for longer hangs
_WRITE_S = 0.005  # about the time that one result takes to be written
_LAST = 2  # files that may still be kept after Ctrl-C: the one at work, and one that came in between


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A phone full of results on real adb, and what a pull that nothing disturbed took home from it."""

    phone: ScriptedPhone
    bundle: Path
    on_phone: str  # SHA-256 of the results
    kept: dict[str, str]  # file on the desk → SHA-256
    n_bytes: int
    seconds: float

    @property
    def results(self) -> Path:
        return self.phone.files / "results"

    def line(self, home: Path) -> str:
        return f"device pull {self.bundle} -o {home}"


@functools.cache
def desk_of(work: Path) -> Desk:
    """Plug in a phone that holds results of the scene's bundle; it stays until the campaign ends."""
    reason = why_not(ADBD)
    if reason is not None:
        raise FileNotFoundError(reason)
    root = work.parent / "desk"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    server = AdbServer(root)
    atexit.register(server.stop)
    os.environ["ANDROID_ADB_SERVER_PORT"] = str(server.port)
    os.environ.pop("ANDROID_SERIAL", None)
    phone = ScriptedPhone(root / "phone", ADBD)
    atexit.register(phone.unplug)
    server.plug_in(phone)
    phone.install_app()
    for name, made in app_results(work):
        write_record(phone.files / "results" / f"{name}.json", made)
    home = root / "home"
    start = time.monotonic()
    ended = in_child(f"device pull {work / 'bundle'} -o {home}")
    seconds = time.monotonic() - start
    assert ended.code == 0, ended.told
    return Desk(
        phone=phone,
        bundle=work / "bundle",
        on_phone=sha256_path(phone.files / "results"),
        kept=files_in(home),
        n_bytes=size_bytes(home),
        seconds=seconds,
    )


def app_results(work: Path) -> Iterator[tuple[str, MeasurementSet]]:
    """Return what the app would have written: what was measured here, in its rows, and one result of another bundle."""
    own, timed = app_selftest(work), timed_here(work)
    rounds = -(-_BENCH_BYTES // len("".join(map(to_json, timed))))
    rows = tuple(as_app(m, round=number) for number in range(rounds) for m in timed)
    bench = dataclasses.replace(own, kind="bench", inputs="golden pack, first image", measurements=rows)
    yield "by-hand", own
    yield "other", dataclasses.replace(bench, bundle_sha256="0" * 64)
    for seed in range(_BENCHES):
        yield f"timed-{seed}", dataclasses.replace(bench, seed=seed)


def files_in(folder: Path) -> dict[str, str]:
    """Return every file of a folder with its SHA-256, hidden ones too."""
    return {path.name: sha256_file(path) for path in folder.iterdir()} if folder.exists() else {}


def await_write(pid: int, home: Path) -> None:
    """Wait until a pull begins to write its next file, or ends."""
    before = set(home.glob("*"))
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and not set(home.glob("*")) - before:
        time.sleep(0.0002)


def n_kept(home: Path) -> int:
    """Count the files that stand under their final names."""
    return len([path for path in home.iterdir() if not path.name.startswith(".")]) if home.exists() else 0


def judged(desk: Desk, home: Path, ended: Ended, *, note: str, room: Callable[[], object] = lambda: None) -> Answer:
    """Look at what an interrupted pull left on both sides, make room, pull again, and compare."""
    found = files_in(home)
    whole = {name for name, sha256 in found.items() if desk.kept.get(name) == sha256}
    hidden = {name for name in found if name.startswith(".")}
    note = f"{note}, exit {ended.code}, {len(whole)} of {len(desk.kept)} kept, {len(hidden)} half"
    if is_rude(ended) or len(ended.told.strip().splitlines()) > 1:
        return Answer("rude", f"{note}: {ended.told[-400:]}")
    if set(found) - hidden - whole:
        return Answer("wrong", f"{note}; not whole: {sorted(set(found) - hidden - whole)}")
    room()
    again = in_child(desk.line(home))
    if again.code != 0 or again.told:
        return Answer("lost", f"{note}; the rerun ended with {again.code}: {again.told[-300:]}")
    if files_in(home) != desk.kept:
        return Answer("lost", f"{note}; another result: {sorted(files_in(home))}")
    if sha256_path(desk.results) != desk.on_phone:
        return Answer("lost", f"{note}; the phone's own results were changed")
    return Answer("whole", note)


def pull_stopped(stop: Callable[[int, random.Random], None]) -> Callable[[Scene, random.Random], Answer]:
    """A kind: stop a pull at a random moment, pull again, and compare with what an undisturbed one took home.

    A file is written in a fraction of the time that it takes to come: in half of the cases the moment is one of these.
    """

    def inject(scene: Scene, rng: random.Random) -> Answer:
        desk = desk_of(scene.work)
        with scene.scratch() as folder:
            delay = rng.uniform(0, 1.1 * desk.seconds)
            pid = start_child(desk.line(folder / "home"), folder / "log")
            time.sleep(delay)
            if rng.random() < 0.5:
                await_write(pid, folder / "home")
                time.sleep(rng.uniform(0, _WRITE_S))
            kept, stopped = n_kept(folder / "home"), time.monotonic()
            stop(pid, rng)
            ended = wait_child(pid, folder / "log", timeout_s=_ENDS_S)
            note = f"after {delay:.2f} s, ended in {time.monotonic() - stopped:.2f} s"
            if ended.code == INTERRUPTED and n_kept(folder / "home") > kept + _LAST:
                return Answer("rude", f"{note}: it went on, from {kept} files to {n_kept(folder / 'home')}")
            return judged(desk, folder / "home", ended, note=note)

    return inject


def pull_on_full_disk(scene: Scene, rng: random.Random) -> Answer:
    """A kind: the disk has room for a random part of the results; then room is made, and they are pulled again."""
    desk = desk_of(scene.work)
    size = rng.randrange(8192, desk.n_bytes)
    with scene.scratch() as folder, small_disk(folder, size) as place:
        ended = in_child(desk.line(place))
        remount = ["mount", "-o", f"remount,size={4 * desk.n_bytes}", str(place)]
        note = f"{size} of {desk.n_bytes} bytes"
        return judged(desk, place, ended, note=note, room=lambda: subprocess.run(remount, check=True))


def two_pulls(scene: Scene, rng: random.Random) -> Answer:
    """A kind: two pulls into one folder at a time; both take home the same, so neither disturbs the other."""
    desk = desk_of(scene.work)
    with scene.scratch() as folder:
        logs = [folder / "log-a", folder / "log-b"]
        delay = rng.uniform(0, desk.seconds)
        pids = [start_child(desk.line(folder / "home"), logs[0])]
        time.sleep(delay)
        pids.append(start_child(desk.line(folder / "home"), logs[1]))
        ends = [wait_child(pid, log) for pid, log in zip(pids, logs, strict=True)]
        note = f"{delay:.2f} s apart, exit codes {[ended.code for ended in ends]}"
        if any(ended.code != 0 or ended.told for ended in ends):
            return Answer("rude", f"{note}: {[ended.told[-400:] for ended in ends]}")
        if files_in(folder / "home") != desk.kept:
            return Answer("wrong", f"{note}; another result: {sorted(files_in(folder / 'home'))}")
        return judged(desk, folder / "home", ends[0], note=note)


def pull_damaged(scene: Scene, rng: random.Random) -> Answer:
    """A kind: a result on the phone is damaged; it is named, and the others come home as if nothing had happened."""
    desk = desk_of(scene.work)
    path = rng.choice(sorted(desk.results.iterdir()))
    whole = path.read_bytes()
    with scene.scratch() as folder:
        try:
            way = f"{path.name}: {damage(path, rng)}"
            ended = in_child(desk.line(folder / "home"))
        finally:
            path.write_bytes(whole)
        found = files_in(folder / "home")
    note = f"{way}: exit {ended.code}, {len(found)} kept"
    # Its reason stands in the table, on standard output; an error beside it would be another defect.
    if ended.code not in (0, 2, 4) or ended.told.strip():
        return Answer("rude", f"{note}: {ended.told[-400:]}")
    is_own = f".{path.stem}."
    if any(found.get(name) != sha256 for name, sha256 in desk.kept.items() if is_own not in name):
        return Answer("lost", f"{note}; another result than the damaged one did not come home whole")
    if set(found) - set(desk.kept):
        return Answer("wrong", f"{note}; left behind: {sorted(set(found) - set(desk.kept))}")
    own = [name for name in found if is_own in name]
    if ended.code and own:
        return Answer("wrong", f"{note}; refused, and kept all the same")
    return Answer("unrecorded" if own else "refused", note)
