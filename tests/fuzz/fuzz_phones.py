"""A phone that prints anything, and answers of the app that say anything."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import bench_records
import report_records
from fuzz_damage import damaged
from fuzz_hold import Place, check_sentence
from fuzz_seeds import LABELS, Seeds, example_of
from hypothesis import strategies as st

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import Bundle, open_bundle
from harness.bench.advice import recommend
from harness.bench.ranking import rank
from harness.device.contract import FORMATS, RUNNER, Command
from harness.device.install import install_apk
from harness.device.orders import Order, place_order, result_names
from harness.device.phone import Phone
from harness.device.phones import choose, list_phones
from harness.device.pull import pull_results
from harness.device.push import _compare, remote_manifest_sha256
from harness.device.results import check_answers, read_result, to_bench_set
from harness.records import MeasurementSet, RunSpec
from harness.report.tables import latency_table, verification_table
from harness.verify.run import exit_code
from udacisense.base.files import sha256_file
from udacisense.base.records import to_json
from udacisense.errors import UdacisenseError

# --- Answers of the app --------------------------------------------------------------------------------------------


def selftest(seeds: Seeds) -> bytes:
    """What the app writes of a self-test of the seeds' bundle."""
    compared = report_records.comparison(LABELS, ())
    cells = [report_records.verified_cell(name, RUNNER, comparison=compared) for name in _ids(seeds)]
    return _answer(seeds, report_records.verification(seeds.bundle, report_records.phone_host(), "golden pack", *cells))


def times(seeds: Seeds) -> bytes:
    """What the app writes of a bench: three rounds of each variant."""
    rows = []
    for number in range(3):
        for name in _ids(seeds):
            spec = dataclasses.replace(example_of(RunSpec), variant_id=name, runner=RUNNER, engine=None)
            timing = bench_records.run_of(cast("Any", SimpleNamespace(id="")), number, 5.0 + 0.1 * number).timing
            blank = report_records.verified_cell(name, RUNNER, comparison=None)
            rows.append(dataclasses.replace(blank, spec=spec, timing=timing, actual={"round": number}))
    made = report_records.verification(seeds.bundle, report_records.phone_host(), "golden pack", *rows)
    return _answer(seeds, dataclasses.replace(made, kind="bench"))


def _ids(seeds: Seeds) -> list[str]:
    return [v.id for v in open_bundle(seeds.bundle).exported() if v.format in FORMATS]


def _answer(seeds: Seeds, made: MeasurementSet) -> bytes:
    sha256 = sha256_file(seeds.bundle / Manifest.FILE_NAME)
    return to_json(dataclasses.replace(made, bundle_sha256=sha256)).encode()


def take_result(data: bytes, bundle: Bundle, command: Command) -> None:
    """Do what the command does with an answer: read, check, derive, show."""
    made = read_result(data, bundle, source="the answer")
    check_answers(made, command, (), source="the answer")
    if made.kind == "verify":
        assert exit_code(made) in (0, 1, 3, 4)
        verification_table(made, title="a phone")
        return
    measured = to_bench_set(made, bundle, verifications=())
    rows = rank(measured)
    latency_table(rows, title="a phone")
    recommend(measured, rows)


# --- A phone -------------------------------------------------------------------------------------------------------


class Device:
    """Adb's side of a phone that prints the same to every command; ``$NAME`` is the first file that it was asked of."""

    def __init__(self, text: str, data: bytes = b"") -> None:
        self.text, self.data = text, data
        self.sync = self

    def shell2(self, command: str, *, timeout: float, v2: bool) -> object:  # noqa: ARG002 - adbutils' signature
        asked = re.search(r"[^\s']+\.json", command)
        return SimpleNamespace(returncode=0, output=self.text.replace("$NAME", asked[0] if asked else ""))

    def iter_content(self, path: str) -> Iterator[bytes]:  # noqa: ARG002
        yield self.data

    def open_transport(self, *, timeout: float) -> object:  # noqa: ARG002
        raise EOFError("the cable was drawn")


