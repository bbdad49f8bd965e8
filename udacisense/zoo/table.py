"""Trained models that ship with the package: artifacts, loaded by name wherever an artifact's folder is taken.

Each has a folder here: ``artifact.json`` (figures and the settings that made them), ``model.safetensors`` (float32)
and ``CARD.md`` (training data, recipe, figures, limits).
"""

from __future__ import annotations

from pathlib import Path

ZOO: dict[str, str] = {
    "baseline": "MobileNetV3-Small, 224 px",
    "p1": "the same features at 128 px with a smaller classifier: pipeline p1 without its int8 step",
    "tiny": "inverted residuals with 5×5 kernels on the 32 px photo itself: pipeline p2",
}

# Cascades of them: ``cascade.json`` and ``CARD.md``; their members are the models above.
CASCADES: dict[str, str] = {"cascade": "tiny, and p1 where tiny is not sure: pipeline p3"}


def zoo_folder(name: str) -> Path:
    """Return the folder of a model that ships; ``name`` is a row of :data:`ZOO` or :data:`CASCADES`."""
    return Path(__file__).parent / name


def resolve_artifact(folder: Path) -> Path:
    """Return an artifact's or a cascade's folder: what was given, or what ships under that name.

    A folder of the user's own is never hidden by a model that ships.
    """
    if not folder.exists() and str(folder) in ZOO.keys() | CASCADES.keys() and zoo_folder(str(folder)).is_dir():
        return zoo_folder(str(folder))
    return folder
