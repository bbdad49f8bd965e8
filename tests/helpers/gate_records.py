"""What the gate is asked: the records of a verification and of a sweep over one bundle, and its answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from bench_records import LABELS, make_source, make_variant, plan_of, runs_of, set_of
from report_records import verified_cell

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import bundle_sha256
from harness.bench.cells import Source
from harness.gate.config import GateConfig
from harness.gate.run import GateReport, gate_bundle
from harness.host import read_host
from harness.records import BenchSet, Check, Comparison, Measurement, MeasurementSet
from harness.verify.beyond.certainty import believe, certainty
from harness.verify.compare import compare
from udacisense.base.records import UNFITTED, Outcome, write_record

N = 100
ROWS = {"torchscript-fp32": "torchscript", "ptl-int8": "lite", "coreml-fp32": "coreml"}


def gated_source(folder: Path) -> Source:
    """Files of a bundle whose manifest lies in ``folder``, and nothing else."""
    variants = (
        make_variant("torchscript-fp32", file_bytes=4_000_000),
        make_variant("ptl-int8", file_bytes=1_000_000),
        make_variant("coreml-fp32", file_bytes=4_000_000),
        make_variant("executorch-fp32", path=None, file_bytes=None, outcome=Outcome.SKIPPED, reason="not installed"),
    )
    made = make_source("small", *variants)
    write_record(folder / Manifest.FILE_NAME, made.manifest)
    sha256 = bundle_sha256(folder)
    return dataclasses.replace(made, bundle=dataclasses.replace(made.bundle, path=str(folder), sha256=sha256))


def comparison(right: int) -> Comparison:
    """A variant that is right on ``right`` of the images; the master is right on 80."""
    labels = np.zeros(N, dtype=np.int64)

    def answers(count: int) -> np.ndarray:
        logits = np.zeros((N, len(LABELS)), dtype=np.float32)
        logits[:count, 0] = 1
        logits[count:, 1] = 1
        return logits

    found = compare(
        answers(right), answers(right), answers(80), labels=labels, class_names=LABELS, rtol=1e-3, atol=1e-3
    )
    by = (believe(answers(count), "logits", UNFITTED) for count in (right, 80))
    sure = certainty(*by, labels, fitted=UNFITTED)
    return dataclasses.replace(found, certainty=sure)


def measurement(variant_id: str, *, right: int | None, outcome: Outcome, reason: str | None = None) -> Measurement:
    found = None if right is None else comparison(right)
    runner = ROWS.get(variant_id, "executorch")
    return verified_cell(variant_id, runner, comparison=found, outcome=outcome, reason=reason)


def verified(source: Source, *, int8_right: int = 78, int8: Outcome = Outcome.PASSED) -> MeasurementSet:
    return MeasurementSet(
        schema_version=1,
        kind="verify",
        created_utc="2026-01-01T00:00:00+00:00",
        bundle=source.bundle.path,
        bundle_sha256=source.bundle.sha256,
        host=read_host(),
        inputs=f"shapes test, {N} images",
        seed=0,
        measurements=(
            measurement("torchscript-fp32", right=80, outcome=Outcome.PASSED),
            measurement(
                "ptl-int8", right=int8_right, outcome=int8, reason="it broke" if int8 is Outcome.FAILED else None
            ),
            measurement("coreml-fp32", right=None, outcome=Outcome.SKIPPED, reason="needs macOS"),
            measurement("executorch-fp32", right=None, outcome=Outcome.SKIPPED, reason="not exported: not installed"),
        ),
    )


def benched(source: Source, *, int8_ms: float = 5.0) -> BenchSet:
    plan = plan_of(source, threads=(1,), engines=("qnnpack",))
    times = {c.id: int8_ms if c.variant_id == "ptl-int8" else 10.0 for c in plan.runnable}
    return set_of(plan, runs_of(plan, times))


def gated(source: Source, text: str = "", **options: object) -> GateReport:
    record = options.pop("verification", None) or verified(source)
    return gate_bundle(
        Path(source.bundle.path),
        verification=record,
        config=GateConfig(text),
        **options,  # type: ignore[arg-type]
    )


def check(report: GateReport, variant_id: str, requirement: str) -> Check:
    (found,) = [e.check for e in report.checks if e.variant_id == variant_id and e.check.requirement == requirement]
    return found


LOST = "top-1 lost to the float32 master"
CONSISTENT = "consistent with its source"
SLOWER = "slower than in the baseline run"
