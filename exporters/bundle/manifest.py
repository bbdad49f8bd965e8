"""The manifest of a bundle: what every file in it is, and how to check it.

A bundle is a folder::

    manifest.json                 this record
    labels.txt                    one label a line, in output order
    <variant files>               model-ptl-fp32.ptl, model-coreml-fp16.mlpackage/, ...
    golden/images.u8              raw 8-bit RGB, images one after the other (H × W × 3 each)
    golden/inputs.f32             expected input tensors, little-endian float32, (n, 3, H, W)
    golden/logits.f32             expected logits of the float32 master, (n, C)
    golden/<variant id>.f32       expected logits of a variant whose eager source is not the float32 master
    reference/reference.json      how the eager model is built again (record exporters.bundle.reference.Reference)
    reference/model.safetensors   its float32 weights
    reference/<variant id>.safetensors   calibrated activations of a static int8 variant
    reference/artifact.json       the artifact's own record, where the model came from one

The bundle of a cascade holds, of each member, a whole bundle in the folder of the member's name, and this record of
all of them: :class:`BundleMember` says who is asked when.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from udacisense.base.records import UNFITTED, Confidence, Fraction, Outcome, Scalar, Signature, record

Format = Literal["torchscript", "ptl", "onnx", "ort", "coreml", "executorch", "tflite"]
Precision = Literal["fp32", "fp16", "int8-dynamic", "int8-static", "int8-weights", "palette6", "palette4"]


@record
class FileRecord:
    """One file of the bundle."""

    path: str  # relative, forward slashes
    sha256: str
    file_bytes: int


@record
class Coverage:
    """How much of the network really computes in int8."""

    modules_int8: int
    modules_total: int  # convolutions and linear layers
    parameters_int8_fraction: float
    macs_int8_fraction: float


@record
class GoldenImage:
    """One image of the golden pack, where its bytes begin, and what the float32 master answers."""

    width_px: int
    height_px: int
    offset_bytes: int
    label: int | None  # index of the true class; None where the image was drawn by the product, not photographed
    predicted: int  # index of the float32 master's top-1


@record
class Golden:
    """The golden pack: pixels → input tensor → logits → label, to be replayed anywhere."""

    images_path: str
    inputs_path: str
    logits_path: str
    images: tuple[GoldenImage, ...]


@record
class Loadable:
    """What a runner needs to know of a file."""

    id: str  # <format>-<precision>[-<detail>], e.g. ptl-fp32, ptl-fp32-xnnpack, torchscript-int8-dynamic-qnnpack
    format: Format
    precision: Precision
    engine: str | None  # quantised engine that the packed weights need
    input_kind: Literal["normalized", "pixels"]  # pixels: 0-255 RGB, normalisation inside
    output_kind: Literal["logits", "probabilities"]
    batch: int | None  # None: dynamic
    options: dict[str, Scalar]


def plain(name: str, format_name: Format) -> Loadable:
    """Return a float32 model as the runners want it: normalised images to logits, any batch."""
    return Loadable(
        id=name,
        format=format_name,
        precision="fp32",
        engine=None,
        input_kind="normalized",
        output_kind="logits",
        batch=None,
        options={},
    )


@record
class Variant(Loadable):
    """One exported file (or folder) of the bundle."""

    path: str | None  # relative to the bundle; None unless passed
    sha256: str | None
    file_bytes: int | None
    coverage: Coverage | None
    precision_note: str  # what was lost on purpose, in words
    golden_logits_path: str | None  # None: golden.logits_path holds what this variant should answer
    toolchain: dict[str, str]  # package -> version
    deterministic: bool  # the same input gives the same bytes
    outcome: Outcome
    reason: str | None
    duration_s: float

    @property
    def loadable(self) -> Loadable:
        """What a runner needs to know of it, alone."""
        return Loadable(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Loadable)})


@record
class BundleMember:
    """One model of a cascade: which files are its, and how sure it must be to answer.

    A photo goes to the first member. Its probabilities p are ``softmax(logits / confidence.temperature)``, or the
    variant's output as it is where ``output_kind`` is ``probabilities``. Its margin is the largest p minus the second
    largest. The next member is asked, of the same photo, where the margin is less than ``threshold``; a margin of the
    threshold is enough. The last member has no threshold and always answers. The answer is the answering member's
    largest p; it is "none of these" where that member's margin is less than its own ``confidence.unsure_below``.
    """

    name: str  # also of the folder with the member's own bundle
    artifact_sha256: str  # of its weights
    confidence: Confidence
    threshold: Fraction | None  # None: the last one
    variants: dict[str, str]  # id in its own bundle -> id in this one; one key of every member: files that go together


@record
class Manifest:
    """``manifest.json``.

    Of a cascade, ``golden`` holds the first member's float32 answers, and the variants of the others have a
    ``golden_logits_path`` each.
    """

    schema_version: Literal[1]
    created_utc: str  # ISO 8601
    name: str
    artifact_sha256: str  # of the weights; of a cascade: of its cascade.json
    signature: Signature
    golden: Golden
    variants: tuple[Variant, ...]
    files: tuple[FileRecord, ...]  # every file of the bundle but the manifest itself
    confidence: Confidence | None = None  # of the model; None: no images were held back, or it is a cascade
    members: tuple[BundleMember, ...] | None = None  # of a cascade, in the order of asking; None: one model
    notes: tuple[str, ...] = ()  # what is odd about the model itself, in words

    FILE_NAME: ClassVar[str] = "manifest.json"
    FORMER: ClassVar[frozenset[str]] = frozenset({"recommended"})  # of 0.1.0, which wrote a sweep's setting into it

    @property
    def temperature(self) -> float:
        """Return what logits are divided by before the softmax."""
        return (self.confidence or UNFITTED).temperature

    def ways(self) -> tuple[Variant, ...]:
        """Return each way to run a cascade as one variant; it passed where every member has a file."""
        members = self.members or ()
        by_id = {variant.id: variant for variant in self.variants}
        made = []
        for key in members[0].variants if members else ():
            parts = [by_id[member.variants[key]] for member in members]
            missing = [part for part in parts if part.outcome is not Outcome.PASSED]
            made.append(
                dataclasses.replace(
                    parts[-1],
                    id=key,
                    path=None,
                    sha256=None,
                    file_bytes=None if missing else sum(part.file_bytes or 0 for part in parts),
                    outcome=missing[0].outcome if missing else Outcome.PASSED,
                    reason=f"{missing[0].id}: {missing[0].reason}" if missing else None,
                )
            )
        return tuple(made)

    def problem(self) -> str | None:
        """Return how the members contradict the variants or each other; None where they do not."""
        members = self.members
        if members is None:
            return None
        names = [member.name for member in members]
        given = [id_ for member in members for id_ in member.variants.values()]
        rules = {
            "a cascade has two or more members, each with a name of its own": len(names) > 1
            and len(set(names)) == len(names),
            "the name of a member is that of a folder": not any("/" in name or "\\" in name for name in names),
            "each variant must belong to one member": sorted(given) == sorted(variant.id for variant in self.variants),
            "every member has its files under the same keys": all(
                m.variants.keys() == members[0].variants.keys() for m in members
            ),
            "every member but the last has a threshold": all(
                (m.threshold is None) == (m is members[-1]) for m in members
            ),
        }
        return next((rule for rule, holds in rules.items() if not holds), None)


def joined_variants(member: Manifest, *, is_first: bool) -> tuple[Variant, ...]:
    """Return the variants of a member's own bundle as the cascade's names them.

    Args:
        member: the manifest of the bundle in the folder of the member's name.
        is_first: its float32 answers are the cascade's golden logits.
    """

    def moved(path: str | None) -> str | None:
        return None if path is None else f"{member.name}/{path}"

    master = None if is_first else member.golden.logits_path
    return tuple(
        dataclasses.replace(
            variant,
            id=f"{member.name}.{variant.id}",
            path=moved(variant.path),
            golden_logits_path=moved(variant.golden_logits_path or master),
        )
        for variant in member.variants
    )
