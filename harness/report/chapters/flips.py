"""The images whose label a variant changed, as thumbnails; of the golden pack, or of the data that was given."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from exporters.bundle.manifest import Manifest
from harness.inputs import InputSet, PixelArray, golden_pack, real_inputs
from harness.records import Flip, MeasurementSet
from harness.report.blocks import Block, Prose, Thumbnail, Thumbnails
from harness.report.plots.accuracy import compared
from harness.report.table import Table
from udacisense.data.images import DataSet
from udacisense.errors import UdacisenseError

_MOST_IMAGES = 24


def flip_blocks(
    measured: MeasurementSet, bundle: tuple[Path, Manifest] | None, dataset: DataSet | None
) -> tuple[Block, ...]:
    """Return the flipped images with both answers, those that the master was surest of first."""
    flips: dict[tuple[int, int], list[tuple[str, Flip]]] = {}  # (images compared, index) -> who flips it
    for cell, _, comparison in compared(measured):
        for flip in comparison.flips:
            flips.setdefault((comparison.n_inputs, flip.index), []).append((cell, flip))
    if not flips:
        return (Prose(text="No image changed its label in any file that was compared.", tone="good"),)
    labels = bundle[1].signature.labels if bundle is not None else ()
    total = max(comparison.n_inputs for _, _, comparison in compared(measured))
    inputs, why = _inputs(measured, bundle, dataset)
    ordered = sorted(flips.items(), key=lambda entry: -entry[1][0][1].reference_margin)
    # A cell on fewer images counts within its own selection, which the record does not hold.
    drawn = [
        (index, found) for (n, index), found in ordered if n == total and inputs is not None and index < len(inputs)
    ]
    blocks: list[Block] = []
    if inputs is not None and drawn:
        blocks.append(_thumbnails(drawn, inputs, labels))
    elif why is not None:
        blocks.append(Prose(text=why, tone="open"))
    blocks.append(_table([(n, i, cell, f) for (n, i), found in ordered for cell, f in found], labels))
    return tuple(blocks)


def _inputs(
    measured: MeasurementSet, bundle: tuple[Path, Manifest] | None, dataset: DataSet | None
) -> tuple[InputSet | None, str | None]:
    """Return the images that were verified on, or why they cannot be shown."""
    if bundle is None:
        return None, "The bundle that was verified is not among the records, or has changed: no image can be shown."
    path, manifest = bundle
    try:
        if measured.inputs.startswith("golden pack"):
            found = golden_pack(path.parent, manifest).inputs
        elif dataset is None:
            return None, f"Flips were found on {measured.inputs}; `udacisense report … --data DIR` draws those images."
        else:
            found = real_inputs(dataset, manifest.signature)
    except (UdacisenseError, OSError) as exc:
        return None, f"The images cannot be shown: {exc}"
    if found.description != measured.inputs:
        return None, f"The images cannot be shown: verified on {measured.inputs}, given {found.description}."
    return found, None


def _thumbnails(
    flips: Sequence[tuple[int, list[tuple[str, Flip]]]], inputs: InputSet, labels: Sequence[str]
) -> Thumbnails:
    images = []
    for index, found in flips[:_MOST_IMAGES]:
        first = found[0][1]
        answers: dict[int, list[str]] = {}
        for cell, flip in found:
            answers.setdefault(flip.label, []).append(cell)
        master = _named(first.reference_label, labels)
        true = None if inputs.labels is None else _named(int(inputs.labels[index]), labels)
        lines = [f"master: {master} (by {first.reference_margin:.2g})"]
        lines += [f"{', '.join(cells)}: {_named(label, labels)}" for label, cells in answers.items()]
        lines += [] if true is None else [f"true: {true}"]
        others = ", ".join(_named(label, labels) for label in answers)
        alt = f"Image {index}{f', a {true}' if true else ''}: the master answers {master}, a file {others}."
        images.append(Thumbnail(uri=_png_uri(inputs.pixels[index]), alt=alt, lines=(f"image {index}", *lines)))
    more = f" The {_MOST_IMAGES} surest of {len(flips)} are drawn." if len(flips) > _MOST_IMAGES else ""
    return Thumbnails(
        title="Images that changed their label",
        says="Those that the float32 master was surest of first; a small margin (in logits) is noise, a large one a "
        f"bug.{more}",
        images=tuple(images),
    )


def _table(flips: Sequence[tuple[int, int, str, Flip]], labels: Sequence[str]) -> Table:
    rows = tuple(
        (
            str(flip.index),
            str(n),
            cell,
            _named(flip.reference_label, labels),
            _named(flip.label, labels),
            f"{flip.reference_margin:.3g}",
        )
        for n, _, cell, flip in flips
    )
    columns = ("image", "of", "cell", "master's answer", "file's answer", "master's margin")
    notes = ("An image's number counts within the images that its cell was compared on.",)
    return Table(title="Flips", columns=columns, rows=rows, notes=notes)


def _named(label: int, labels: Sequence[str]) -> str:
    return labels[label] if 0 <= label < len(labels) else f"class {label}"


def _png_uri(pixels: PixelArray) -> str:
    """Return a uint8 (3, H, W) image as a data URI."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
