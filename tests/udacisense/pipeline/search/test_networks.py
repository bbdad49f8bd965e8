"""The space that a search draws from, and what a network costs before it is trained."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from udacisense.base.records import read_json
from udacisense.errors import InputError
from udacisense.measure.counts import count_parameters
from udacisense.models.blocks import parse_blocks
from udacisense.models.build import PRESETS, build_model, preset
from udacisense.pipeline.search.cost import FACTORS, PARTS, Cost, Limits, cost_of, work_by_part
from udacisense.pipeline.search.space import FAMILIES, Family, Task, student_options
from udacisense.pipeline.search.storage import open_storage, open_study

TASK = Task(num_classes=3, size_px=32)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda row: row.name)
def test_every_network_of_a_family_is_built_and_answers(family: Family) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(6):
        spec = family.draw(study.ask(), TASK)
        assert build_model(spec).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
        chosen = dict(zip(*[iter(student_options(spec))] * 2, strict=True))
        again = preset(
            chosen["--student"],
            num_classes=3,
            resolution_px=int(chosen["--resolution"]),
            width_mult=float(width.partition("=")[2]) if (width := chosen.get("--student-option")) else None,
        )
        assert again == spec, "what compress is told builds the same network"


def test_the_search_begins_with_the_network_that_ships() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"resolution_px": 32, **FAMILIES["blocks"].first})
    drawn = FAMILIES["blocks"].draw(study.ask(), Task(num_classes=10, size_px=32))
    shipped = PRESETS["p2-student"]
    assert parse_blocks(str(drawn.options["blocks"])) == parse_blocks(str(shipped.options["blocks"]))


def test_a_cost_is_that_of_the_network() -> None:
    cost = cost_of(PRESETS["p2-student"], (1, 3, 32, 32))
    assert cost.parameters == count_parameters(build_model(PRESETS["p2-student"])) == 40418
    assert cost.file_bytes == pytest.approx(152_000, rel=0.03)  # the pipeline's final.pt
    assert cost.arm_instructions == pytest.approx(7.10e6, rel=0.1)  # counted: docs/results.md


def test_estimates_are_those_of_counted_networks(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "tests" / "campaigns")
    campaign = importlib.import_module("instructions_fit")
    kept = read_json(campaign.CountedNetworks, repository / "tests" / "campaigns" / "instructions.json")
    assert campaign.fit(kept.networks) == pytest.approx([FACTORS[part] for part in PARTS], rel=1e-2)
    found = [
        float(np.dot(list(FACTORS.values()), work_by_part(build_model(row.model), (1, 3, 32, 32))))
        / row.arm_instructions
        for row in kept.networks
    ]
    errors = np.abs(np.array(found) - 1)
    assert np.median(errors) < 0.03
    assert errors.max() < 0.17


def test_limits_name_what_is_broken() -> None:
    cost = Cost(parameters=50_000, file_bytes=200_000, macs=1, arm_instructions=17_000_000)
    free = Limits(parameters=None, file_bytes=None, arm_instructions=None)
    assert free.broken(cost) is None
    assert Limits(parameters=50_000, file_bytes=None, arm_instructions=None).broken(cost) is None
    assert (
        Limits(parameters=42_000, file_bytes=1, arm_instructions=1).broken(cost) == "50,000 parameters, at most 42,000"
    )
    tight = Limits(parameters=None, file_bytes=170_000, arm_instructions=16_000_000)
    assert tight.broken(cost) == "200,000 bytes, at most 170,000"


def test_a_line_of_blocks_is_a_preset() -> None:
    spec = preset("c16 i20x4s2 p64", num_classes=3, resolution_px=24)
    assert (spec.options["blocks"], spec.options["resolution_px"]) == ("c16 i20x4s2 p64", 24)
    with pytest.raises(InputError, match="no preset and no line of blocks: the block 'z9' cannot be read"):
        preset("c16 z9")


def test_a_study_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="place is empty"):
        open_storage(" ", tmp_path, wait_s=0)


@pytest.mark.parametrize(
    "text",
    ["{\n{}\n", "a note", "no journal\n", "no journal\nat all\n", "[]\n[]\n", '{"op_code": 0}\n{"op_code": 1}\n'],
)
def test_a_damaged_journal_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.journal").write_text(text)
    with pytest.raises(InputError, match=r"study\.journal is damaged or no journal"):
        open_storage(None, tmp_path, wait_s=0.0)


def test_a_line_that_a_dead_worker_left_half_written_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path("runs") / "a.journal"
    first = open_study(open_storage(str(place), tmp_path, wait_s=0.0), "search", {"seed": 0})
    first.tell(first.ask(), 0.5)
    with place.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    second = open_study(open_storage(str(place), tmp_path, wait_s=0.0), "search", {"seed": 0})
    second.tell(second.ask(), 0.4)
    third = open_study(open_storage(str(place), tmp_path, wait_s=0.0), "search", {"seed": 0})
    assert [trial.value for trial in third.trials] == [0.5, 0.4]
