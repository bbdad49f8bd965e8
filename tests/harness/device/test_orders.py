"""Orders to the app over real adb, and its answers in report, gate and comparison."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_phone import ScriptedPhone

from exporters.bundle.open import open_bundle
from harness.device.contract import ACTIVITY, RESULTS
from harness.device.orders import Order, place_order
from harness.device.phones import choose, connect
from harness.records import BenchSet, MeasurementSet
from udacisense.base.records import Outcome, read_json, to_json
from udacisense.cli.main import INTERRUPTED, run
from udacisense.errors import InferenceError, InputError

pytestmark = pytest.mark.adb

PlugIn = Callable[..., ScriptedPhone]
# The client library leaves the socket of a refused transport to the garbage collector.
LEFT_SOCKET = "ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning"
Told = pytest.CaptureFixture[str]


@pytest.fixture
def phone(plug_in: PlugIn, selftest_answer: MeasurementSet, bench_answer: MeasurementSet) -> ScriptedPhone:
    made = plug_in()
    made.state("selftest.json", to_json(selftest_answer))
    made.state("bench.json", to_json(bench_answer))
    return made


def kept(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"small.*.{kind}.json"))


def test_a_selftest_comes_home_as_the_app_wrote_it(
    phone: ScriptedPhone, phone_bundle: Path, selftest_answer: MeasurementSet, tmp_path: Path, capsys: Told
) -> None:
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path)]) == 0
    (path,) = kept(tmp_path, "verify")
    assert read_json(MeasurementSet, path) == selftest_answer
    assert phone.orders == [f"{ACTIVITY} selftest all "]
    assert "ptl-int8-dynamic-qnnpack" in capsys.readouterr().out


def test_a_bench_comes_home_into_report_gate_and_comparison(
    phone: ScriptedPhone, phone_bundle: Path, tmp_path: Path, capsys: Told
) -> None:
    home = tmp_path / "home"  # beside the phone's own files
    line = ["device", "bench", str(phone_bundle), "--threads", "1,2", "--variant", "ptl-fp32"]
    assert run([*line, "-o", str(home)]) == 0
    assert phone.orders == [f"{ACTIVITY} bench ptl-fp32 1,2"]
    (bench,) = kept(home, "bench")
    measured = read_json(BenchSet, bench)
    assert measured.host.system.startswith("Android 14")
    assert {cell.runner for cell in measured.cells} == {"android-app"}
    assert {run.phase for run in measured.runs} == {"tune", "report"}
    assert run(["device", "selftest", str(phone_bundle), "-o", str(home)]) == 0
    (verification,) = kept(home, "verify")

    assert run(["bench", "--compare", str(bench), str(bench)]) == 0
    assert "ptl-fp32" in capsys.readouterr().out
    gate = ["gate", str(phone_bundle), "--verification", str(verification), "--bench", str(bench)]
    assert run([*gate, "-o", str(home / "small.gate.json")]) == 0
    assert run(["report", str(home), "-o", str(home / "report.md")]) == 0
    report = (home / "report.md").read_text()
    assert "Android 14" in report
    assert "small/ptl-fp32 t1" in report


def test_a_bench_recommends_by_what_the_selftest_said(
    phone: ScriptedPhone, phone_bundle: Path, selftest_answer: MeasurementSet, tmp_path: Path, capsys: Told
) -> None:
    home = tmp_path / "home"  # beside the phone's own files
    bench = ["device", "bench", str(phone_bundle), "--threads", "1", "--variant", "ptl-fp32", "-o", str(home)]
    selftest = ["device", "selftest", str(phone_bundle), "-o", str(home)]
    assert run(bench) == 0
    assert "not verified, so run" in capsys.readouterr().out
    assert run(selftest) == 0
    assert run(bench) == 0
    told = capsys.readouterr().out
    assert "- small: `ptl-fp32` on android-app, 1 thread" in told
    assert "not verified" not in told
    failed = [
        dataclasses.replace(m, outcome=Outcome.FAILED, reason="labels differ") for m in selftest_answer.measurements
    ]
    phone.state("selftest.json", to_json(dataclasses.replace(selftest_answer, measurements=tuple(failed))))
    assert run(selftest) == 1
    assert run(bench) == 0
    assert "- small: no file can be recommended: `ptl-fp32` (failed verification)." in capsys.readouterr().out
    (path,) = kept(home, "bench")
    assert read_json(BenchSet, path).recommended == ()


def test_times_of_a_phone_are_not_compared_with_another_machines(
    phone: ScriptedPhone, phone_bundle: Path, tmp_path: Path, capsys: Told
) -> None:
    assert run(["device", "bench", str(phone_bundle), "-o", str(tmp_path)]) == 0
    (path,) = kept(tmp_path, "bench")
    measured = read_json(BenchSet, path)
    other = tmp_path / "other.json"
    other.write_text(to_json(dataclasses.replace(measured, host=dataclasses.replace(measured.host, cpu="Desk 2"))))
    assert run(["bench", "--compare", str(path), str(other)]) == 2
    assert "unlike hosts" in capsys.readouterr().err


def test_a_failed_selftest_is_kept_and_is_the_answer(
    phone: ScriptedPhone, phone_bundle: Path, selftest_answer: MeasurementSet, tmp_path: Path
) -> None:
    first, *others = selftest_answer.measurements
    failed = dataclasses.replace(first, outcome=Outcome.FAILED, reason="labels differ on 3 images")
    phone.state("selftest.json", to_json(dataclasses.replace(selftest_answer, measurements=(failed, *others))))
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path)]) == 1
    (path,) = kept(tmp_path, "verify")
    assert read_json(MeasurementSet, path).measurements[0].reason == "labels differ on 3 images"


def test_json_is_the_record_and_nothing_else(
    phone: ScriptedPhone, phone_bundle: Path, selftest_answer: MeasurementSet, tmp_path: Path, capsys: Told
) -> None:
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(to_json(selftest_answer))


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("hang", 4, "gave no answer to the selftest within 3 s"),
        ("crash", 4, "ended without an answer"),
        ("fail", 4, "could not do the selftest: The model is damaged."),
        ("half", 2, "is not a valid MeasurementSet record"),
        ("none", 2, "took no order"),
    ],
)
def test_an_app_that_gives_no_sound_answer(
    *, phone: ScriptedPhone, phone_bundle: Path, tmp_path: Path, capsys: Told, mode: str, code: int, words: str
) -> None:
    phone.state("mode", mode)
    timeout = "3" if mode == "hang" else "60"
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path), "--timeout", timeout]) == code
    assert words in capsys.readouterr().err
    assert kept(tmp_path, "verify") == []


@pytest.mark.filterwarnings(LEFT_SOCKET)
def test_unplugged_while_the_app_works(phone: ScriptedPhone, phone_bundle: Path) -> None:
    phone.state("mode", "hang")
    (chosen,) = choose(connect(), serials=(), every=False)
    order = Order(command="selftest", variants=(), timeout_s=60)
    with pytest.raises(InputError, match="was unplugged or switched off"):
        place_order(chosen, order, stop=threading.Event(), on_wait=lambda _: phone.unplug())


def test_an_order_ends_when_it_is_told_to(phone: ScriptedPhone) -> None:
    phone.state("mode", "hang")
    (chosen,) = choose(connect(), serials=(), every=False)
    stop = threading.Event()
    stop.set()
    with pytest.raises(InferenceError):
        place_order(chosen, Order(command="bench", variants=(), threads=(1,), timeout_s=600), stop=stop)


def test_the_phone_holds_another_bundle(phone: ScriptedPhone, phone_bundle: Path, tmp_path: Path, capsys: Told) -> None:
    (phone.files / "bundle").mkdir()
    (phone.files / "bundle" / "manifest.json").write_text("{}")
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path)]) == 2
    assert "device push" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bundle_sha256": "0" * 64}, "is of another bundle"),
        ({"measurements": ()}, "holds no measurement"),
        ({"kind": "bench"}, "passed and timed nothing"),
    ],
)
def test_an_answer_that_cannot_be_this_bundles_is_not_kept(
    *,
    phone: ScriptedPhone,
    phone_bundle: Path,
    selftest_answer: MeasurementSet,
    tmp_path: Path,
    capsys: Told,
    change: dict[str, object],
    words: str,
) -> None:
    phone.state("selftest.json", to_json(dataclasses.replace(selftest_answer, **change)))  # type: ignore[arg-type]
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert kept(tmp_path, "verify") == []


def test_a_row_that_passed_and_compared_nothing_is_refused(
    phone: ScriptedPhone, phone_bundle: Path, selftest_answer: MeasurementSet, tmp_path: Path, capsys: Told
) -> None:
    first, *others = selftest_answer.measurements
    hollow = dataclasses.replace(selftest_answer, measurements=(dataclasses.replace(first, comparison=None), *others))
    phone.state("selftest.json", to_json(hollow))
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path)]) == 2
    assert "compared nothing" in capsys.readouterr().err


def in_use(answer: MeasurementSet, *, answered: int = 9) -> MeasurementSet:
    """Return what the app counts of photos: of 12, one member answered 9 and knew two of those not."""
    counts = {"choice": "small · ptl-fp32", "member": "tiny", "asked": 12, "answered": answered, "none_of_these": 2}
    first = dataclasses.replace(answer.measurements[0], actual=counts)
    return dataclasses.replace(answer, kind="use", measurements=(first,))


def test_pull_takes_home_what_is_sound_and_names_the_rest(
    *,
    phone: ScriptedPhone,
    phone_bundle: Path,
    selftest_answer: MeasurementSet,
    bench_answer: MeasurementSet,
    tmp_path: Path,
    capsys: Told,
) -> None:
    results = phone.files / "results"
    (results / "by-hand.json").write_text(to_json(selftest_answer))
    (results / "timed.json").write_text(to_json(bench_answer))
    (results / "older.json").write_text(to_json(dataclasses.replace(bench_answer, bundle_sha256="0" * 64)))
    assert run(["device", "pull", str(phone_bundle), "-o", str(tmp_path)]) == 0
    assert [path.name.split(".")[-3] for path in sorted(tmp_path.glob("small*.json"))] == ["by-hand", "timed"]
    assert "another bundle" in capsys.readouterr().out
    (results / "use.json").write_text(to_json(in_use(bench_answer)))
    assert run(["device", "pull", str(phone_bundle), "-o", str(tmp_path)]) == 0
    (used,) = tmp_path.glob("small.*.use.json")
    assert read_json(MeasurementSet, used) == in_use(bench_answer)
    assert "none of these" in capsys.readouterr().out
    (results / "use.json").write_text(to_json(in_use(bench_answer, answered=13)))
    assert run(["device", "pull", str(phone_bundle), "-o", str(tmp_path)]) == 2
    assert "[2, 13, 12] as none_of_these, answered, asked" in " ".join(capsys.readouterr().out.split())
    (results / "use.json").unlink()
    (results / "cut.json").write_text(to_json(selftest_answer)[:300])
    (results / "lost.failed.json").write_text('{"order": "lost", "error": "Out of memory."}')
    assert run(["device", "pull", str(phone_bundle), "-o", str(tmp_path)]) == 4
    told = capsys.readouterr().out
    assert "Out of memory." in told
    assert "cut.json" in told


@pytest.fixture
def heeded_ctrl_c() -> Iterator[None]:
    """A shell starts what runs in its background with Ctrl-C ignored; a person at a terminal has it heeded."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_ctrl_c")
