"""The mutants of the mutation campaign: every way in which a bundle is damaged, or written by a faulty exporter."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import exporter_faults  # noqa: E402 - what tests use too
import onnx_edits  # noqa: E402 - beside this file
from bundle_damage import edit_json, flip_bit  # noqa: E402

from exporters.bundle.manifest import Variant  # noqa: E402
from exporters.bundle.open import Bundle  # noqa: E402
from exporters.bundle.reference import eager_source  # noqa: E402

FLIPS, CUTS = 3, 2  # random ones, of each file
CONTROL = "none"  # the kind of a variant without a fault, which must pass


@dataclass(frozen=True)
class Mutant:
    """One way to be wrong."""

    kind: str
    variant_id: str | None  # None: the bundle itself
    detail: str
    apply: Callable[[Bundle], None]
    is_planted: bool  # a fault that must show; a random bit need not
    beside: str | None = None  # a variant that is verified too, and that no other mutant of the same copy touches

    @property
    def touched(self) -> frozenset[str]:
        """The variants that this mutant needs for itself."""
        return frozenset(name for name in (self.variant_id, self.beside) if name is not None)

    @property
    def name(self) -> str:
        """What no two mutants share."""
        return f"{self.kind} | {self.variant_id or 'bundle'} | {self.detail}"


def payload(path: Path) -> list[Path]:
    """Return the files of a variant: itself, or those of a package."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def bit_flips(bundle: Bundle, variant: Variant, rng: random.Random) -> list[Mutant]:
    made = []
    for index in range(FLIPS):
        files = payload(bundle.path(str(variant.path)))
        file = files[index % len(files)]
        relative, offset = file.relative_to(bundle.root), rng.randrange(file.stat().st_size)

        def apply(copy: Bundle, relative: Path = relative, offset: int = offset) -> None:
            flip_bit(copy.root / relative, offset)

        made.append(Mutant("bit flipped", variant.id, f"{relative} at {offset}", apply, is_planted=False))
    return made


def truncations(bundle: Bundle, variant: Variant, rng: random.Random) -> list[Mutant]:
    made = []
    for _ in range(CUTS):
        file = max(payload(bundle.path(str(variant.path))), key=lambda p: p.stat().st_size)
        relative, left = file.relative_to(bundle.root), rng.randrange(file.stat().st_size)

        def apply(copy: Bundle, relative: Path = relative, left: int = left) -> None:
            os.truncate(copy.root / relative, left)

        made.append(Mutant("truncated", variant.id, f"{relative} to {left} bytes", apply, is_planted=True))
    return made


def swapped(bundle: Bundle, variant: Variant) -> list[Mutant]:
    """Another variant's file of the same format in its place."""
    others = [v for v in bundle.exported() if v.format == variant.format and v.id != variant.id][:2]
    made = []
    for other in others:

        def apply(copy: Bundle, source: str = str(other.path)) -> None:
            target = copy.path(str(variant.path))
            if target.is_dir():
                shutil.rmtree(target)
                shutil.copytree(bundle.path(source), target)
            else:
                shutil.copy(bundle.path(source), target)

        made.append(Mutant("swapped file", variant.id, f"holds {other.id}", apply, is_planted=True))
    return made


EAGER_FAULTS: dict[str, Callable] = {
    "weights ×1.01": exporter_faults.scale_weight,
    "two channels exchanged": exporter_faults.exchange_channels,
    "labels permuted": exporter_faults.Permuted,
    "mean and std changed": exporter_faults.OtherMean,
    "BatchNorm not folded": exporter_faults.forget_norm,
    "dropout left on": exporter_faults.leave_dropout_on,
    "wrong resize mode": exporter_faults.OtherResize,
    "wrong activation": exporter_faults.other_activation,
}
# A static int8 network is changed after its conversion; what is left of the others is in its float part.
STATIC_FAULTS: dict[str, Callable] = {
    "zero point shifted": exporter_faults.shift_zero_point,
    "labels permuted": exporter_faults.Permuted,
    "mean and std changed": exporter_faults.OtherMean,
    "wrong resize mode": exporter_faults.OtherResize,
}
DYNAMIC_FAULTS = EAGER_FAULTS | {"int8 scale ×1.05": exporter_faults.scale_int8_linear}


