"""The process that looks into files. Started by ``inside.run``.

A check that ends with an error is a check that was not made: nothing is known, and nothing passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from exporters.bundle.manifest import Variant
from exporters.bundle.open import Bundle, open_bundle
from exporters.bundle.reference import activations_path, kept_recipe, load_reference
from exporters.formats.contract import PHONE_ENGINE
from harness.runners.table import CannotJudgeError
from harness.verify.inside.first_input import compare_input, reference_input
from harness.verify.inside.half_range import beyond_half
from harness.verify.inside.job import Inside, InsideJob, InsideResult
from harness.verify.inside.own_weights import PRECISIONS, compare_own, fused_reference
from harness.verify.inside.weights import Weights, compare_weights, file_weights, reference_weights
from harness.verify.inside.zero_points import zero_point_problems
from harness.verify.locate.trace import FloatArray
from udacisense.base.child import RESULT
from udacisense.base.records import Scalar, read_json, write_record
from udacisense.errors import cause
from udacisense.stages.contract import make_plain
from udacisense.stages.recipe import rounding_network


class Source:
    """What files are held against; made where a check asks for it first, so that an error is that check's."""

    def __init__(self, bundle: Bundle, variant: Variant, allow_factory: str | None) -> None:
        self.bundle = bundle
        self._of = bundle, variant, allow_factory
        self._rounded: dict[Scalar, Weights] = {}  # by recipe

    @cached_property
    def model(self) -> nn.Module:
        """The float32 master, BatchNorm folded."""
        return fused_reference(*self._of)

    @cached_property
    def weights(self) -> Weights:
        """Its weights."""
        return reference_weights(self.model, torch.from_numpy(self.bundle.golden_inputs()[:1]))

    def expected(self, variant: Variant) -> Weights:
        """Its weights as a file is to have them: rounded by the recipe that the file holds, if any."""
        if (named := variant.options.get("recipe")) is None:
            return self.weights
        if (recipe := kept_recipe(self.bundle, variant)) is None:
            kept = activations_path(variant.id, variant.engine, variant.options)
            raise CannotJudgeError(f"the bundle holds no {kept}; export it again")
        if named not in self._rounded:
            self._rounded[named] = self._rounded_by(recipe)
        return self._rounded[named]

    def _rounded_by(self, recipe: Mapping[str, torch.Tensor]) -> Weights:
        master, _ = load_reference(self.bundle, allow_factory=self._of[2])
        example = torch.from_numpy(self.bundle.golden_inputs()[:1])
        model = make_plain(master).requires_grad_(False)
        network, int8 = rounding_network(model, PHONE_ENGINE, example=example, activations=recipe)
        found = reference_weights(network, example)
        # Fused with what follows it, a layer is the first child of what stands in its place.
        return [(parent if (parent := name.rpartition(".")[0]) in int8 else name, rows) for name, rows in found]

    @cached_property
    def first_input(self) -> FloatArray | None:
        """What reaches its first layer."""
        return reference_input(*self._of)

    @cached_property
    def beyond_half(self) -> str | None:
        """Where it leaves what float16 holds."""
        return beyond_half(self.model, self.bundle)


Check = Callable[[], Iterable[str]]


def checks(source: Source, variant: Variant) -> Iterator[tuple[str, Check]]:
    """Yield every check that a file is put to: what it looks at, and a call that returns what is wrong."""
    bundle, path = source.bundle, source.bundle.path(str(variant.path))
    yield "what reaches its first layer", lambda: compare_input(bundle, variant, source.first_input)
    if variant.format == "coreml" and variant.precision in PRECISIONS:
        yield "its source with its own weights", lambda: compare_own(bundle, variant, source.model)
    if variant.format == "onnx":
        yield "its zero points", lambda: zero_point_problems(path)
    if variant.format == "onnx" and variant.precision == "fp16":
        yield "the range of float16", lambda: filter(None, [source.beyond_half])
    rounded = variant.options.get("recipe") is not None
    yield (
        "its weights",
        lambda: compare_weights(source.expected(variant), file_weights(variant.format, path), rounded=rounded),
    )


def look(source: Source, variant: Variant) -> Inside:
    """Make every check."""
    problems: list[str] = []
    not_made: list[str] = []
    notes: list[str] = []
    for what, check in checks(source, variant):
        try:
            problems += check()
        except CannotJudgeError as exc:
            notes.append(f"no comparison of {what}: {exc}")
        # A parser raises whatever it likes on a damaged file, and a network of any kind may be traced here.
        except Exception as exc:
            not_made.append(f"{what} could not be checked: {cause(exc)}")
    return Inside(problems=tuple(problems), not_made=tuple(not_made), notes=tuple(notes))


def main(folder: Path) -> None:
    """Do the job in ``folder`` and leave ``result.json``."""
    job = read_json(InsideJob, folder / InsideJob.FILE_NAME)
    bundle = open_bundle(Path(job.bundle))
    variants = [bundle.variant(name) for name in job.variant_ids]
    source = Source(bundle, variants[0], job.allow_factory)
    write_record(folder / RESULT, InsideResult(found={v.id: look(source, v) for v in variants}))
