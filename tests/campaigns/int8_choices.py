"""What each choice of static int8 keeps of a model's decisions, measured on PyTorch's own int8 kernels.

Run it from the repository's root; what is in ``tests/campaigns/int8_choices.json`` already is not measured again::

    python tests/campaigns/int8_choices.py --data household --models tiny --choices histogram,fitted
    python tests/campaigns/int8_choices.py --table
    python tests/campaigns/int8_choices.py --pairs

It calibrates on training images; the 500 that training holds back are for choosing, the test images for the report.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic import ConvReLU2d, LinearReLU
from torch.ao.quantization import FixedQParamsObserver, HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from torch.ao.quantization.observer import UniformQuantizationObserverBase
from torch.ao.quantization.quantize_fx import fuse_fx

from udacisense.base.records import read_json, record, write_record
from udacisense.data.batches import normalise
from udacisense.data.images import Images, load_dataset, stratified_draw
from udacisense.models.artifact import load_artifact
from udacisense.stages import static
from udacisense.stages.contract import plain_copy, replace_modules
from udacisense.stages.int8 import rounding
from udacisense.stages.int8.ranges import fitted_ranges
from udacisense.stages.quantize import quantized_engine
from udacisense.training.run import training_split

HERE = Path(__file__).resolve().parent
LAYERS = (nn.Conv2d, nn.Linear, ConvReLU2d, LinearReLU)
Recipe = dict[str, Tensor]


@record
class Row:
    """One choice on one model and engine."""

    model: str
    weights_sha256: str
    engine: str
    choice: str
    held_back: tuple[
        float, float, float
    ]  # fraction of float32's decisions kept, top-1 fraction, SQNR of the logits in dB
    test: tuple[float, float, float]
    cpu_s: float  # of calibration


@record
class Choices:
    """``int8_choices.json``."""

    rows: tuple[Row, ...]

    FILE_NAME: ClassVar[str] = "int8_choices.json"


class Sampled(UniformQuantizationObserverBase):
    """Keeps a sample of what it sees."""

    def __init__(self, **given: Any) -> None:
        super().__init__(dtype=torch.quint8, qscheme=torch.per_tensor_affine, **given)
        self.seen: list[Tensor] = []

    def forward(self, values: Tensor) -> Tensor:
        flat = values.detach().flatten()
        self.seen.append(flat[:: max(1, len(flat) // 65536)])
        return values

    def ends(self, values: Tensor) -> tuple[Tensor, Tensor]:
        share = 1e-4  # the 99.99th percentile
        ordered = values.sort().values
        return ordered[int(share * (len(values) - 1))], ordered[int((1 - share) * (len(values) - 1))]

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        low, high = self.ends(torch.cat(self.seen))
        return self._calculate_qparams(low.clamp(max=0), high.clamp(min=0))  # type: ignore[no-any-return]


class LeastSquares(Sampled):
    """The ends of least squared error, found one after the other."""

    def ends(self, values: Tensor) -> tuple[Tensor, Tensor]:
        values = values[:: max(1, len(values) // 100_000)]
        low, high = values.min().clamp(max=0), values.max().clamp(min=0)

        def error(first: Tensor, last: Tensor) -> float:
            scale, zero = self._calculate_qparams(first, last)
            rounded = torch.fake_quantize_per_tensor_affine(
                values, float(scale), int(zero), self.quant_min, self.quant_max
            )
            return float((rounded - values).square().mean())

        shares = torch.linspace(1.0, 0.3, 36)
        high = min((high * share for share in shares), key=lambda end: error(low, end))
        return min((low * share for share in shares), key=lambda end: error(end, high)), high


OBSERVERS: dict[str, Callable[..., nn.Module]] = {
    "minmax": MinMaxObserver,
    "moving-0.01": lambda **given: MovingAverageMinMaxObserver(averaging_constant=0.01, **given),
    "moving-0.05": lambda **given: MovingAverageMinMaxObserver(averaging_constant=0.05, **given),
    "percentile-99.99": Sampled,
    "mse": LeastSquares,
    "histogram": HistogramObserver,
}


def observed(model: nn.Module, engine: str, images: Tensor, choice: str, *, bits_7: str) -> Recipe:
    """Calibrate with other observers; ``bits_7`` says what has 7 bits where an engine needs it."""
    found: Recipe = {}
    if engine == "fbgemm" and bits_7 == "weights":
        found["weight_bits"] = torch.tensor([7])
    with static.quiet(), torch.no_grad(), quantized_engine(engine):
        prepared = static._prepare(model, engine, images[:1], found)
        free = {
            name: OBSERVERS[choice](quant_min=observer.quant_min, quant_max=observer.quant_max)
            for name, observer in static._observers(prepared).items()
            if not isinstance(observer, FixedQParamsObserver)
        }
        replace_modules(prepared, {prepared.get_submodule(name): observer for name, observer in free.items()})
        for batch in images.split(16):
            prepared(batch)
        for name, observer in static._observers(prepared).items():
            scale, zero = observer.calculate_qparams()  # type: ignore[no-untyped-call]
            found[name] = torch.cat([scale.double().flatten()[:1], zero.double().flatten()[:1]])
    return found


def bias_alone(model: nn.Module, engine: str, images: Tensor, found: Recipe) -> Recipe:
    """Round to the nearest, and correct biases."""
    with static.quiet(), torch.no_grad(), quantized_engine(engine):
        prepared = static.prepare_with(model, engine, example=images[:1], activations=found)
        before, rounding._column_by_column = (
            rounding._column_by_column,
            lambda weight, *_: torch.full_like(weight, float("nan")),  # worse than the nearest in each channel
        )
        try:
            return found | rounding.fitted_rounding(prepared, images)
        finally:
            rounding._column_by_column = before


def adaround(
    weight: Tensor, wanted: Tensor, among: Tensor, by_channel: Tensor, ends: tuple[int, int], *, steps: int = 1000
) -> Tensor:
    """Up or down, by gradient (Nagel et al. 2020, equations 21 to 25), on the second moments of all inputs."""
    base = (weight / by_channel).floor()
    share = (weight / by_channel - base).clamp(0.01, 0.99)
    with torch.enable_grad():
        v = torch.log((share + 0.1) / (1.1 - share)).requires_grad_()
        optimiser = torch.optim.Adam([v], lr=1e-2)
        nearest = (weight / by_channel).round() * by_channel - weight
        unit = float(((nearest @ among) * nearest).sum()) + 1e-12
        for step in range(steps):
            up = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
            rounded = (base + up).clamp(*ends) * by_channel
            loss = ((rounded @ among - 2 * wanted) * rounded).sum() / unit
            if step > 0.2 * steps:
                beta = 20 - 18 * (step / steps - 0.2) / 0.8
                loss = loss + 0.1 * (1 - (2 * up - 1).abs() ** beta).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (base + (v.detach() >= 0)).clamp(*ends)


def by_adaround(model: nn.Module, engine: str, images: Tensor, found: Recipe) -> Recipe:
    """Round by AdaRound instead of column by column."""
    with static.quiet(), torch.no_grad(), quantized_engine(engine):
        prepared = static.prepare_with(model, engine, example=images[:1], activations=found)
        before, rounding._column_by_column = rounding._column_by_column, adaround
        try:
            return found | rounding.fitted_rounding(prepared, images)
        finally:
            rounding._column_by_column = before


def fitted(model: nn.Module, engine: str, images: Tensor, found: Recipe, *, what: str) -> Recipe:
    """Fit ranges, rounding or both to a calibration."""
    with static.quiet(), torch.no_grad(), quantized_engine(engine):
        for part in ("ranges", "rounding"):
            if part in what:
                prepared = static.prepare_with(model, engine, example=images[:1], activations=found)
                free = [name for name in found if name.startswith("activation") and float(found[name][0]) != 1 / 256]
                found |= (
                    fitted_ranges(prepared, images, free)
                    if part == "ranges"
                    else rounding.fitted_rounding(prepared, images)
                )
    return found


def pairs(fused: fx.GraphModule) -> list[tuple[nn.Module, nn.Module]]:
    """Return the layers that follow each other with a ReLU or nothing between, BatchNorm and ReLU fused into them."""
    layers = {
        node: rounding._layer(fused.get_submodule(str(node.target)))
        for node in fused.graph.nodes
        if node.op == "call_module" and isinstance(fused.get_submodule(str(node.target)), LAYERS)
    }
    following = {node: next(iter(node.users)) for node in layers if len(node.users) == 1}
    return [(layers[node], layers[after]) for node, after in following.items() if after in layers]


@torch.no_grad()
def equalised(model: nn.Module) -> tuple[fx.GraphModule, int]:
    """Return the same network, each pair's channels on one range (Nagel et al. 2019, section 4.1), and how many pairs.

    A channel's weights are made smaller in the first layer of a pair and as much larger in the second, again and again.
    """
    with static.quiet():
        fused = fuse_fx(plain_copy(model).eval())
    found = pairs(fused)
    for first, second in found * 20:
        is_depthwise = isinstance(second, nn.Conv2d) and second.groups == second.in_channels
        if isinstance(second, nn.Conv2d) and second.groups > 1 and not is_depthwise:
            continue
        inputs = second.weight if is_depthwise else second.weight.transpose(0, 1)
        ranges = [weight.flatten(1).abs().amax(1).clamp(min=1e-8) for weight in (first.weight, inputs)]
        scale = (ranges[0] / ranges[1]).sqrt()
        first.weight.div_(scale.view(-1, *(1,) * (first.weight.dim() - 1)))
        if first.bias is not None:
            first.bias.div_(scale)
        inputs.mul_(scale.view(-1, *(1,) * (inputs.dim() - 1)))
    return fused, len(found)


def recipe(choice: str, model: nn.Module, engine: str, images: Tensor) -> Recipe:
    """Make the recipe of a choice."""
    few = images[:128]
    if choice == "activations of 7 bits":
        return observed(model, engine, few, "histogram", bits_7="activations")
    if choice in OBSERVERS:
        return observed(model, engine, few, choice, bits_7="weights")
    if choice in ("fitted", "fitted, 512 images"):
        return static.calibrate(model, engine, (few if choice == "fitted" else images).split(16))
    plain = static.calibrate(model, engine, few.split(16), method="histogram")
    if choice == "histogram, equalised":
        return plain
    change = {"histogram, bias corrected": bias_alone, "histogram, AdaRound": by_adaround}.get(choice)
    return change(model, engine, few, plain) if change else fitted(model, engine, few, plain, what=choice)


CHOICES = (
    "activations of 7 bits",
    *OBSERVERS,
    "histogram, equalised",
    "histogram, bias corrected",
    "histogram, AdaRound",
    "histogram, fitted rounding",
    "histogram, fitted ranges",
    "fitted",
    "fitted, 512 images",
)


def kept(expected: Tensor, answered: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Return the fraction of decisions kept, top-1, and the signal to quantisation noise in dB."""
    noise = (expected - answered).double().square().sum()
    sqnr_db = float(10 * torch.log10(expected.double().square().sum() / noise))
    decisions = answered.argmax(1)
    same = float((decisions == expected.argmax(1)).float().mean())
    return round(same, 4), round(float((decisions == labels).float().mean()), 4), round(sqnr_db, 2)


