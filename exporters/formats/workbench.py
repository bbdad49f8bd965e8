"""What a format works with in its own process: the model, example inputs, calibration images, a folder to write to."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from exporters.bundle.metadata import Metadata
from exporters.bundle.precision import deployed, eager_model
from exporters.formats.contract import ExportOptions, NotPossibleError, Plan
from udacisense.base.records import Int8Method, Scalar, Signature
from udacisense.data.batches import normalise
from udacisense.stages.int8.rounding import method_of
from udacisense.stages.recipe import recipe_sha256, rounding_network
from udacisense.stages.static import SATURATING, NotTraceableError, calibrate, choose_float_modules, stays_float

T = TypeVar("T")
CALIBRATION_BATCH = 16
XNNPACK_RANGE = "qnnpack"  # the engine whose int8 has the full range, as XNNPACK's
_CHOICE_IMAGES = 64  # to choose the blocks that stay float32


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """One model in one worker process."""

    name: str
    model: nn.Module  # float32, evaluation mode: normalised images to logits
    signature: Signature
    temperature: float  # that probabilities are made at
    artifact_sha256: str
    options: ExportOptions
    calibration: Tensor | None  # uint8 (n, 3, H, W)
    golden_inputs: Tensor  # float32 (n, 3, H, W), normalised
    folder: Path  # finished files
    scratch: Path  # intermediate files
    recipes: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)  # that the model came with, by their engine
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def input_kind(self) -> Literal["normalized", "pixels"]:
        """What the variants take."""
        return "pixels" if self.options.normalize else "normalized"

    @property
    def output_kind(self) -> Literal["logits", "probabilities"]:
        """What the variants answer."""
        return "probabilities" if self.options.softmax else "logits"

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Return what ``make`` returned the first time it was asked for ``key``: variants share it."""
        if key not in self.memo:
            self.memo[key] = make()
        return cast("T", self.memo[key])

    def example(self, *, batch: int) -> Tensor:
        """Return real inputs as the variants take them: float32 (batch, 3, H, W)."""
        chosen = self.golden_inputs[torch.arange(batch) % len(self.golden_inputs)]
        return to_kind(chosen, self.signature, self.input_kind)

    def calibration_batches(self, *, as_fed: bool) -> Iterator[Tensor]:
        """Yield calibration images: normalised, or as the variants take them where ``as_fed``.

        Raises:
            NotPossibleError: there are none.
        """
        if self.calibration is None:
            raise NotPossibleError("Static int8 needs real images for its calibration; give a data set with --data.")
        for start in range(0, len(self.calibration), CALIBRATION_BATCH):
            pixels = self.calibration[start : start + CALIBRATION_BATCH]
            if as_fed and self.input_kind == "pixels":
                yield pixels.float()
            else:
                yield normalise(pixels, mean=self.signature.mean, std=self.signature.std)

    def float_modules(self, engine: str, method: Int8Method) -> tuple[str, ...]:
        """Return the blocks that static int8 leaves in float32; QNNPACK has the full range and needs fewer of them."""
        if (given := self.given(engine)) is not None:
            return stays_float(given)

        def make() -> tuple[str, ...]:
            images = torch.cat(list(self.calibration_batches(as_fed=False)))[:_CHOICE_IMAGES]
            kept, _ = choose_float_modules(self.model, engine, images, most=self.options.float_blocks, method=method)
            return kept

        return self.once(f"float modules {engine} {method}", make)

    def traceable_float_modules(self, engine: str) -> tuple[str, ...]:
        """Return those of a tool with its own calibration; none for a model that FX cannot trace."""
        try:
            return self.float_modules(engine, "histogram")
        except NotTraceableError:
            return ()

    def activations(self, engine: str) -> dict[str, Tensor]:
        """Return the recipe of static int8 for an engine: the one that the model came with, else calibrated."""
        if (given := self.given(engine)) is not None:
            return given

        def make() -> dict[str, Tensor]:
            method = self.options.int8_method
            kept = self.float_modules(engine, method)
            batches = self.calibration_batches(as_fed=False)
            return calibrate(self.model, engine, batches, float_modules=kept, method=method)

        return self.once(f"activations {engine}", make)

    def rounding(self, engine: str) -> tuple[nn.Module, frozenset[str]]:
        """Return the float32 network that rounds as the recipe of an engine says, and the names of its int8 layers."""

        def make() -> tuple[nn.Module, frozenset[str]]:
            example = self.golden_inputs[:1]
            return rounding_network(self.model, engine, example=example, activations=self.activations(engine))

        return self.once(f"rounding {engine}", make)

    def given(self, engine: str) -> dict[str, Tensor] | None:
        """Return the recipe that the model came with, if an engine can run it: its own, or one that saves bits."""
        saving = (self.recipes[other] for other in SATURATING if other in self.recipes)
        return self.recipes.get(engine, next(saving, None))

    def recipe_engine(self) -> str | None:
        """Return the engine of the recipe that the model came with; None where each tool calibrates."""
        return XNNPACK_RANGE if self.given(XNNPACK_RANGE) is not None else None

    def calibration_count(self, engine: str | None) -> int | None:
        """Return how many images a file was calibrated on, of an engine's recipe or (None) by its format's tool."""
        is_given = engine is not None and self.given(engine) is not None
        return None if is_given or self.calibration is None else len(self.calibration)

    def recipe_options(self, engine: str | None) -> dict[str, Scalar]:
        """Return what the ``options`` of all files of an engine's recipe share; None: they are of none."""
        if engine is None:
            return {"recipe": None, "method": None}
        found = self.activations(engine)
        return {"recipe": recipe_sha256(found), "method": method_of(found)}

    def classifier(self, plan: Plan) -> nn.Module:
        """Return the eager network of a plan's precision: normalised images to logits."""

        def make() -> nn.Module:
            if plan.precision == "int8-dynamic" and not any(type(m) is nn.Linear for m in self.model.modules()):
                raise NotPossibleError("Dynamic int8 is for linear layers, and this model has none.")
            static = plan.precision == "int8-static" and plan.engine is not None
            return eager_model(
                self.model,
                plan.precision,
                plan.engine,
                example=self.golden_inputs[:1],
                activations=self.activations(str(plan.engine)) if static else None,
            )

        return self.once(f"classifier {plan.precision} {plan.engine}", make)

    def deployed(self, classifier: nn.Module) -> nn.Module:
        """Return a classifier as it ships, with normalisation and softmax where they were asked for."""
        temperature = self.temperature if self.options.softmax else None
        return deployed(classifier, self.signature, normalize=self.options.normalize, temperature=temperature)

    def metadata(self, plan: Plan, *, batch: int | None) -> Metadata:
        """Return what the exported file says about itself."""
        return Metadata(
            schema_version=1,
            variant_id=plan.id,
            name=self.name,
            precision=plan.precision,
            engine=plan.engine,
            input_kind=self.input_kind,
            output_kind=self.output_kind,
            batch=batch,
            artifact_sha256=self.artifact_sha256,
            signature=self.signature,
        )


def to_kind(inputs: Tensor, signature: Signature, kind: Literal["normalized", "pixels"]) -> Tensor:
    """Return normalised inputs as a variant takes them; ``pixels`` are the whole numbers they came from."""
    if kind == "normalized":
        return inputs
    mean = torch.tensor(signature.mean).view(1, 3, 1, 1)
    std = torch.tensor(signature.std).view(1, 3, 1, 1)
    return ((inputs * std + mean) * 255).round()


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    return {package: importlib.metadata.version(package) for package in packages}
