"""Ways to damage a bundle, and to make its manifest say that all is well."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from exporters.bundle.manifest import FileRecord, Manifest
from udacisense.base.files import sha256_file, sha256_path, size_bytes
from udacisense.base.records import read_json, write_record


def copied(bundle: Path, target: Path) -> Path:
    shutil.copytree(bundle, target)
    return target


def rehash(bundle: Path) -> None:
    """Record the files as they are now: what a faulty exporter would have written, not what a bad copy leaves."""
    manifest = read_json(Manifest, bundle / Manifest.FILE_NAME)
    files = tuple(
        FileRecord(path=p.relative_to(bundle).as_posix(), sha256=sha256_file(p), file_bytes=p.stat().st_size)
        for p in sorted(bundle.rglob("*"))
        if p.is_file() and p.name != Manifest.FILE_NAME
    )
    variants = tuple(
        v
        if v.path is None
        else dataclasses.replace(v, sha256=sha256_path(bundle / v.path), file_bytes=size_bytes(bundle / v.path))
        for v in manifest.variants
    )
    write_record(bundle / Manifest.FILE_NAME, dataclasses.replace(manifest, files=files, variants=variants))


def edit_json(path: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, indent=2) + "\n")


def flip_bit(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << (offset % 8)
    path.write_bytes(bytes(data))
