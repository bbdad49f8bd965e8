"""A trained model on disk: ``artifact.json`` beside its float32 weights, written and checked as one folder."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from torch import Tensor, nn

from udacisense.base.files import atomic_path, sha256_file, why_absent
from udacisense.base.records import Artifact, Confidence, ModelSpec, Signature, StageRecord, read_json, write_record
from udacisense.base.tensors import save_tensors
from udacisense.errors import InputError, LoadError, did_you_mean
from udacisense.measure.cascade import Cascade
from udacisense.models.build import build_model
from udacisense.models.weights import load_state, plain_state
from udacisense.zoo.table import ZOO, resolve_artifact

WEIGHTS_NAME = "model.safetensors"
RECIPES = "static-int8-"  # and an engine: how the names of recipes of static int8 begin, which may lie beside them


def save_artifact(
    folder: Path,
    *,
    name: str,
    model: nn.Module,
    spec: ModelSpec,
    signature: Signature,
    baseline: StageRecord,
    stages: tuple[StageRecord, ...],
    seed: int,
    confidence: Confidence | None = None,
    recipes: Mapping[str, Mapping[str, Tensor]] = MappingProxyType({}),
) -> Artifact:
    """Write a model and its record as one folder, whole or not at all.

    Args:
        folder: an artifact that is there is replaced, a folder that holds anything else is left alone.
        name: what people call it.
        model: the eager float32 model that ``spec`` builds.
        spec: how to build it again.
        signature: what goes in and what comes out.
        baseline: figures of what compression started from.
        stages: figures after each stage; empty for a baseline.
        seed: of the run.
        confidence: fitted on held-back images; None where there were none.
        recipes: of static int8 that was made of these weights, by the name of its file.

    Raises:
        InputError: the model has weights that are no tensors (a quantised one), or the folder holds other files.
    """
    _refuse_foreign_folder(folder)
    files = {**recipes, WEIGHTS_NAME: plain_state(model)}
    with atomic_path(folder) as partial:
        _save_each(partial, files)
        artifact = Artifact(
            schema_version=1,
            name=name,
            path=WEIGHTS_NAME,
            sha256=sha256_file(partial / WEIGHTS_NAME),
            git_commit=_git_commit(),
            seed=seed,
            model=spec,
            signature=signature,
            baseline=baseline,
            stages=stages,
            confidence=confidence,
        )
        write_record(partial / Artifact.FILE_NAME, artifact)
    return artifact


def load_artifact(folder: Path, *, allow_factory: str | None = None) -> tuple[Artifact, nn.Module]:
    """Read an artifact and build its model with its weights, in evaluation mode on the CPU.

    Args:
        folder: an artifact's folder, or the name of a model that ships (:mod:`udacisense.zoo.table`).
        allow_factory: the one ``package.module:factory`` that may be imported. An artifact whose architecture is
            such a factory runs that module's code, so it is loaded only where the caller names the same factory.

    Raises:
        InputError: the folder, its record or its weights are missing, the record is invalid, or its architecture
            is a factory that was not allowed.
        LoadError: the weights are not those that were recorded, or do not fit the architecture.
    """
    folder = resolve_artifact(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder{why_absent(folder)}; give an artifact's folder, with {Artifact.FILE_NAME} in it, "
            f"or the name of a model that ships: {', '.join(ZOO)}.{did_you_mean(str(folder), ZOO)}"
        )
    if (folder / Cascade.FILE_NAME).is_file():
        raise InputError(f"{folder} is a cascade of several models; give one model: {', '.join(ZOO)}, or a folder.")
    if not (folder / Artifact.FILE_NAME).is_file():
        raise InputError(f"{folder} holds no {Artifact.FILE_NAME}; give the folder that train or compress wrote.")
    artifact = read_json(Artifact, folder / Artifact.FILE_NAME)
    if ":" in artifact.model.architecture and artifact.model.architecture != allow_factory:
        raise InputError(
            f"The artifact {folder} is built by the code {artifact.model.architecture!r}, which is not run unasked;"
            f" if you trust it, allow it by name: --allow-factory {artifact.model.architecture}."
        )
    weights = _checked_weights(folder, artifact)
    model = build_model(artifact.model)
    load_state(model, weights)
    return artifact, model.eval()


def _save_each(folder: Path, files: Mapping[str, Mapping[str, Tensor]]) -> None:
    folder.mkdir()
    for name, tensors in files.items():
        save_tensors(folder / name, tensors)


def _checked_weights(folder: Path, artifact: Artifact) -> Path:
    record = folder / Artifact.FILE_NAME
    if Path(artifact.path).name != artifact.path:
        raise InputError(f"{record} names the weights {artifact.path!r}; they must be a file beside it.")
    weights = folder / artifact.path
    if not weights.is_file():
        raise InputError(f"The weights {weights} are missing; copy the artifact's whole folder, or make it again.")
    if sha256_file(weights) != artifact.sha256:
        raise LoadError(
            f"The weights {weights} are not those that {record} records (their SHA-256 differs);"
            " copy the artifact again, or make it again."
        )
    return weights


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.is_dir():
        others = (p.name for p in folder.iterdir() if not p.match(f"{RECIPES}*.safetensors"))
        foreign = sorted(name for name in others if name not in {Artifact.FILE_NAME, WEIGHTS_NAME})
        if foreign:
            raise InputError(f"{folder} holds {foreign[0]!r}, which is no part of an artifact; give another folder.")
    elif folder.exists():
        raise InputError(f"{folder} is a file; give a folder to write the artifact to.")


def _git_commit() -> str | None:
    """The commit of the repository in the current directory, or None where there is none (or no git)."""
    git = shutil.which("git")
    if git is None:
        return None
    answer = subprocess.run([git, "rev-parse", "--verify", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None
