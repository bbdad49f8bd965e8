"""A folder of records for the report's tests: two pipelines' worth of figures, on two machines, with flips."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from bench_records import counted, make_source, make_variant, plan_of, runs_of, set_of

from exporters.bundle.manifest import Coverage, Golden, GoldenImage, Manifest
from exporters.bundle.open import bundle_sha256
from harness.host import read_host
from harness.inputs import normalized
from harness.records import (
    BenchRun,
    BenchSet,
    Comparison,
    Flip,
    Host,
    HostState,
    Measurement,
    MeasurementSet,
    RunSpec,
)
from udacisense.base.records import Outcome, StageRecord, write_record
from udacisense.measure.metrics import Evaluation
from udacisense.pipeline.requirements import check_requirements
from udacisense.pipeline.run import RunRecord
from udacisense.pipeline.techniques import TechniqueResult, TechniquesRecord

HOSTILE = (
    "<script>window.harmed = 1</script>",
    '"><img src=x onerror="window.harmed = 1">',
    "</style></svg></script><h1>harmed</h1>",
    "abc\u202egnp.exe\u200f\u202b",
    "{{ 7 * 7 }} {% raw %} $x_1$ `code` \\",
    "W" * 10_000,
    "línea\x00\x07 \ufdd0 日本語 हिन्दी 🦊",
)


def stage(name: str, *, file_bytes: int, latency_ms: float, top1: float, labels: tuple[str, ...]) -> StageRecord:
    return StageRecord(
        stage=name,
        config={"temperature": 3.0, "note": name},
        duration_s=1.0,
        file_bytes=file_bytes,
        parameters=1000,
        nonzero_parameters=1000,
        top1_fraction=top1,
        top5_fraction=0.99,
        per_class=dict.fromkeys(labels, top1),
        latency_ms=latency_ms,
        n_eval_images=1000,
    )


def write_run(folder: Path, *, name: str, stages: tuple[str, str], labels: tuple[str, ...]) -> None:
    baseline = stage("baseline", file_bytes=6_000_000, latency_ms=10.0, top1=0.88, labels=labels)
    made = (
        stage(stages[0], file_bytes=4_000_000, latency_ms=12.0, top1=0.85, labels=labels),
        stage(stages[1], file_bytes=3_000_000, latency_ms=6.0, top1=0.84, labels=labels),
    )
    write_record(
        folder / RunRecord.FILE_NAME,
        RunRecord(
            schema_version=1,
            name=name,
            fingerprint="f",
            baseline=baseline,
            stages=made,
            requirements=check_requirements(baseline, made[-1]),
        ),
    )


def write_techniques(folder: Path, *, names: tuple[str, str], labels: tuple[str, ...]) -> None:
    n = len(labels)
    matrix = tuple(tuple(9 if i == j else 0 for j in range(n)) for i in range(n))

    def result(name: str, top1: float) -> TechniqueResult:
        return TechniqueResult(
            name=name,
            doc=name,
            figures=stage(name, file_bytes=2_000_000, latency_ms=5.0, top1=top1, labels=labels),
            latency_ratio=0.5,
            macs=None,
            mcnemar_p=0.04,
            top1_interval=(top1 - 0.02, top1 + 0.02),
            confusion=matrix,
        )

    write_record(
        folder / TechniquesRecord.FILE_NAME,
        TechniquesRecord(
            schema_version=1,
            class_names=labels,
            artifact_sha256="0" * 64,
            baseline=stage("baseline", file_bytes=6_000_000, latency_ms=10.0, top1=0.88, labels=labels),
            baseline_macs=10_000_000,
            baseline_confusion=matrix,
            results=(result(names[0], 0.86), result(names[1], 0.7)),
        ),
    )


def golden_pixels() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Four images, uint8 (4, 3, 32, 32)."""
    return np.random.default_rng(5).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)


