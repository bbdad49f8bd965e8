"""What a ``.tflite`` file says about itself: labels and normalisation, as Android's own loaders read them.

TensorFlow Lite's metadata is a flatbuffer among the model's buffers (metadata_schema.fbs 1.1.0 of tflite-support), and
files that are appended as a zip archive: the labels, and our own record.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from exporters.bundle.metadata import EXTRA_FILE, Metadata, metadata_text

LABELS = "labels.txt"
BUFFER_NAME = "TFLITE_METADATA"
_DATE = (1980, 1, 1, 0, 0, 0)
# Of the schema's enumerations and unions.
_DESCRIPTIONS, _TENSOR_AXIS_LABELS = 1, 2  # AssociatedFileType
_FEATURE, _IMAGE = 1, 2  # ContentProperties
_NORMALIZATION = 1  # ProcessUnitOptions
_RGB = 1  # ColorSpaceType


def metadata_buffer(metadata: Metadata) -> bytes:
    """Return the flatbuffer ``ModelMetadata``."""
    import flatbuffers

    signature, b = metadata.signature, flatbuffers.Builder(1024)
    is_raw = metadata.input_kind == "pixels"
    # Of pixels from 0 to 255: (value - mean) / std.
    normalization = _table(
        b,
        {
            0: _floats(b, [0.0 if is_raw else 255 * value for value in signature.mean]),
            1: _floats(b, [1.0 if is_raw else 255 * value for value in signature.std]),
        },
    )
    image = _table(b, {}, int8s={0: _RGB})
    image_content = _table(b, {1: image}, uint8s={0: _IMAGE})
    feature_content = _table(b, {1: _table(b, {})}, uint8s={0: _FEATURE})
    unit = _table(b, {1: normalization}, uint8s={0: _NORMALIZATION})
    labels = _table(b, {0: b.CreateString(LABELS)}, int8s={2: _TENSOR_AXIS_LABELS})
    given = _table(b, {0: b.CreateString(signature.input_name), 3: image_content, 4: _vector(b, [unit])})
    answer = _table(b, {0: b.CreateString(signature.output_name), 3: feature_content, 6: _vector(b, [labels])})
    graph = _table(b, {2: _vector(b, [given]), 3: _vector(b, [answer])})
    own = _table(b, {0: b.CreateString(EXTRA_FILE)}, int8s={2: _DESCRIPTIONS})
    root = _table(
        b,
        {
            0: b.CreateString(metadata.name),
            1: b.CreateString(f"image classifier, {metadata.precision}"),
            3: _vector(b, [graph]),
            6: _vector(b, [own]),
            7: b.CreateString("1.0.0"),
        },
    )
    b.Finish(root, b"M001")
    return bytes(b.Output())


def appended_files(metadata: Metadata, *, offset: int) -> bytes:
    """Return the zip archive that follows a model of ``offset`` bytes; its bytes depend on the metadata alone."""
    stream = BytesIO(bytes(offset))
    with zipfile.ZipFile(stream, "a") as archive:
        for name, text in ((LABELS, "\n".join(metadata.signature.labels)), (EXTRA_FILE, metadata_text(metadata))):
            archive.writestr(zipfile.ZipInfo(name, _DATE), text)
    return stream.getvalue()[offset:]


def _table(
    b: Any,
    offsets: Mapping[int, int],
    *,
    int8s: Mapping[int, int] | None = None,
    uint8s: Mapping[int, int] | None = None,
) -> int:
    """Write a table: slot → offset of a string, vector or table; and slot → number."""
    int8s, uint8s = int8s or {}, uint8s or {}
    b.StartObject(1 + max((*offsets, *int8s, *uint8s), default=0))
    for slot, offset in offsets.items():
        b.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in int8s.items():
        b.PrependInt8Slot(slot, value, 0)
    for slot, value in uint8s.items():
        b.PrependUint8Slot(slot, value, 0)
    return int(b.EndObject())


def _vector(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _floats(b: Any, values: list[float]) -> int:
    b.StartVector(4, len(values), 4)
    for value in reversed(values):
        b.PrependFloat32(value)
    return int(b.EndVector())