class Client:
    """Adb's server, with that phone ready and another one in the state that its text says."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def device(self, serial: str) -> Device:  # noqa: ARG002
        return self._device

    def list(self, *, extended: bool = False) -> list[object]:  # noqa: ARG002
        ready = SimpleNamespace(serial="one", state="device", tags={"model": self._device.text})
        return [ready, SimpleNamespace(serial=self._device.text, state=self._device.text, tags={})]


def pull(data: bytes, bundle: Bundle, place: Place) -> None:
    """Take home one result that holds these bytes: whatever it holds, the phone's other results would come too."""
    home = place.inner / "home"
    phone = Phone(cast("Any", Client(Device("", data))), "one", None)
    with mock.patch("harness.device.pull.result_names", return_value=["a.json"]):
        (kept,) = pull_results(
            phone, bundle, place=lambda name, kind: home / f"one.{name}.{kind}.json", stop=threading.Event()
        )
    assert kept.reason is not None or (home / "one.a.verify.json").exists() or (home / "one.a.bench.json").exists()


def listen(data: bytes, bundle: Bundle, place: Place) -> None:
    """Ask a phone that prints these bytes everything that a phone is asked."""
    text = data.decode(errors="replace")
    client = cast("Any", Client(Device(text, selftest(place.seeds))))
    phone, home = Phone(client, "one", None), place.inner / "home"
    apk = place.write("app.apk", b"PK")
    order = Order(command="selftest", variants=(), timeout_s=0.01)
    steps: list[Callable[[], object]] = [
        lambda: list_phones(client),
        lambda: choose(client, serials=["one"], every=False),
        lambda: phone.free_bytes("/sdcard"),
        lambda: result_names(phone),
        lambda: remote_manifest_sha256(phone),
        lambda: _compare(phone, bundle, "partial", {}),
        lambda: install_apk(phone, apk, on_bytes=lambda _: None),
        lambda: pull_results(
            phone, bundle, place=lambda name, kind: home / f"one.{name}.{kind}.json", stop=threading.Event()
        ),
        lambda: place_order(phone, order, stop=threading.Event()),
    ]
    with mock.patch("harness.device.orders._POLL_S", 0.001):
        for step in steps:
            try:
                step()
            except UdacisenseError as exc:
                check_sentence(str(exc))


# What Android's tools print, and what only a phone that means harm would.
PRINTED = b"""Filesystem     1K-blocks     Used Available Use% Mounted on
/dev/fuse      113000000 50000000  63000000  45% /storage/emulated
"""
_OTHERS = (
    PRINTED,
    b"34\n",
    "²".encode(),
    "٣٤".encode(),
    b"9" * 5000,
    b"Filesystem 1K-blocks Used Available Use% Mounted on\n/d 1 1 " + b"9" * 5000 + b" 1% /x\n",
    b"Success\n",
    b"Failure [INSTALL_FAILED_OLDER_SDK: Failed parse during installPackageLI]\n",
    b"package:/data/app/base.apk\n",
    b"by-hand.json\nbench-1.failed.json\nnotes.txt\n",
    b"$NAME\n",
    b"gone\n",
    b"Error: Activity class {org.udacisense.demo} does not exist.\n",
    b"0" * 64 + b"  manifest.json\n",
    b"../../../../udacisense-escaped.json\n",
    b"/../../../udacisense-escaped.json\n",
    b"x/../../../../udacisense-escaped.json\n",
    b"",
)


@st.composite
def printed(draw: st.DrawFn, data: bytes) -> bytes:
    """One of these, or several in one, at times damaged."""
    made = b"".join(draw(st.lists(st.sampled_from(_OTHERS), min_size=1, max_size=3)))
    return draw(damaged(made)) if made and draw(st.booleans()) else made