def write_bundle(folder: Path, *, name: str, labels: tuple[str, ...], reason: str) -> Manifest:
    """Write a manifest and a golden pack that agrees with itself."""
    variants = (
        make_variant("onnx-fp32"),
        make_variant(
            "ptl-int8-dynamic-qnnpack",
            file_bytes=400_000,
            precision_note=reason,
            coverage=Coverage(modules_int8=2, modules_total=54, parameters_int8_fraction=0.4, macs_int8_fraction=0.01),
        ),
        make_variant("coreml-fp32"),
        make_variant(
            "executorch-fp32", path=None, sha256=None, file_bytes=None, outcome=Outcome.SKIPPED, reason=reason
        ),
    )
    made = make_source(name, *variants).manifest
    pixels, count = golden_pixels(), 32 * 32 * 3
    signature = dataclasses.replace(made.signature, labels=labels, output_shape=(1, len(labels)))
    logits = np.eye(4, len(labels), dtype="<f4")
    images = tuple(
        GoldenImage(width_px=32, height_px=32, offset_bytes=i * count, label=i, predicted=i) for i in range(4)
    )
    golden = Golden(images_path="images.u8", inputs_path="inputs.f32", logits_path="logits.f32", images=images)
    manifest = dataclasses.replace(made, signature=signature, golden=golden)
    folder.mkdir(parents=True)
    (folder / "images.u8").write_bytes(pixels.transpose(0, 2, 3, 1).tobytes())
    (folder / "inputs.f32").write_bytes(normalized(pixels, signature).astype("<f4").tobytes())
    (folder / "logits.f32").write_bytes(logits.tobytes())
    write_record(folder / Manifest.FILE_NAME, manifest)
    return manifest


def comparison(labels: tuple[str, ...], flips: tuple[Flip, ...], n: int = 4) -> Comparison:
    return Comparison(
        n_inputs=n,
        rtol=1e-3,
        atol=1e-3,
        allclose=True,
        nonfinite=0,
        max_abs=1e-5,
        mean_abs=1e-6,
        rmse=1e-6,
        min_cosine=1.0,
        psnr_db=100.0,
        top1_agreement_fraction=1 - len(flips) / n,
        top1_agreement_low=0.4,
        top1_agreement_high=1.0,
        flips=flips,
        top1_fraction=0.75,
        reference_top1_fraction=0.75,
        per_class=dict.fromkeys(labels, 0.75),
        reference_per_class=dict.fromkeys(labels, 1.0),
        mcnemar_p=1.0,
    )


def verified_cell(variant_id: str, runner: str, **changes: object) -> Measurement:
    spec = RunSpec(
        variant_id=variant_id,
        runner=runner,
        engine=None,
        threads=1,
        batch_size=1,
        warmup=0,
        min_samples=1,
        min_s=0.0,
        max_s=1.0,
        timeout_s=1.0,
        seed=0,
    )
    fields: dict[str, object] = {
        "actual": {},
        "timing": None,
        "warnings": (),
        "outcome": Outcome.PASSED,
        "reason": None,
    }
    return Measurement(spec=spec, **{**fields, **changes})  # type: ignore[arg-type]


def verification(bundle: Path, host: Host, inputs: str, *cells: Measurement) -> MeasurementSet:
    return MeasurementSet(
        schema_version=1,
        kind="verify",
        created_utc="2026-01-01T00:00:00+00:00",
        bundle=str(bundle),
        bundle_sha256=bundle_sha256(bundle),
        host=host,
        inputs=inputs,
        seed=0,
        measurements=cells,
    )


def write_verification(bundle: Path, *, labels: tuple[str, ...], reason: str, inputs: str) -> None:
    flips = (Flip(index=2, reference_label=2, label=1, reference_margin=0.25),)
    agreed = {"comparison": comparison(labels, ()), "warnings": (reason,)}
    skipped = {"comparison": None, "outcome": Outcome.SKIPPED, "reason": reason, "warnings": (reason,)}
    cells = (
        verified_cell("onnx-fp32", "onnxruntime", **agreed),
        verified_cell("ptl-int8-dynamic-qnnpack", "lite", **{**agreed, "comparison": comparison(labels, flips)}),
        verified_cell("coreml-fp32", "mil", **agreed),
        verified_cell("coreml-fp32", "coreml", **skipped),
    )
    write_record(bundle.parent / "bundle.verify.json", verification(bundle, read_host(), inputs, *cells))