Apply = Callable[[Bundle, Callable], None]


def planted(
    variant: Variant, how: str, table: Mapping[str, Callable], apply: Apply, *, beside: str | None = None
) -> list[Mutant]:
    """Return a mutant for each fault, and what is made in the same way without one: it must pass."""
    return [
        Mutant(kind, variant.id, how, lambda copy, f=fault: apply(copy, f), kind != CONTROL, beside)
        for kind, fault in table.items()
    ]


def no_fault(model: torch.nn.Module) -> None:
    """Leave the model as it is."""


def pytorch_faults(variant: Variant) -> list[Mutant]:
    table = {"int8-static": STATIC_FAULTS, "int8-dynamic": DYNAMIC_FAULTS}.get(variant.precision, EAGER_FAULTS)
    return planted(
        variant,
        "traced again",
        {CONTROL: no_fault, **table},
        lambda copy, fault: exporter_faults.rewrite(copy, variant.id, fault),
    )


def onnx_faults(variant: Variant) -> list[Mutant]:
    """Faults in the weights of an ``.onnx`` file, whatever their type; and in the graph around them."""

    def apply(copy: Bundle, edit: Callable) -> None:
        path = exporter_faults.file_of(copy, variant.id)
        onnx_edits.save_edited(path, path, edit)

    return planted(variant, "graph edited", onnx_table(variant), apply)


def onnx_table(variant: Variant) -> dict[str, Callable]:
    table = onnx_edits.STATIC_FAULTS if variant.precision == "int8-static" else onnx_edits.FAULTS
    return {CONTROL: onnx_edits.no_fault, **table}


def ort_faults(variant: Variant, bundle: Bundle) -> list[Mutant]:
    """The faults of its ``.onnx`` sister, optimised offline as the exporter does: in it alone, and in both."""
    sister = variant.id.replace("ort-", "onnx-")
    whole = exporter_faults.file_of(bundle, sister)

    def alone(copy: Bundle, edit: Callable) -> None:
        from exporters.formats.onnx.write import _optimize_offline

        with tempfile.TemporaryDirectory() as name:
            faulty = Path(name) / "faulty.onnx"
            onnx_edits.save_edited(whole, faulty, edit, variant_id=variant.id)
            _optimize_offline(faulty, exporter_faults.file_of(copy, variant.id), variant.precision)

    def both(copy: Bundle, edit: Callable) -> None:
        onnx_edits.save_edited(whole, exporter_faults.file_of(copy, sister), edit)
        alone(copy, edit)

    table = onnx_table(variant)
    return [
        *planted(variant, "optimised again", table, alone, beside=sister),
        *planted(variant, "optimised again, of a faulty .onnx", table, both, beside=sister),
    ]


COREML_FAULTS: dict[str, Callable] = {CONTROL: no_fault} | {
    kind: EAGER_FAULTS[kind]
    for kind in (
        "weights ×1.01",
        "two channels exchanged",
        "labels permuted",
        "mean and std changed",
        "BatchNorm not folded",
        "wrong resize mode",
        "wrong activation",
    )
}


def coreml_faults(variant: Variant) -> list[Mutant]:
    """Faults of the model that is converted, compressed as the exporter does."""
    return planted(
        variant, "converted again", COREML_FAULTS, lambda copy, fault: convert_again(copy, variant.id, fault)
    )


