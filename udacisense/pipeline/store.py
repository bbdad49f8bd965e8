"""Finished pipeline steps on disk, and how a rerun recognises them.

::

    output_dir/steps/01-distill/     step.json (a KeptStep), model.safetensors, history.json
    output_dir/steps/02-int8/        step.json, and of static int8 static-int8-<engine>.safetensors: int8 packing is
                                     repeated from the float weights, in milliseconds; learned ones lie beside it
    output_dir/steps/03-graph/       step.json, model.pt (TorchScript)
    output_dir/work/<fingerprint>/   checkpoints of a step that has not finished

A step's folder appears whole or not at all. No pickle is written or read.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from udacisense.base.files import atomic_path, sha256_file
from udacisense.base.records import ModelSpec, StageRecord, read_json, record, write_record
from udacisense.base.tensors import save_tensors, torchscript_bytes
from udacisense.errors import InputError
from udacisense.models.artifact import RECIPES
from udacisense.models.build import build_model
from udacisense.models.weights import load_state, plain_state, read_state
from udacisense.stages.contract import Kind, StepResult, kind_of
from udacisense.stages.static import static_int8
from udacisense.training.checkpoint import state_sha256

log = logging.getLogger("udacisense")

STEP_FILE = "step.json"

# Modules whose functions have moved since a release: a run that it kept is found by the name that it was kept under.
_KEPT_UNDER = {"udacisense.measure.recording": "udacisense.recording"}


@record
class KeptStep:
    """``step.json``: a finished step."""

    schema_version: Literal[1]
    fingerprint: str
    kind: Kind
    spec: ModelSpec | None  # None: the architecture of the pipeline's own model
    weights: str | None  # file name; of int8 those that it is packed from; None: of the step before
    weights_sha256: str | None
    record: StageRecord
    data: str | None = None  # which the record is of, where the step's fingerprint does not depend on the test images
    recipe: str | None = None  # file name; of static int8
    recipe_sha256: str | None = None


def fingerprint_step(name: str, function: Callable[..., object], options: Mapping[str, object], *, inputs: str) -> str:
    """Return the hex SHA-256 of what a step's result depends on.

    Args:
        name: the step's.
        function: the step function; its module and name count, not its code.
        options: plain values, records, modules (by their weights), or callables with a text ``fingerprint``.
        inputs: fingerprint of the step's input model, data and surroundings.

    Raises:
        InputError: an option has no fingerprint.
    """
    plain = {key: _plain(value, where=f"{name}.{key}") for key, value in options.items()}
    module = _KEPT_UNDER.get(function.__module__, function.__module__)
    whole = [name, f"{module}.{getattr(function, '__qualname__', '')}", plain, inputs]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _plain(value: object, *, where: str) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} {state_sha256(value)}"
    if isinstance(value, list | tuple):
        return [_plain(v, where=where) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v, where=where) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        identity = getattr(value, "identity", None)  # of a record that says what of it counts
        plain = identity() if callable(identity) else {f.name: getattr(value, f.name) for f in fields(value)}
        return {type(value).__name__: _plain(plain, where=where)}
    own = getattr(value, "fingerprint", None)
    if isinstance(own, str):
        return own
    raise InputError(
        f"The option {where} is a {type(value).__name__}, by which a finished step cannot be recognised again; give "
        "plain values, records or modules, give it a text attribute 'fingerprint', or run without an output folder."
    )


class StepStore:
    """The steps kept under one output folder.

    Args:
        output_dir: the pipeline's.
        baseline: the pipeline's own model, whose architecture steps without a spec have.
    """

    def __init__(self, output_dir: Path, baseline: nn.Module) -> None:
        self.root = output_dir / "steps"
        self.work = output_dir / "work"
        self._baseline = baseline

    def folder(self, index: int, name: str) -> Path:
        """Return a step's folder; ``index`` counts from 1 (0 is the baseline)."""
        return self.root / f"{index:02d}-{name}"

    def find(self, index: int, name: str, *fingerprints: str) -> KeptStep | None:
        """Return a finished step, or None where there is none with one of these fingerprints and whole weights."""
        folder = self.folder(index, name)
        if not (folder / STEP_FILE).is_file():
            return None
        try:
            kept = read_json(KeptStep, folder / STEP_FILE)
        except InputError as exc:
            log.warning("step %s is done again: %s", name, exc)
            return None
        if kept.fingerprint not in fingerprints:
            return None
        files = {name: sha for name, sha in _files(kept).items() if name is not None}
        if kept.weights is None and kept.kind is not Kind.EAGER_INT8:
            return None
        is_whole = all((folder / name).is_file() and sha256_file(folder / name) == sha for name, sha in files.items())
        return kept if is_whole else None

    def keep(
        self,
        index: int,
        name: str,
        fingerprint: str,
        result: StepResult,
        figures: StageRecord,
        *,
        data: str | None = None,
    ) -> KeptStep:
        """Write a finished step, replacing one that is there; ``result.spec`` None means the baseline's architecture.

        A float32 model of an architecture that its spec does not build has its figures kept, and is made again by
        a rerun.
        """
        kind, source, recipe = kind_of(result.model), result.source, None
        master = result.model if source is None or source.learned is None else source.learned
        with atomic_path(self.folder(index, name)) as partial:
            partial.mkdir()
            is_loadable = kind_of(master) is not Kind.EAGER_FLOAT or has_architecture(
                master, self._template(result.spec)
            )
            weights = _write_weights(master, partial) if is_loadable else None
            if source is not None and is_loadable:
                recipe = partial / f"{RECIPES}{source.engine}.safetensors"
                save_tensors(recipe, source.recipe)
            for title, document in result.documents.items():
                write_record(partial / f"{title}.json", document)
            kept = KeptStep(
                schema_version=1,
                fingerprint=fingerprint,
                kind=kind,
                spec=result.spec,
                weights=weights.name if weights is not None else None,
                weights_sha256=sha256_file(weights) if weights is not None else None,
                record=figures,
                data=data,
                recipe=recipe.name if recipe is not None else None,
                recipe_sha256=sha256_file(recipe) if recipe is not None else None,
            )
            write_record(partial / STEP_FILE, kept)
        return kept

    def restate(self, index: int, name: str, kept: KeptStep) -> KeptStep:
        """Write a kept step's record anew."""
        write_record(self.folder(index, name) / STEP_FILE, kept)
        return kept

    def load(self, index: int, name: str, kept: KeptStep) -> nn.Module:
        """Return the model of a kept step that has weights, in eval mode on the CPU: of an int8 one in float32."""
        assert kept.weights is not None
        path = self.folder(index, name) / kept.weights
        if kept.kind is Kind.TORCHSCRIPT:
            module: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return module
        model = self._template(kept.spec)
        load_state(model, path)
        return model.eval()

    def recipe(self, index: int, name: str, kept: KeptStep) -> dict[str, Tensor]:
        """Return the recipe of a kept step that has one."""
        assert kept.recipe is not None
        return read_state(self.folder(index, name) / kept.recipe)

    def packed(self, index: int, name: str, kept: KeptStep, master: nn.Module, *, example: Tensor) -> nn.Module:
        """Return the static int8 model of a kept step that has a recipe, packed anew from its float32 one."""
        engine = Path(str(kept.recipe)).stem.removeprefix(RECIPES)
        return static_int8(master, engine, example=example, activations=self.recipe(index, name, kept))

    def _template(self, spec: ModelSpec | None) -> nn.Module:
        return copy.deepcopy(self._baseline) if spec is None else build_model(spec)


def write_torchscript(model: nn.Module, path: Path) -> Path:
    """Write TorchScript at a path and return it; the bytes depend on the model alone."""
    path.write_bytes(torchscript_bytes(model))
    return path


def has_architecture(model: nn.Module, reference: nn.Module) -> bool:
    """Tell whether two eager models have the same state keys and shapes."""
    return _shapes(model) == _shapes(reference)


def _shapes(model: nn.Module) -> dict[str, object]:
    return {key: getattr(value, "shape", None) for key, value in model.state_dict().items()}


def _files(kept: KeptStep) -> dict[str | None, str | None]:
    return {kept.weights: kept.weights_sha256, kept.recipe: kept.recipe_sha256}


def _write_weights(model: nn.Module, folder: Path) -> Path | None:
    kind = kind_of(model)
    if kind is Kind.TORCHSCRIPT:
        return write_torchscript(model, folder / "model.pt")
    if kind is Kind.EAGER_INT8:
        return None
    path = folder / "model.safetensors"
    save_tensors(path, plain_state(model))
    return path
