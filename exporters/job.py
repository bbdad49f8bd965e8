"""What the exporting process and its workers tell each other, in files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from exporters.formats.contract import ExportOptions, Plan, Product
from udacisense.base.records import ModelSpec, Outcome, Signature, record

MODEL = "model.safetensors"
IMAGES = "images.safetensors"  # golden_inputs, golden_logits: float32; calibration, where there are photos: uint8
GOLDEN = "golden"
KEPT = "reference"  # recipes that its files hold


@record
class Job:
    """``job.json``: one format of one model."""

    schema_version: Literal[1]
    format: str  # row of exporters.formats.table.FORMATS
    plans: tuple[Plan, ...]
    options: ExportOptions
    name: str
    model: ModelSpec
    signature: Signature
    temperature: float
    artifact_sha256: str
    shared: str  # absolute folder with MODEL and IMAGES
    calibrates: str | None = None  # engine whose recipe is to be made, before any plan

    FILE_NAME: ClassVar[str] = "job.json"


@record
class VariantResult:
    """``<plan id>.json``: what became of one plan."""

    outcome: Outcome
    reason: str | None
    product: Product | None  # of a passed one
    has_golden: bool  # golden/<plan id>.f32 was written
    duration_s: float


def result_path(folder: Path, plan: Plan) -> Path:
    """Return where a worker leaves its answer."""
    return folder / f"{plan.id}.json"


def started_path(folder: Path, plan: Plan) -> Path:
    """Return the file that tells which plan a worker was at when it ended."""
    return folder / f"{plan.id}.started"
