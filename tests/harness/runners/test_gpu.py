"""A GPU of the host: timed beside the CPU where there is one, never in the way of what is meant for phones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bench_records import make_source, make_variant, plan_of, run_of, runs_of, set_of

from exporters.bundle.open import open_bundle
from harness.bench.advice import cautions, recommend
from harness.bench.cells import SweepOptions
from harness.bench.ranking import rank
from harness.bench.rounds import Plan, choose
from harness.bench.run import plan_sweep
from harness.runners.table import RUNNERS, CannotJudgeError, verifiers_for
from harness.runners.torch import load

GPUS = [name for name, row in RUNNERS.items() if row.is_gpu]
SOURCE = make_source(
    "baseline",
    make_variant("torchscript-fp32"),
    make_variant("torchscript-int8-dynamic-fbgemm"),
    make_variant("ptl-fp32"),
    make_variant("onnx-fp32"),
)
ON_GPU = "baseline/torchscript-fp32[torchscript-cuda] t1"
TIMES = {
    "baseline/eager t1": 10.0,
    "baseline/onnx-fp32 t1": 4.0,
    "baseline/ptl-fp32 t1": 5.0,
    ON_GPU: 0.5,
}


def plan_with_cuda(**changes: object) -> Plan:
    return plan_of(SOURCE, unavailable={"torchscript-mps": "no Mac"}, **changes)


def test_a_gpu_takes_float32_torchscript_on_one_thread_count() -> None:
    cells = [cell for cell in plan_with_cuda().cells if cell.runner in GPUS]
    assert {cell.id for cell in cells} == {ON_GPU, "-/floor-torchscript-cuda t1"}
    assert all(cell.skip_reason is None for cell in cells)


def test_where_there_is_none_a_note_says_so_and_no_row() -> None:
    assert not [cell for cell in plan_of(SOURCE).cells if cell.runner in GPUS]


def test_a_fast_gpu_keeps_no_phones_file_out_of_contention() -> None:
    plan = plan_with_cuda(threads=[1])
    choice = choose(plan, [run_of(c, 0, TIMES[c.id], phase="tune") for c in plan.runnable if c.id in TIMES])
    assert {"baseline/onnx-fp32 t1", "baseline/ptl-fp32 t1"} <= set(choice.standing)
    assert ON_GPU in choice.leaders, "its figure comes from the final rounds, as every leader's does"


def test_a_gpu_is_shown_and_neither_recommended_nor_on_the_front_nor_held_to_the_cpus_limit() -> None:
    plan = plan_with_cuda(threads=[1])
    made = set_of(plan, runs_of(plan, TIMES))
    ranked = rank(made)
    first, second = ranked[0], ranked[1]
    assert first.cell.id == ON_GPU
    assert (first.is_pareto, first.is_tie_with_best, first.limit_fraction) == (False, False, None)
    assert second.is_pareto
    assert second.is_tie_with_best, "the best of the CPU is the best"
    assert second.limit_fraction is not None
    text = recommend(made, ranked)
    assert "`onnx-fp32` on onnxruntime" in text
    assert "faster, but not recommended: `torchscript-fp32` (timed on a desktop's GPU)" in text
    assert any("torchscript-cuda" in note and "never recommended" in note for note in cautions(made, ranked))


def test_verification_leaves_gpus_out_unless_they_are_asked_for() -> None:
    assert not [row for row in verifiers_for("torchscript", None) if row.is_gpu]
    assert [row.name for row in verifiers_for("torchscript", ["torchscript-cuda"])] == ["torchscript-cuda"]


def test_a_file_answers_the_same_wherever_it_is_put(small_bundle: Path) -> None:
    """On every GPU that this host has; on the CPU by the same way, so that the way itself is walked everywhere."""
    bundle = open_bundle(small_bundle)
    variant = bundle.variant("torchscript-fp32")
    for device in ("cpu", *(name.removeprefix("torchscript-") for name in GPUS if RUNNERS[name].unavailable() is None)):
        session = load(f"torchscript-{device}", bundle.path(str(variant.path)), variant, engine=None, threads=1)
        outputs = session.run(bundle.golden_inputs()[:4])
        np.testing.assert_allclose(outputs, bundle.golden_logits(variant)[:4], rtol=1e-3, atol=1e-3)
        assert session.actual["device"] == device


def test_no_trace_names_a_device_of_its_own(small_bundle: Path) -> None:
    """A constant device in the graph would keep a file from moving to another one as a whole."""
    bundle = open_bundle(small_bundle)
    graph = torch.jit.load(str(bundle.path("model-torchscript-fp32.pt"))).inlined_graph  # type: ignore[no-untyped-call]
    kinds = {str(output.type()) for node in graph.findAllNodes("prim::Constant") for output in node.outputs()}
    assert "Tensor" in kinds, "the weights"
    assert "Device" not in kinds


def test_int8_has_no_kernels_on_a_gpu(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    variant = bundle.variant("torchscript-int8-static-qnnpack")
    with pytest.raises(CannotJudgeError, match="no int8-static kernels for cuda"):
        load("torchscript-cuda", bundle.path(str(variant.path)), variant, engine=None, threads=1)


@pytest.mark.parametrize("name", GPUS)
def test_a_sweep_says_of_every_gpu_whether_it_was_measured(small_bundle: Path, name: str) -> None:
    (note,) = [
        note for note in plan_sweep([small_bundle], SweepOptions(budget="quick")).notes if note.startswith(f"{name}: ")
    ]
    reason = RUNNERS[name].unavailable()
    assert note == f"{name}: skipped: {reason}" if reason else "takes float32 TorchScript" in note
