"""What a format works with in its own process: the model, example inputs, calibration images, a folder to write to."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from exporters.bundle.manifest import Precision
from exporters.bundle.metadata import Metadata
from exporters.bundle.precision import deployed, eager_model
from exporters.formats.contract import PHONE_ENGINE, ExportOptions, NotPossibleError, Plan
from udacisense.base.records import Scalar, Signature
from udacisense.data.batches import normalise
from udacisense.measure.counts import macs_by_module
from udacisense.stages.int8.rounding import method_of
from udacisense.stages.recipe import recipe_sha256, rounding_network
from udacisense.stages.static import SATURATING, NotTraceableError, calibrate, choose_float_modules, stays_float

T = TypeVar("T")
CALIBRATION_BATCH = 16
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
    recipes: Mapping[str, dict[str, Tensor]] = field(default_factory=dict)  # of static int8, by their engine
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

    def calibration_feeds(self, batch: int | None) -> Iterator[Tensor]:
        """Yield calibration images as the variants take them, ``batch`` at a time and no fewer; None: any number.

        Raises:
            NotPossibleError: there are none.
        """
        images = self.calibration_batches(as_fed=True)
        if batch is None:
            yield from images
        else:
            yield from (part for part in torch.split(torch.cat([*images]), batch) if len(part) == batch)

    def activations(self, engine: str) -> dict[str, Tensor]:
        """Return the recipe of static int8 for an engine: the one that was given, else calibrated here.

        Raises:
            NotPossibleError: there are no images.
            NotTraceableError: FX cannot trace the model.
        """
        if (given := self.given(engine)) is not None:
            return given

        def make() -> dict[str, Tensor]:
            method, batches = self.options.int8_method, list(self.calibration_batches(as_fed=False))
            few, most = torch.cat(batches)[:_CHOICE_IMAGES], self.options.float_blocks
            kept, _ = choose_float_modules(self.model, engine, few, most=most, method=method)
            return calibrate(self.model, engine, batches, float_modules=kept, method=method)

        return self.once(f"activations {engine}", make)

    def recipe(self, precision: Precision) -> dict[str, Tensor] | None:
        """Return the recipe of a file of static int8 whose format has tools with a calibration of their own.

        None where that has to do: FX cannot trace the model, or does not see all of its layers. None for any other
        precision.

        Raises:
            NotPossibleError: there are no images.
        """

        def make() -> dict[str, Tensor] | None:
            try:
                found = self.activations(PHONE_ENGINE)
            except NotTraceableError:
                return None
            return found if not self._is_fresh(found) or self._has_all_layers(found) else None

        return self.once("recipe", make) if precision == "int8-static" else None

    def _is_fresh(self, recipe: Mapping[str, Tensor]) -> bool:
        return self.calibration is not None and method_of(recipe) != "qat"

    def _has_all_layers(self, recipe: Mapping[str, Tensor]) -> bool:
        """Tell whether every layer with weights is int8, or in a block that is to stay float32."""
        example, seen, blocks = self.golden_inputs[:1], self.rounding()[1], stays_float(recipe)
        return all(
            name in seen or name.startswith(tuple(f"{block}." for block in blocks)) or name in blocks
            for name in macs_by_module(self.model, tuple(example.shape))
            if any(weight.ndim > 1 for weight in self.model.get_submodule(name).parameters(recurse=False))
        )

    def rounding(self) -> tuple[nn.Module, frozenset[str]]:
        """Return the float32 network that rounds as the phones' recipe says, and the names of its int8 layers."""

        def make() -> tuple[nn.Module, frozenset[str]]:
            example, activations = self.golden_inputs[:1], self.activations(PHONE_ENGINE)
            return rounding_network(self.model, PHONE_ENGINE, example=example, activations=activations)

        return self.once("rounding", make)

    def given(self, engine: str) -> dict[str, Tensor] | None:
        """Return the given recipe that an engine can run, if there is one: its own, or one that saves bits."""
        saving = (self.recipes[other] for other in SATURATING if other in self.recipes)
        return self.recipes.get(engine, next(saving, None))

    def recipe_options(self, plan: Plan, recipe: Mapping[str, Tensor] | None) -> dict[str, Scalar]:
        """Return what the ``options`` of a file say of static int8; ``recipe`` is the one that it holds, if any."""
        is_calibrated = plan.recipe_engine is not None and (recipe is None or self._is_fresh(recipe))
        return {
            "recipe": None if recipe is None else recipe_sha256(recipe),
            "method": None if recipe is None else method_of(recipe),
            "float_blocks": ", ".join(stays_float(recipe or {})) or None,
            "calibration_images": len(self.calibration) if self.calibration is not None and is_calibrated else None,
        }

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
