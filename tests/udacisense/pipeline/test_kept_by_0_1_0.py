"""Steps that 0.1.0 kept are found again: their fingerprints, computed by that release, are still those of today."""

from __future__ import annotations

import pytest

from udacisense.measure.recording import record_stage
from udacisense.pipeline.recipes import find_pipeline
from udacisense.pipeline.store import fingerprint_step

BASELINE = "517d75aabdcedd2ac063352ee0670005c38b1181ca4d9b7e87c356cb1d223cc1"
STEPS = {
    ("p1", "default", "distill"): "d4de8ddda19b8080c8898d6e183ea840d17f744e5fdaf4c82e110f533a03ecc3",
    ("p1", "default", "static-int8"): "1380efa1515cd233348c05c07923dc399b4a5d0466f8166030368cdf68c0898e",
    ("p1", "default", "graph"): "f2bc213a8a10cf45e6765db647cbdce28175ff313c933f2b73cce9e0081ca595",
    ("p1", "report", "distill"): "c27632db6608b2f895d5124fff57c8741a5fe423c22d552097c578b41500849a",
    ("p1", "report", "dynamic-int8"): "d56d3d4b7e31c67c803d6c95ebc99379c608f964c8a13f8c02b8ca07b801580f",
    ("p2", "report", "distill"): "411d974dac11f889a606c9cd349f1f9d5e57919fdde9572a21e6da362a570cea",
}


def test_the_baselines_figures_are_not_measured_again() -> None:
    assert fingerprint_step("baseline", record_stage, {}, inputs="before") == BASELINE


@pytest.mark.parametrize(("pipeline", "preset", "step"), STEPS)
def test_a_finished_step_is_not_trained_again(pipeline: str, preset: str, step: str) -> None:
    found = {s.name: s for s in find_pipeline(pipeline, preset=preset).steps}[step]
    made = fingerprint_step(found.name, found.function, found.options, inputs="before")
    assert made == STEPS[pipeline, preset, step]
