"""Core ML ``.mlpackage`` (mlprogram): float32, float16, static int8, compressed weights, and an image classifier."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._export.utils import _get_decomp_for_cia, _is_cia_op

from exporters.bundle.manifest import Coverage, Precision
from exporters.bundle.metadata import Metadata, metadata_in, metadata_text
from exporters.bundle.precision import deployed
from exporters.bundle.qdq import NOTE, in_steps
from exporters.formats.contract import ExportOptions, Plan, Product, make_plan
from exporters.formats.workbench import Workbench, versions
from udacisense.base.files import METADATA_KEY, size_bytes, what_it_is
from udacisense.errors import InputError, LoadError, cause

_SPEC = Path("Data") / "com.apple.CoreML" / "model.mlmodel"
_BLOB_HEAD_BYTES = 64  # where a blob begins, before its values: their type, size and place
_PREFIX = "com.github.apple.coremltools."  # what coremltools writes into the metadata by itself
IMAGE = "image"
_PALETTE_BITS = {"palette6": 6, "palette4": 4}

NOTES = {
    "fp32": "none: the float32 weights, BatchNorm folded into the convolutions",
    "fp16": "weights and arithmetic float16; input and output stay float32",
    "int8-static": "weights of convolutions and linear layers int8 by channel, activations int8 at calibrated "
    f"scales; the scales are float16, and so is the arithmetic of a device that has none in int8{NOTE}",
    "int8-weights": "weights stored as int8 by channel and widened when the model is loaded; arithmetic float16",
    "palette6": "weights stored as 6-bit indices into 64 values a layer (k-means); arithmetic float16",
    "palette4": "weights stored as 4-bit indices into 16 values a layer (k-means); arithmetic float16",
}


def plans(options: ExportOptions) -> tuple[Plan, ...]:
    """Return the tensor variants, and one image classifier with labels; iOS 16 cannot quantise activations."""
    static: tuple[Precision, ...] = () if options.minimum_deployment_target == "iOS16" else ("int8-static",)
    precisions: tuple[Precision, ...] = ("fp32", "fp16", *static, "int8-weights", "palette6", "palette4")
    tensors = (make_plan("coreml", precision) for precision in precisions)
    return (*tensors, make_plan("coreml", "fp16", detail=IMAGE))


def export(plan: Plan, bench: Workbench) -> Product:
    """Convert, compress where asked for, describe, and save one variant."""
    with quiet():
        mlmodel = _converted(plan, bench)
    is_image = plan.detail == IMAGE
    batch = 1 if is_image else bench.options.batch or 1
    metadata = bench.metadata(plan, batch=batch)
    if is_image:
        metadata = replace(metadata, input_kind="pixels", output_kind="probabilities")
    _describe(mlmodel, metadata)
    save(mlmodel, bench.folder / plan.file_name)
    recipe = bench.activations(plan.recipe_engine) if plan.recipe_engine is not None else None
    return Product(
        input_kind=metadata.input_kind,
        output_kind=metadata.output_kind,
        batch=batch,
        coverage=_coverage(plan.precision, bench),
        precision_note=NOTES[plan.precision],
        options={
            "minimum_deployment_target": bench.options.minimum_deployment_target,
            "image_input": is_image,
            "class_labels": is_image,
            **bench.recipe_options(plan, recipe),
        },
        toolchain=versions("torch", "coremltools"),
        deterministic=True,
    )


def read_metadata(path: Path) -> Metadata | None:
    """Read the metadata of an ``.mlpackage``; None where another tool wrote it.

    Raises:
        LoadError: it is no Core ML package.
    """
    entries = dict(load_spec(path).description.metadata.userDefined)
    return metadata_in(entries, path)


def load_spec(path: Path) -> Any:
    """Parse the specification (a protobuf message) of an ``.mlpackage``.

    Raises:
        LoadError: it is no Core ML package.
    """
    with quiet():
        import coremltools
    from google.protobuf.message import DecodeError

    if not path.is_dir():
        what = what_it_is(path) or "it is a file"
        raise LoadError(f"{path} is no Core ML package, which is a folder ({what}); copy the whole folder again.")
    try:
        spec = coremltools.utils.load_spec(str(path))
    # coremltools raises a bare Exception where the package's manifest is missing.
    except (DecodeError, Exception) as exc:
        lacks = _lacking_manifest(path) or exc
        raise LoadError(f"{path} is no Core ML package ({lacks}); export or copy the whole folder again.") from exc
    for name, end in _blobs(spec, (path / _SPEC).parent):
        held = size_bytes(name) if name.is_file() else 0
        if held < end:
            what = f"it holds {held:,} of {end:,} bytes or more" if held else "it is missing"
            raise LoadError(
                f"{path} lacks weights, in {name.relative_to(path)}: {what}; export or copy the whole folder again."
            )
    return spec


def _lacking_manifest(package: Path) -> str | None:
    """Say what is wrong with the list of a package's files, or missing of them; None: nothing."""
    try:
        listed = json.loads((package / "Manifest.json").read_bytes())
        items = listed["itemInfoEntries"]
        places = [package / "Data" / item["path"] for item in [items[listed["rootModelIdentifier"]], *items.values()]]
    except FileNotFoundError:
        return "its Manifest.json is missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "its Manifest.json is not whole"
    return next((f"its {place.relative_to(package)} is missing" for place in places if not place.exists()), None)