def write_phone_verification(bundle: Path, path: Path, *, runner: str = "android-app") -> None:
    """A phone's own check on the golden pack: it hits one image in four, as the master does; `runner`: another's."""
    compared = dataclasses.replace(comparison((), ()), top1_fraction=0.25, reference_top1_fraction=0.25)
    names = ("onnx-fp32", "ptl-int8-dynamic-qnnpack", "coreml-fp32")
    cells = [verified_cell(name, runner, comparison=compared) for name in names]
    write_record(path, verification(bundle, phone_host(), "golden pack, 4 images", *cells))


def bench_set(bundle: Path, manifest: Manifest, *, host: Host | None = None, factor: float = 1.0) -> BenchSet:
    """A sweep at one and two threads: onnx in a quarter of eager's time, a tie with nothing.

    The host counts fewer ARM instructions for the `.ptl` and shows no temperature; a phone shows heat and battery.
    """
    source = make_source(manifest.name, *manifest.variants)
    named = dataclasses.replace(source.bundle, path=str(bundle), sha256=bundle_sha256(bundle), top1_fraction=1.0)
    plan = plan_of(dataclasses.replace(source, bundle=named))
    times = {
        cell.id: factor * {"onnx": 2.0, "ptl": 4.0}.get(cell.format, 8.0) / cell.threads**0.5 for cell in plan.runnable
    }
    made = set_of(plan, runs_of(plan, times))
    if host is None:
        made = with_states(made)
        counts = {"onnx-fp32": 80e6, "ptl-int8-dynamic-qnnpack": 50e6}
        files = (counted(manifest.name, *entry, macs=50_000_000) for entry in counts.items())
        return dataclasses.replace(made, instructions=tuple(files))
    made = with_phone_states(made)
    return dataclasses.replace(made, host=host, reference="", ceilings=())  # no eager model runs on a phone


def with_states(made: BenchSet) -> BenchSet:
    def states(run: BenchRun) -> dict[str, HostState]:
        slower = 10.0 * min(run.round, 20)
        return {
            "before": HostState(load_average=0.5, frequency_mhz=2400.0 - slower, temperature_c=None),
            "after": HostState(load_average=0.75, frequency_mhz=2300.0 - slower, temperature_c=None),
        }

    return dataclasses.replace(made, runs=tuple(dataclasses.replace(run, **states(run)) for run in made.runs))


def with_phone_states(made: BenchSet) -> BenchSet:
    hidden = HostState(load_average=None, frequency_mhz=None, temperature_c=None)
    heat = {"thermal_before": 0, "thermal_during": 2, "thermal_after": 1}
    battery = {"battery_percent_before": 80, "battery_percent_after": 79}
    runs = [dataclasses.replace(run, before=hidden, after=hidden, actual=heat | battery) for run in made.runs]
    return dataclasses.replace(made, runs=tuple(runs))


def phone_host() -> Host:
    return dataclasses.replace(read_host(), system="Android 14", machine="aarch64", cpu="Phone SoC", physical_cores=8)


def write_records(folder: Path, *, hostile: bool = False, inputs: str = "golden pack, 4 images") -> Path:
    """Write every kind of record below ``folder``; ``hostile`` puts hostile text wherever a record holds text."""
    names = HOSTILE if hostile else ("small", "distil", "-", "-", "ExecuTorch is not installed", "graph", "prune")
    labels = HOSTILE if hostile else ("clock", "lamp", "bed", "chair", "couch", "table", "wardrobe")
    write_run(folder / "p1", name=names[0], stages=(names[1], names[5]), labels=labels)
    bundle = folder / "p1" / "bundle"
    manifest = write_bundle(bundle, name=names[3] if hostile else "small", labels=labels, reason=names[4])
    write_verification(bundle, labels=labels, reason=names[2] if hostile else "needs macOS", inputs=inputs)
    write_record(folder / "host.bench.json", bench_set(bundle, manifest))
    write_record(folder / "phone.bench.json", bench_set(bundle, manifest, host=phone_host(), factor=3.0))
    write_techniques(folder / "techniques", names=(names[6], names[0]), labels=labels)
    n = len(labels)
    write_record(
        folder / "p1" / "baseline.evaluation.json",
        Evaluation(
            top1_fraction=0.8,
            top5_fraction=1.0,
            per_class=dict.fromkeys(labels, 0.8),
            confusion=tuple(tuple(8 if i == j else int(j == 0) for j in range(n)) for i in range(n)),
            n_images=10 * n,
        ),
    )
    return folder
