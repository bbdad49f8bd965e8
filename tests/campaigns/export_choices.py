"""What each choice of the exporters gives or costs: one network written in many ways, timed by turns on this host.

Run it on a quiet host from the repository's root: .venv/bin/python tests/campaigns/export_choices.py baseline, with
the name of a model that ships or an artifact's folder. It prints a Markdown table; it is no part of the test run.

All ways are in one process on one thread and take turns, a few calls each, in shuffled rounds; ratios are made round by
round with the harness's own interval.
"""

from __future__ import annotations

import argparse
import copy
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporters.formats.pointwise import right_on_x86
from udacisense.measure.stats import ratio
from udacisense.models.artifact import load_artifact
from udacisense.models.resizing import ProductsForBilinear
from udacisense.stages.graph import trace_and_freeze

CALLS = 10
Way = Callable[[], object]


class DecomposedHardswish(nn.Module):
    """Hardswish as four operators instead of one."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps * F.relu6(maps + 3) / 6


def replaced(model: nn.Module, change: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Return a copy of a model with some of its modules replaced."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            new = change(child)
            if new is not None:
                setattr(parent, name, new)
    return model


def out_of_place(module: nn.Module) -> None:
    if getattr(module, "inplace", False):
        module.inplace = False  # type: ignore[assignment]


def frozen(model: nn.Module, image: Tensor) -> nn.Module:
    return torch.jit.freeze(torch.jit.trace(model, image, check_trace=False))  # type: ignore[no-untyped-call]


def torch_ways(model: nn.Module, image: Tensor) -> dict[str, Way]:
    from torch.utils.mobile_optimizer import optimize_for_mobile

    traced = torch.jit.trace(model, image, check_trace=False)  # type: ignore[no-untyped-call]
    ours = trace_and_freeze(model, image)
    with ProductsForBilinear():
        by_products = frozen(model, image)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    nhwc = image.to(memory_format=torch.channels_last)
    decomposed = replaced(model, lambda m: DecomposedHardswish() if isinstance(m, nn.Hardswish) else None)
    models = {
        "eager": model,
        "traced, BatchNorm apart": traced,
        "traced and frozen: BatchNorm folded": frozen(model, image),
        "the same, the resize as products": by_products,
        "… and channels-last weights (`torchscript-fp32`)": ours,
        "… and small 1×1 convolutions as products (`ptl-fp32`)": trace_and_freeze(right_on_x86(model, image), image),
        "… through optimize_for_mobile (`ptl-fp32-xnnpack`)": optimize_for_mobile(ours),  # type: ignore[no-untyped-call]
        "… through optimize_for_inference (does not survive saving)": torch.jit.optimize_for_inference(copy.copy(ours)),
        "… activations out of place": trace_and_freeze(copy.deepcopy(model).apply(out_of_place), image),
        "… Hardswish as four operators": trace_and_freeze(decomposed, image),
    }
    ways: dict[str, Way] = {name: (lambda m=m: m(image)) for name, m in models.items()}  # type: ignore[misc]
    frozen_last = trace_and_freeze(last, nhwc)
    ways["… channels-last input too"] = lambda: frozen_last(nhwc)
    return ways


def onnx_ways(model: nn.Module, image: Tensor, folder: Path) -> dict[str, Way]:
    import onnxruntime

    plain, ours = folder / "plain.onnx", folder / "ours.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (image,), str(plain), dynamo=False)
        with ProductsForBilinear():
            torch.onnx.export(model, (image,), str(ours), dynamo=False)
    levels = onnxruntime.GraphOptimizationLevel
    wanted = {
        "onnxruntime: `torch.onnx.export`": (plain, levels.ORT_ENABLE_ALL),
        "onnxruntime: the resize as products (`onnx-fp32`)": (ours, levels.ORT_ENABLE_ALL),
        "… without the layout for this CPU's vectors": (ours, levels.ORT_ENABLE_EXTENDED),
        "… without any optimisation": (ours, levels.ORT_DISABLE_ALL),
    }
    return {name: _session(path, level, image) for name, (path, level) in wanted.items()}


def _session(path: Path, level: object, image: Tensor) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.graph_optimization_level = 1, level
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, feed)


def call_ms(way: Way) -> float:
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one network written in many ways.")
    parser.add_argument("model", type=Path, help="an artifact's folder, or the name of a model that ships")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_artifact(given.model)[1].eval()
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        ways = torch_ways(model, image) | onnx_ways(model, image, Path(name))
        found: dict[str, dict[int, float]] = {way: {} for way in ways}
        for number in range(-1, given.rounds):  # one to warm up
            order = list(ways)
            random.Random(number).shuffle(order)  # noqa: S311 - an order, not a secret
            for way in order:
                found[way][number] = call_ms(ways[way])
    sys.stdout.write("| way | median | against eager |\n|---|---|---|\n")
    for way, rounds in found.items():
        del rounds[-1]
        speed = ratio(found["eager"], rounds, seed=0)
        assert speed is not None
        words = "1" if way == "eager" else f"{speed.value:.2f}× ({speed.low:.2f}-{speed.high:.2f})"
        sys.stdout.write(f"| {way} | {np.median(list(rounds.values())):.2f} ms | {words} |\n")


if __name__ == "__main__":
    main()
