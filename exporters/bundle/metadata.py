"""What every exported file says about itself, as JSON under the key ``udacisense``."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from exporters.bundle.manifest import Precision
from udacisense.base.files import METADATA_KEY, ZIP_ERRORS
from udacisense.base.records import Signature, from_json, record, to_json
from udacisense.errors import LoadError

EXTRA_FILE = f"{METADATA_KEY}.json"  # name within TorchScript's ``_extra_files``


@record
class Metadata:
    """Enough to feed the file and to read its answer, without the bundle."""

    schema_version: Literal[1]
    variant_id: str
    name: str  # of the model
    precision: Precision
    engine: str | None
    input_kind: Literal["normalized", "pixels"]
    output_kind: Literal["logits", "probabilities"]
    batch: int | None  # None: dynamic
    artifact_sha256: str
    signature: Signature


def metadata_text(metadata: Metadata) -> str:
    """Return the JSON on one line."""
    return json.dumps(json.loads(to_json(metadata)), ensure_ascii=False, separators=(",", ":"))


def read_extra_file(path: Path) -> Metadata | None:
    """Read what a ``.pt``, ``.ptl`` or ``.tflite`` says of itself, nothing loaded; None where another tool wrote it.

    Raises:
        LoadError: the file is no zip archive, nor followed by one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if f"/{name}".endswith(f"/{EXTRA_FILE}")]
            text = archive.read(found[0]) if found else None
    except ZIP_ERRORS as exc:
        raise LoadError(f"{path} is no whole file ({exc}); it may be cut short: export or copy it again.") from exc
    return None if text is None else from_json(Metadata, text, source=f"the metadata in {path}")


def metadata_in(entries: Mapping[str, str], path: Path) -> Metadata | None:
    """Return what a file says about itself among the metadata that its format has, None where it says nothing.

    Raises:
        LoadError: what it says is no such record.
    """
    text = entries.get(METADATA_KEY)
    return None if text is None else from_json(Metadata, text, source=f"the metadata in {path}")
