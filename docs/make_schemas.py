"""Write the JSON Schemas of the records that other programs read, from the types themselves.

Run as ``python docs/make_schemas.py``; a test holds ``docs/schemas/`` against :func:`schemas`.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from exporters.bundle.manifest import Manifest
from harness.device.contract import OrderFailure
from harness.device.rollout import Rollout
from harness.gate.run import GateReport
from harness.records import BenchSet, MeasurementSet
from harness.verify.locate.job import Found
from udacisense.base.records import Artifact
from udacisense.measure.cascade import Cascade
from udacisense.measure.metrics import Evaluation
from udacisense.pipeline.run import RunRecord
from udacisense.pipeline.search.record import SearchRecord
from udacisense.pipeline.techniques import TechniquesRecord

FOLDER = Path(__file__).parent / "schemas"
RECORDS = {
    "artifact": Artifact,
    "bench": BenchSet,
    "cascade": Cascade,
    "evaluation": Evaluation,
    "gate": GateReport,
    "located": Found,
    "manifest": Manifest,
    "measurements": MeasurementSet,
    "order-failure": OrderFailure,
    "result": RunRecord,
    "rollout": Rollout,
    "search": SearchRecord,
    "techniques": TechniquesRecord,
}


def schemas() -> dict[str, str]:
    """Return file name → JSON Schema text."""
    return {
        f"{name}.schema.json": json.dumps(TypeAdapter(record).json_schema(), indent=2) + "\n"
        for name, record in RECORDS.items()
    }


if __name__ == "__main__":
    for file_name, text in schemas().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