def test_a_pull_ends_at_ctrl_c(
    phone: ScriptedPhone, phone_bundle: Path, selftest_answer: MeasurementSet, tmp_path: Path, capsys: Told
) -> None:
    results, home = phone.files / "results", tmp_path / "home"
    for number in range(60):
        (results / f"{number:03}.json").write_text(to_json(selftest_answer))

    def press() -> None:
        while not list(home.glob("small.*.json")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    hand = threading.Thread(target=press)
    hand.start()
    assert run(["device", "pull", str(phone_bundle), "-o", str(home)]) == INTERRUPTED
    hand.join()
    assert capsys.readouterr().err.strip() == "interrupted"
    few = list(home.iterdir())
    assert 1 <= len(few) < 30
    assert all(read_json(MeasurementSet, path) == selftest_answer for path in few)
    assert len(list(results.iterdir())) == 60
    assert run(["device", "pull", str(phone_bundle), "-o", str(home)]) == 0
    assert len(list(home.iterdir())) == 60


def test_a_pull_ends_within_a_file(phone: ScriptedPhone) -> None:
    (phone.files / "results" / "long.json").write_bytes(bytes(10**6))
    (chosen,) = choose(connect(), serials=(), every=False)
    blocks = []

    def end(n_bytes: int) -> None:
        blocks.append(n_bytes)
        raise InputError("ended")

    with pytest.raises(InputError, match="ended"):
        chosen.read(f"{RESULTS}/long.json", on_bytes=end)
    assert len(blocks) == 1


def test_two_phones_answer_at_once(
    phone: ScriptedPhone, plug_in: PlugIn, phone_bundle: Path, selftest_answer: MeasurementSet, tmp_path: Path
) -> None:
    second = plug_in(model="Desk_2")
    second.state("selftest.json", to_json(selftest_answer))
    second.state("mode", "fail")
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path), "--all"]) == 4
    (path,) = kept(tmp_path, "verify")
    assert str(phone.port) in path.name
    second.state("mode", "answer")
    assert run(["device", "selftest", str(phone_bundle), "-o", str(tmp_path), "--all"]) == 0
    assert len(kept(tmp_path, "verify")) == 2


def test_a_variant_that_the_bundle_has_not_is_never_ordered(phone: ScriptedPhone, phone_bundle: Path) -> None:
    assert run(["device", "bench", str(phone_bundle), "--variant", "../../data"]) == 2
    assert not (phone.root / "phone" / "state" / "orders").exists()
    assert open_bundle(phone_bundle).exported()
