"""Records of invented sweeps, for tests of what is derived from them; nothing here stands for a measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from exporters.bundle.manifest import Golden, GoldenImage, Manifest, Variant
from harness.bench.cells import Here, Source, SweepOptions, make_plan
from harness.bench.rounds import Plan
from harness.host import read_host, read_state
from harness.records import (
    BenchCell,
    BenchedBundle,
    BenchRun,
    BenchSet,
    Budget,
    Ceiling,
    Measurement,
    Phase,
    RunSpec,
    Timing,
    VariantInstructions,
)
from harness.runners.table import RUNNERS
from udacisense.base.records import Outcome, Resize, Signature

LABELS = tuple("abcdefghij")


def make_variant(variant_id: str, **changes: object) -> Variant:
    format_name, precision = variant_id.split("-", maxsplit=1)[0], variant_id.split("-", 1)[1]
    engine = next((e for e in ("qnnpack", "fbgemm") if variant_id.endswith(e)), None)
    fields: dict[str, object] = {
        "id": variant_id,
        "format": format_name,
        "precision": "fp32" if precision.startswith("fp32") else "int8-dynamic",
        "engine": engine,
        "path": f"model-{variant_id}",
        "sha256": "0" * 64,
        "file_bytes": 1_000_000,
        "input_kind": "normalized",
        "output_kind": "logits",
        "batch": None,
        "coverage": None,
        "precision_note": "",
        "golden_logits_path": None,
        "options": {},
        "toolchain": {},
        "deterministic": True,
        "outcome": Outcome.PASSED,
        "reason": None,
        "duration_s": 0.0,
    }
    return Variant(**{**fields, **changes})  # type: ignore[arg-type]


def make_source(name: str, *variants: Variant, top1: float | None = 0.8) -> Source:
    signature = Signature(
        input_name="input",
        output_name="logits",
        input_shape=(1, 3, 32, 32),
        output_shape=(1, 10),
        dtype="float32",
        layout="NCHW",
        resize=Resize(method="bilinear", antialias=True),
        size_px=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        labels=LABELS,
    )
    image = GoldenImage(width_px=32, height_px=32, offset_bytes=0, label=0, predicted=0)
    manifest = Manifest(
        schema_version=1,
        created_utc="2026-01-01T00:00:00+00:00",
        name=name,
        artifact_sha256="0" * 64,
        signature=signature,
        golden=Golden(images_path="i", inputs_path="j", logits_path="k", images=(image,)),
        variants=variants,
        files=(),
    )
    bundle = BenchedBundle(
        name=name,
        path=f"/nowhere/{name}",
        sha256="0" * 64,
        parameters=1000,
        flops=100_000_000,
        moved_bytes=1_000_000,
        top1_fraction=top1,
    )
    return Source(bundle=bundle, manifest=manifest)


def plan_of(*sources: Source, **changes: object) -> Plan:
    """Plan a sweep of a host of two cores; changes are of its options, and of what the host can do."""
    here: dict[str, object] = {
        "cores": 2,
        "engines": ("qnnpack", "onednn", "x86", "fbgemm"),
        "unavailable": {name: "needs macOS" if name == "coreml" else None for name in RUNNERS}
        | {"onnxruntime-xnnpack": "built without XNNPACK", "android-x86_64": "not set up"}
        | {"torchscript-cuda": "no CUDA device", "torchscript-mps": "no Mac"},
    }
    given = {"engines": "supported_engines", "unavailable": "unavailable"}
    here |= {name: changes.pop(change) for name, change in given.items() if change in changes}
    return make_plan(sources, SweepOptions(**changes), Here(**here))  # type: ignore[arg-type]


def run_of(
    cell: BenchCell, round_number: int, median_ms: float | None, *, phase: Phase = "report", **changes: object
) -> BenchRun:
    """One process: constant samples of ``median_ms``, or a failure for None."""
    timing = None
    if median_ms is not None:
        fields: dict[str, object] = {
            "samples_ms": (median_ms,) * 20,
            "calls_per_sample": 1,
            "load_ms": 5.0,
            "first_ms": 3 * median_ms,
            "tenth_ms": median_ms,
            "median_ms": median_ms,
            "p90_ms": median_ms,
            "p99_ms": median_ms,
            "iqr_fraction": 0.0,
            "drift_fraction": 0.0,
            "waited_fraction": None,
            "noisy": False,
        }
        timing = Timing(**{**fields, **changes})  # type: ignore[arg-type]
    state = read_state()
    return BenchRun(
        cell_id=cell.id,
        round=round_number,
        phase=phase,
        duration_s=1.0,
        before=state,
        after=state,
        actual={},
        timing=timing,
        wrong_answers=None,
        warnings=(),
        outcome=Outcome.FAILED if timing is None else Outcome.PASSED,
        reason="signal 11 (SIGSEGV)" if timing is None else None,
        peak_rss_bytes=None,
    )


def measurement_of(cell: BenchCell, run: BenchRun, budget: Budget) -> Measurement:
    """Return a process as the row that the app writes of one."""
    spec = RunSpec(
        variant_id=cell.variant_id,
        runner=cell.runner,
        engine=cell.engine,
        threads=cell.threads,
        batch_size=cell.batch_size,
        warmup=budget.warmup,
        min_samples=budget.min_samples,
        min_s=budget.min_s,
        max_s=budget.max_s,
        timeout_s=budget.timeout_s,
        seed=0,
    )
    return Measurement(
        spec=spec,
        actual=run.actual,
        comparison=None,
        timing=run.timing,
        warnings=run.warnings,
        outcome=run.outcome,
        reason=run.reason,
    )


def runs_of(plan: Plan, times_ms: Mapping[str, float], *, tune: int = 1, report: int = 6) -> list[BenchRun]:
    """Every cell in every round at its time, slowed by a host that is slower in some rounds than in others."""
    made = []
    for number in range(tune + report):
        slow = 1.0 + 0.1 * (number % 3) + 0.001 * number
        phase: Phase = "tune" if number < tune else "report"
        made += [run_of(c, number, times_ms[c.id] * slow, phase=phase) for c in plan.runnable if c.id in times_ms]
    return made


def set_of(plan: Plan, runs: Iterable[BenchRun]) -> BenchSet:
    return BenchSet(
        schema_version=2,
        kind="bench",
        created_utc="2026-01-01T00:00:00+00:00",
        host=read_host(),
        seed=plan.seed,
        budget=plan.budget,
        bundles=plan.bundles,
        reference=plan.reference,
        ceilings=tuple(
            Ceiling(threads=n, gemm_flops_per_s=1e11 * n, cache_bytes_per_s=1e10, memory_bytes_per_s=1e9)
            for n in (1, 2)
        ),
        cells=plan.cells,
        runs=tuple(runs),
        recommended=(),
        notes=(),
        complete=True,
    )


def counted(bundle: str, variant_id: str, instructions: float, *, macs: int = 1_000_000) -> VariantInstructions:
    """A count of a file, of so many multiply-adds."""
    return VariantInstructions(
        bundle=bundle,
        variant_id=variant_id,
        runtime="android-arm64",
        threads=1,
        batch_size=1,
        macs=macs,
        instructions_per_call=instructions,
        spread_fraction=0.01,
        runs=3,
        library="pytorch_android_lite 1.12.2",
        cpu="cortex-a76",
        outcome=Outcome.PASSED,
        reason=None,
    )