def _blobs(message: Any, folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield each file of weights that a specification names in the folder beside it, and a byte that it reaches to."""
    for field, value in message.ListFields():
        if field.name == "blobFileValue":
            yield folder / value.fileName.removeprefix("@model_path/"), value.offset + _BLOB_HEAD_BYTES
        elif field.message_type is not None:
            many = value.values() if isinstance(value, Mapping) else value if isinstance(value, Sequence) else [value]
            for one in many:
                if hasattr(one, "ListFields"):
                    yield from _blobs(one, folder)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence coremltools' notices, such as its missing macOS libraries; the worker silences its progress bars."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, logging.NOTSET)
        yield


def _converted(plan: Plan, bench: Workbench) -> Any:
    if plan.detail == IMAGE:
        return _convert_image(bench)
    if plan.precision in {"fp32", "fp16", "int8-static"}:
        return bench.once(f"coreml {plan.precision}", lambda: _convert_tensor(plan.precision, bench))
    base = bench.once("coreml fp16", lambda: _convert_tensor("fp16", bench))
    return _compressed(base, plan.precision)


def _convert_tensor(precision: Precision, bench: Workbench) -> Any:
    import coremltools as ct

    signature = bench.signature
    example = bench.example(batch=bench.options.batch or 1)

    def program() -> torch.export.ExportedProgram:
        if precision != "int8-static":
            return bench.once("coreml program", lambda: _program(bench.deployed(bench.model), example))
        network, _ = bench.rounding()
        return _program(in_steps(bench.deployed(network), example, packed=True), example)

    return _convert(
        program(),
        inputs=[ct.TensorType(name=signature.input_name, shape=tuple(example.shape), dtype=np.float32)],
        outputs=[ct.TensorType(name=signature.output_name, dtype=np.float32)],
        compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
        **_common(bench),
    )


def _convert(program: torch.export.ExportedProgram, **options: Any) -> Any:
    import coremltools as ct

    try:
        return ct.convert(program, **options)
    except OSError:
        raise
    # It raises what its own code ran into, on operators and values that it does not know.
    except Exception as exc:
        unknown = re.search(r"Unsupported fx node (\w+)", str(exc))
        why = f"it has no form of {unknown[1]}" if unknown else cause(exc).rstrip(".")
        raise InputError(
            f"coremltools does not take this model: {why}; let its forward compute that from other operators, or "
            "export the other formats alone."
        ) from exc


def _program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """Return the model as an exported program: every shape in it is a number.

    A trace computes shapes while it runs, as in ShuffleNet's channel shuffle, and coremltools 9.0 takes those for
    scalars in a way that NumPy 2.4 refuses. What coremltools cannot translate is written as its parts: ``addcmul`` as a
    product and a sum.
    """
    exported = torch.export.export(model, (example,), strict=False).run_decompositions({})
    while parts := _parts(exported):
        exported = exported.run_decompositions(parts)
    _fill_by_type(exported.graph_module)
    _normalise_by_statistics(exported.graph_module)
    return cast("torch.export.ExportedProgram", exported)


def _parts(exported: torch.export.ExportedProgram) -> dict[Any, Any]:
    """Return how to compute from others what coremltools cannot translate; nothing where that is not known."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import is_torch_fx_node_supported

    lacking = {
        n.target
        for n in exported.graph.nodes
        if isinstance(n.target, torch._ops.OpOverload)
        and (not is_torch_fx_node_supported(n) or (n.target is torch.ops.aten.pad.default and "circular" in n.args))
    }
    implicit = {operator: _get_decomp_for_cia(operator) for operator in lacking if _is_cia_op(operator)}
    return {**implicit, **torch._decomp.get_decompositions([*lacking])}


def _fill_by_type(program: torch.fx.GraphModule) -> None:
    """Write every tensor of one number as ``full``, in place, where coremltools 9.0 heeds the type that is asked for.

    Of ``zeros_like(mask, dtype=float32)`` it makes truth values, and of what is filled into them 0 or 1.
    """
    new = torch.ops.aten
    fixed = {new.zeros_like: 0, new.new_zeros: 0, new.ones_like: 1, new.new_ones: 1}
    given = {new.full_like: 1, new.new_full: 2}  # place of the number
    for node in [*program.graph.nodes]:
        target = getattr(node.target, "overloadpacket", None)
        if target not in fixed and target not in given:
            continue
        made = node.meta["val"]
        number = fixed[target] if target in fixed else node.args[given[target]]
        with program.graph.inserting_before(node):
            full = program.graph.call_function(new.full.default, ([*made.shape], number), {"dtype": made.dtype})
        full.meta = node.meta
        node.replace_all_uses_with(full)
        program.graph.erase_node(node)
    program.recompile()


def _normalise_by_statistics(program: torch.fx.GraphModule) -> None:
    """Write InstanceNorm with the statistics of its training as what it is, BatchNorm, in place.

    coremltools 9.0 heeds no such statistics: it would normalise each image by its own.
    """
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.instance_norm.default and not node.args[5]:
            node.target = torch.ops.aten.batch_norm.default  # whose arguments are the same
    program.recompile()


class _FromImage(nn.Module):
    """What follows Core ML's own scaling of an image, ``pixel / 255``: mean and std, classifier, softmax."""

    mean: Tensor
    std: Tensor

    def __init__(self, bench: Workbench) -> None:
        super().__init__()
        self.classifier = deployed(bench.model, bench.signature, normalize=False, temperature=bench.temperature)
        # An image input has one scale for all channels, so the std of each has to be inside the graph.
        self.register_buffer("mean", torch.tensor(bench.signature.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(bench.signature.std).view(1, 3, 1, 1))

    def forward(self, scaled: Tensor) -> Tensor:
        """Return probabilities of RGB scaled to 0..1."""
        probabilities: Tensor = self.classifier((scaled - self.mean) / self.std)
        return probabilities


def _convert_image(bench: Workbench) -> Any:
    import coremltools as ct

    signature = bench.signature
    shape = (1, *signature.input_shape[1:])
    return _convert(
        _program(_FromImage(bench).eval(), torch.zeros(shape)),
        inputs=[ct.ImageType(name=signature.input_name, shape=shape, color_layout=ct.colorlayout.RGB, scale=1 / 255)],
        classifier_config=ct.ClassifierConfig(list(signature.labels)),
        compute_precision=ct.precision.FLOAT16,
        **_common(bench),
    )


def _common(bench: Workbench) -> dict[str, Any]:
    import coremltools as ct

    return {
        "convert_to": "mlprogram",
        "minimum_deployment_target": getattr(ct.target, bench.options.minimum_deployment_target),
        "skip_model_load": True,  # loading is for macOS alone, and no part of converting
    }


def _compressed(mlmodel: Any, precision: Precision) -> Any:
    import coremltools.optimize.coreml as cto

    if precision == "int8-weights":
        linear = cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", granularity="per_channel")
        return cto.linear_quantize_weights(mlmodel, cto.OptimizationConfig(global_config=linear))
    bits = _PALETTE_BITS[precision]
    palette = cto.OpPalettizerConfig(mode="custom", lut_function=lambda weight: cluster(weight, bits=bits))
    return cto.palettize_weights(mlmodel, cto.OptimizationConfig(global_config=palette))


def cluster(weight: NDArray[Any], *, bits: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Cluster weights into 2**bits values: Lloyd's k-means on the line, started from quantiles, so repeatable.

    On sorted values each cluster is an interval, and its mean a difference of cumulative sums: an iteration is two
    look-ups, whatever the number of weights. (coremltools' own needs scikit-learn and starts by chance.)

    Args:
        weight: float16 or float32, any shape.
        bits: of an index, 1 to 8.

    Returns:
        The 2**bits centres in ascending order, of ``weight``'s dtype, and the index of each weight's own, uint8 of
        shape (weight.size,).
    """
    values = np.sort(weight.reshape(-1).astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centres = np.quantile(values, (np.arange(2**bits) + 0.5) / 2**bits)
    for _ in range(100):
        edges = np.concatenate([[0], np.searchsorted(values, (centres[1:] + centres[:-1]) / 2), [len(values)]])
        counts = np.diff(edges)
        # An empty cluster keeps its centre.
        moved = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), centres)
        moved.sort()
        if np.array_equal(moved, centres):
            break
        centres = moved
    borders = (centres[1:] + centres[:-1]) / 2
    indices = np.searchsorted(borders, weight.reshape(-1).astype(np.float64), side="right")
    return centres.astype(weight.dtype), indices.astype(np.uint8)


def _describe(mlmodel: Any, metadata: Metadata) -> None:
    mlmodel.short_description = f"{metadata.name}: image classifier, {metadata.precision}"
    mlmodel.version = str(metadata.schema_version)
    mlmodel.user_defined_metadata[METADATA_KEY] = metadata_text(metadata)


def save(mlmodel: Any, package: Path) -> None:
    """Write an ``.mlpackage`` whose bytes depend on the model alone.

    coremltools draws the identifiers of a package by chance, notes the day, and writes maps in any order.
    """
    mlmodel.save(str(package))
    # coremltools' map to ExecuTorch's debug handles, a fifth of a small package, is no part of the model.
    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    spec = load_spec(package)
    user = spec.description.metadata.userDefined
    user.pop(f"{_PREFIX}conversion_date", None)
    (package / _SPEC).write_bytes(spec.SerializeToString(deterministic=True))
    path = package / "Manifest.json"
    manifest = json.loads(path.read_text())
    entries = manifest["itemInfoEntries"]
    names = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for old, entry in entries.items()}
    manifest["itemInfoEntries"] = {new: entries[old] for old, new in sorted(names.items(), key=lambda pair: pair[1])}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4) + "\n")


def _coverage(precision: Precision, bench: Workbench) -> Coverage | None:
    from exporters.formats.coverage import coverage

    if not precision.startswith("int8"):
        return None
    int8 = bench.rounding()[1] if precision == "int8-static" else ()
    return coverage(bench.model, bench.golden_inputs[:1], int8)