def convert_again(bundle: Bundle, variant_id: str, fault: Callable) -> None:
    import coremltools as ct

    from exporters.formats.coreml import _compressed, _program, quiet, save

    variant = bundle.variant(variant_id)
    is_image = variant.input_kind == "pixels"
    torch.manual_seed(0)
    master = eager_source(bundle, bundle.variant("torchscript-fp32"))
    model = fault(master) or master
    if is_image:
        model = torch.nn.Sequential(FromImage(bundle), model, torch.nn.Softmax(dim=1))
    size = bundle.manifest.signature.size_px
    shape = (1, 3, size, size)
    fp32 = variant.precision == "fp32"
    with quiet(), torch.inference_mode():
        fed = (
            ct.ImageType(name="image", shape=shape)
            if is_image
            else ct.TensorType(name="input", shape=shape, dtype=np.float32)
        )
        converted = ct.convert(
            _program(model.eval(), torch.zeros(shape)),
            inputs=[fed],
            outputs=None if is_image else [ct.TensorType(name="logits", dtype=np.float32)],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32 if fp32 else ct.precision.FLOAT16,
            minimum_deployment_target=ct.target.iOS16,
            classifier_config=ct.ClassifierConfig(list(bundle.manifest.signature.labels)) if is_image else None,
            skip_model_load=True,
        )
        if variant.precision not in {"fp32", "fp16"}:
            converted = _compressed(converted, variant.precision)
    path = exporter_faults.file_of(bundle, variant_id)
    shutil.rmtree(path)
    with quiet():
        save(converted, path)


class FromImage(torch.nn.Module):
    """Normalise 0-255 pixels."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        signature = bundle.manifest.signature
        self.register_buffer("mean", torch.tensor(signature.mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(signature.std).view(1, 3, 1, 1) * 255)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.mean) / self.std


def in_signatures(change: Callable[[dict], None]) -> Callable[[Bundle], None]:
    """Change the signature wherever the bundle keeps one."""

    def apply(bundle: Bundle) -> None:
        for name in ("manifest.json", "reference/reference.json"):
            edit_json(bundle.root / name, lambda content: change(content["signature"]))

    return apply


def swap_labels(signature: dict) -> None:
    signature["labels"][:2] = signature["labels"][1::-1]


def add_to(name: str, channel: int) -> Callable[[dict], None]:
    def change(signature: dict) -> None:
        signature[name][channel] += 0.01

    return change


def change_resize(bundle: Bundle) -> None:
    edit_json(bundle.root / "manifest.json", lambda c: c["signature"]["resize"].update(antialias=False))


def scale_reference(bundle: Bundle) -> None:
    from safetensors.torch import load_file, save_file

    path = bundle.root / "reference" / "model.safetensors"
    state = load_file(path)
    state["classifier.1.weight"] *= 1.01
    save_file(state, path)


_SHARED = {
    "golden/logits.f32": (3, 1003),
    "golden/inputs.f32": (3, 1003),
    "golden/images.u8": (3, 1003),
    "reference/model.safetensors": (3, 1003),
    "labels.txt": (0, 5),
}


def bundle_faults() -> list[Mutant]:
    """Faults of what the variants are held against."""
    made = [
        Mutant("labels permuted", None, "in the signature", in_signatures(swap_labels), is_planted=True),
        Mutant("weights ×1.01", None, "of the reference", scale_reference, is_planted=True),
        Mutant("wrong resize mode", None, "in the manifest alone", change_resize, is_planted=True),
    ]
    for name in ("mean", "std"):
        for channel in range(3):
            apply = in_signatures(add_to(name, channel))
            made.append(Mutant("mean and std changed", None, f"{name} of channel {channel}", apply, is_planted=True))
    for name, offsets in _SHARED.items():
        for offset in offsets:
            made.append(
                Mutant(
                    "bit flipped",
                    None,
                    f"{name} at {offset}",
                    lambda b, n=name, o=offset: flip_bit(b.root / n, o),
                    is_planted=False,
                )
            )
    return made


def all_mutants(bundle: Bundle, rng: random.Random) -> list[Mutant]:
    """Return every mutant, and first the controls."""
    made = [Mutant(CONTROL, v.id, "undamaged", lambda _: None, is_planted=False) for v in bundle.exported()]
    by_format: dict[str, Callable[[Variant], list[Mutant]]] = {
        "torchscript": pytorch_faults,
        "ptl": pytorch_faults,
        "onnx": onnx_faults,
        "ort": lambda variant: ort_faults(variant, bundle),
        "coreml": coreml_faults,
    }
    for variant in bundle.exported():
        made += bit_flips(bundle, variant, rng) + truncations(bundle, variant, rng) + swapped(bundle, variant)
        made += by_format[variant.format](variant) if variant.format in by_format else []
    return sorted(made + bundle_faults(), key=lambda mutant: mutant.kind != CONTROL)
