"""What a bundle keeps of its source: the float32 model, and the eager source of each file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from exporters.bundle.manifest import Loadable
from exporters.bundle.open import Bundle, _check_file
from udacisense.base.records import ModelSpec, Scalar, Signature, read_json, record
from udacisense.errors import InputError, LoadError

if TYPE_CHECKING:
    from torch import Tensor, nn


REFERENCE = "reference/reference.json"
WEIGHTS = "reference/model.safetensors"
ARTIFACT = "reference/artifact.json"


@record
class Reference:
    """``reference/reference.json``: how the eager model is built again."""

    schema_version: Literal[1]
    model: ModelSpec
    signature: Signature
    calibration_images: int | None

    FILE_NAME: ClassVar[str] = "reference.json"


def load_reference(bundle: Bundle, *, allow_factory: str | None = None) -> tuple[nn.Module, Reference]:
    """Rebuild the float32 master: normalised images, float32 (N, 3, H, W), to logits, float32 (N, C).

    Args:
        bundle: an open one.
        allow_factory: the one ``package.module:factory`` that may be imported. A bundle whose model is built by
            such a factory runs that module's code, so it is done only where the caller names the same factory.

    Raises:
        InputError: the reference is missing, or its factory was not allowed.
        LoadError: the weights are not those of the manifest, or do not fit.
    """
    from udacisense.models.build import build_model
    from udacisense.models.weights import load_state

    reference = read_json(Reference, bundle.root / REFERENCE)
    if ":" in reference.model.architecture and reference.model.architecture != allow_factory:
        raise InputError(
            f"The bundle {bundle.root} is built by the code {reference.model.architecture!r}, which is not run unasked;"
            f" if you trust it, allow it by name: --allow-factory {reference.model.architecture}."
        )
    weights = bundle.root / WEIGHTS
    recorded = {file.path: file for file in bundle.manifest.files}.get(WEIGHTS)
    if recorded is None or _check_file(weights, recorded):
        raise LoadError(f"The weights {weights} are not those that the manifest records; copy the bundle again.")
    model = build_model(reference.model)
    load_state(model, weights)
    return model.eval(), reference


def activations_path(variant_id: str, engine: str | None, options: Mapping[str, Scalar]) -> str:
    """Return where the recipe of a static int8 variant is kept; variants without an engine share theirs."""
    name = variant_id if engine is not None else f"recipe-{options.get('recipe')}"
    return f"reference/{name}.safetensors"


def kept_recipe(bundle: Bundle, variant: Loadable) -> dict[str, Tensor] | None:
    """Return the recipe that a static int8 variant holds; None where the bundle keeps none of it.

    Raises:
        InputError: its path leaves the bundle.
        LoadError: it is no safetensors file.
    """
    from exporters.bundle.precision import load_activations

    kept = bundle.path(activations_path(variant.id, variant.engine, variant.options))
    return load_activations(kept) if kept.is_file() else None


def eager_source(bundle: Bundle, variant: Loadable, *, allow_factory: str | None = None) -> nn.Module:
    """Rebuild the eager model that a variant was made from, in its own precision, as it is fed and answers.

    PyTorch int8 is quantised again from the float32 master, static int8 with the calibration that the bundle keeps:
    the same int8 network, bit by bit. Where the variant's runtime has an arithmetic of its own (fp16, ONNX int8,
    Core ML's compressed weights; see :func:`has_own_source`) it is the float32 master.

    Run the result with ``torch.backends.quantized.engine = variant.engine``.

    Raises:
        InputError: see :func:`load_reference`; or this host lacks the engine.
        LoadError: see :func:`load_reference`.
    """
    import torch

    from exporters.bundle.precision import deployed, eager_model, load_activations

    model, reference = load_reference(bundle, allow_factory=allow_factory)
    signature = reference.signature
    if has_own_source(variant):
        is_static = variant.precision == "int8-static"
        kept = activations_path(variant.id, variant.engine, variant.options)
        model = eager_model(
            model,
            variant.precision,
            variant.engine,
            example=torch.from_numpy(bundle.golden_inputs()[:1]),
            activations=load_activations(bundle.path(kept)) if is_static else None,
            signed=variant.options.get("activations") == "qint8",
        )
    return deployed(
        model,
        signature,
        normalize=variant.input_kind == "pixels",
        temperature=bundle.manifest.temperature if variant.output_kind == "probabilities" else None,
    )


def has_own_source(variant: Loadable) -> bool:
    """Tell whether a variant's own precision has an eager PyTorch model, other than the float32 master."""
    return variant.format in {"torchscript", "ptl"} and variant.precision in {"int8-dynamic", "int8-static"}
