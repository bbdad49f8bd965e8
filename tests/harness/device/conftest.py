"""Phones to plug in, a bundle to push, and answers that were really measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_bundle as small
import torch
from bench_records import measurement_of
from scripted_phone import ADBD, AdbServer, ScriptedPhone, why_not

from exporters.bundle.open import open_bundle
from exporters.formats.contract import ExportOptions
from harness.bench.cells import SweepOptions
from harness.bench.run import plan_sweep, run_sweep
from harness.device.contract import RUNNER
from harness.records import Host, Measurement, MeasurementSet
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.data.images import DataSet

PHONE_HOST = Host(
    system="Android 14 (API 34), desk/phone/1",
    machine="arm64-v8a",
    cpu="Desk 1, Desk SoC",
    physical_cores=8,
    logical_cores=8,
    memory_bytes=8 * 10**9,
    governor=None,
    load_average=None,
    python="none",
    libraries={"org.udacisense.demo": "0.1.0", "org.pytorch:pytorch_android_lite": "1.12.2"},
    git_commit=None,
    git_dirty=None,
)


@pytest.fixture(scope="session")
def phone_bundle(drawn_dataset: DataSet, trained_model: torch.nn.Module, once: Callable[..., Path]) -> Path:
    """What the app runs, float32 and int8."""
    options = ExportOptions(formats=("ptl",), precisions=("fp32", "int8-dynamic"), engines=("qnnpack",))
    made = once("phone", lambda folder: small.export(trained_model, drawn_dataset, folder / "small", options))
    return made / "small"


def as_app(measurement: Measurement, **actual: int) -> Measurement:
    """A cell that the harness measured here, under the name that the app signs with."""
    spec = dataclasses.replace(measurement.spec, runner=RUNNER)
    return dataclasses.replace(measurement, spec=spec, actual={**measurement.actual, **actual})


@pytest.fixture(scope="session")
def selftest_answer(phone_bundle: Path) -> MeasurementSet:
    """The golden pack, really replayed by the lite interpreter of this machine."""
    made = verify_bundle(open_bundle(phone_bundle), VerifyOptions(runners=("lite",)))
    return dataclasses.replace(made, host=PHONE_HOST, measurements=tuple(as_app(m) for m in made.measurements))


@pytest.fixture(scope="session")
def bench_answer(phone_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> MeasurementSet:
    """Times that were really taken on this machine, in the rows that the app writes."""
    plan = plan_sweep((phone_bundle,), SweepOptions(budget="quick", threads=[1], variants=("ptl-fp32",)))
    few = dataclasses.replace(
        plan.budget, tune_rounds=1, report_rounds=2, final_rounds=0, warmup=1, min_samples=10, min_s=0.0, max_s=5.0
    )
    cells = tuple(cell for cell in plan.cells if cell.runner == "lite" and cell.variant_id == "ptl-fp32")
    plan = dataclasses.replace(plan, cells=cells, budget=few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "harness.bench.run.measure_ceilings", lambda _: ()
        )  # what this machine can do at most is no phone's
        measured = run_sweep(plan, out=tmp_path_factory.mktemp("sweep") / "bench.json")
    rows = [
        as_app(measurement_of(cells[0], run, few), round=run.round)
        for run in measured.runs
        if run.phase in ("tune", "report")
    ]
    return MeasurementSet(
        schema_version=1,
        kind="bench",
        created_utc=measured.created_utc,
        bundle=measured.bundles[0].name,
        bundle_sha256=measured.bundles[0].sha256,
        host=PHONE_HOST,
        inputs="golden pack, first image",
        seed=0,
        measurements=tuple(rows),
    )


@pytest.fixture(scope="session")
def adbd() -> Path:
    reason = why_not(ADBD)
    if reason is not None:
        pytest.skip(reason)
    return ADBD


@pytest.fixture(scope="session")
def adb_server(adbd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    server = AdbServer(tmp_path_factory.mktemp("adb"))
    yield server
    server.stop()


@pytest.fixture
def plug_in(
    adb_server: AdbServer, adbd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ScriptedPhone]]:
    """Connect another phone, with the app on it unless told otherwise; all are gone afterwards."""
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    connected: list[ScriptedPhone] = []

    def connect(*, app: bool = True, secure: bool = False, **options: str) -> ScriptedPhone:
        phone = ScriptedPhone(tmp_path / f"phone-{len(connected)}", adbd, secure=secure, **options)
        connected.append(phone)
        adb_server.plug_in(phone, state="unauthorized" if secure else "device")
        if app:
            phone.install_app()
        return phone

    yield connect
    for phone in connected:
        adb_server.forget(phone)