def measured(name: str, engine: str, choice: str, data: str) -> Row:
    """Measure one choice."""
    artifact, model = load_artifact(Path(name))
    signature = artifact.signature
    dataset = load_dataset(data, size_px=signature.size_px)
    train, held = training_split(dataset)

    def inputs(images: Images) -> Tensor:
        return normalise(images.pixels, mean=signature.mean, std=signature.std)

    def answers(network: nn.Module, images: Images) -> Tensor:
        with torch.no_grad(), quantized_engine(engine):
            return torch.cat([network(batch) for batch in inputs(images).split(50)])

    images = inputs(stratified_draw(train, 512, seed=21))
    source = equalised(model)[0] if "equalised" in choice else model
    start = time.process_time()
    found = recipe(choice, source, engine, images)
    cpu_s = time.process_time() - start
    int8 = static.static_int8(source, engine, example=images[:1], activations=found)
    figures = [kept(answers(model, part), answers(int8, part), part.labels) for part in (held, dataset.test)]
    return Row(
        model=name,
        weights_sha256=artifact.sha256,
        engine=engine,
        choice=choice,
        held_back=figures[0],
        test=figures[1],
        cpu_s=round(cpu_s, 1),
    )


def table(rows: tuple[Row, ...]) -> str:
    """Return the record as Markdown: of the test images decisions kept, top-1 and SQNR, for each model and engine."""
    columns = sorted({(row.model, row.engine) for row in rows})
    found = {(row.choice, row.model, row.engine): row for row in rows}
    lines = ["| choice | " + " | ".join(f"{model}, {engine}" for model, engine in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for choice in (choice for choice in CHOICES if any(row.choice == choice for row in rows)):
        cells = [found.get((choice, *column)) for column in columns]
        shown = [
            f"{row.test[0]:.1%}, {row.test[1]:.1%}, {row.test[2]:.1f} dB".replace("%", " %") if row else "-"
            for row in cells
        ]
        lines.append(f"| {choice} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure choices of static int8.")
    parser.add_argument("--data", default="household")
    parser.add_argument("--models", default="tiny,p1,baseline")
    parser.add_argument("--engines", default="qnnpack,fbgemm")
    parser.add_argument("--choices", default=None, help="separated by semicolons")
    parser.add_argument("--table", action="store_true", help="print the record as a table, and measure nothing")
    parser.add_argument("--pairs", action="store_true", help="print how many pairs equalisation finds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.pairs:
        for name in given.models.split(","):
            sys.stdout.write(f"{name}: {equalised(load_artifact(Path(name))[1])[1]} pairs\n")
        return
    path = HERE / Choices.FILE_NAME
    rows = read_json(Choices, path).rows if path.exists() else ()
    wanted = [
        (name, engine, choice)
        for name in given.models.split(",")
        for engine in given.engines.split(",")
        for choice in (given.choices.split(";") if given.choices else CHOICES)
        if engine == "fbgemm" or choice != "activations of 7 bits"
    ]
    for job in [] if given.table else wanted:
        sha256 = load_artifact(Path(job[0]))[0].sha256
        if not any((row.model, row.engine, row.choice, row.weights_sha256) == (*job, sha256) for row in rows):
            row = measured(*job, data=given.data)
            rows = read_json(Choices, path).rows if path.exists() else ()  # another process may have added some
            rows = (*(old for old in rows if (old.model, old.engine, old.choice) != job), row)
            write_record(path, Choices(rows=rows))
            sys.stderr.write(f"{row}\n")
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
