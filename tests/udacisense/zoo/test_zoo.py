"""The models that ship: whole, small, described, and as good as their records say."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from udacisense.data.batches import Batches
from udacisense.data.images import HOUSEHOLD_CLASSES, load_dataset
from udacisense.measure.counts import count_parameters
from udacisense.measure.metrics import evaluate
from udacisense.models.artifact import load_artifact
from udacisense.models.cascade import load_cascade
from udacisense.zoo.table import CASCADES, ZOO, resolve_artifact, zoo_folder

PARAMETERS = {"baseline": 1_528_106, "p1": 1_077_290, "tiny": 40_418}


@pytest.mark.parametrize("name", ZOO)
def test_a_model_is_loaded_by_its_name(name: str) -> None:
    artifact, model = load_artifact(Path(name))
    assert count_parameters(model) == PARAMETERS[name]
    assert artifact.signature.labels == HOUSEHOLD_CLASSES


@pytest.mark.parametrize("name", ZOO)
def test_its_records_bear_its_name(name: str) -> None:
    for record in ("artifact.json", "result.json"):
        if (path := zoo_folder(name) / record).is_file():
            assert json.loads(path.read_text(encoding="utf-8"))["name"] == name, path


def test_a_folder_of_the_users_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_artifact(Path("tiny")) == zoo_folder("tiny")
    Path("tiny").mkdir()
    assert resolve_artifact(Path("tiny")) == Path("tiny")


def test_a_folder_of_the_users_own_is_no_member_of_a_cascade_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p1").mkdir()
    _, places = load_cascade(Path("cascade"))
    assert places == (zoo_folder("tiny"), zoo_folder("p1"))


def test_all_of_them_stay_under_17_mb() -> None:
    files = [f for name in ZOO for f in zoo_folder(name).iterdir()]
    assert sum(f.stat().st_size for f in files) < 17_000_000


@pytest.mark.parametrize("name", ZOO)
def test_the_card_has_the_records_figures_and_the_command(name: str) -> None:
    card = (zoo_folder(name) / "CARD.md").read_text(encoding="utf-8")
    record = json.loads((zoo_folder(name) / "artifact.json").read_text(encoding="utf-8"))
    distilled = [stage for stage in record["stages"] if stage["stage"] == "distill"]
    top1 = (distilled[0] if distilled else record["baseline"])["top1_fraction"]
    assert f"{100 * top1:.1f} %" in card
    for heading in ("## Data", "## Recipe", "## Figures", "## Limits"):
        assert heading in card
    assert "udacisense " in card


@pytest.mark.parametrize("name", CASCADES)
def test_a_cascade_is_of_models_that_ship_and_its_card_has_its_figures(name: str) -> None:
    record, places = load_cascade(Path(name))
    card = (zoo_folder(name) / "CARD.md").read_text(encoding="utf-8")
    assert record.name == name
    assert [place for place in places if place.parent != zoo_folder(name).parent] == []
    assert not list(zoo_folder(name).glob("*.safetensors"))
    for figure in (record.test.top1_fraction, record.test.asked_fraction, *(m.top1_fraction for m in record.members)):
        assert f"{100 * figure.value:.1f} %" in card
    assert f"{record.members[0].threshold:g} above" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_it_is_as_good_as_its_record_says(name: str, household: Path) -> None:
    artifact, model = load_artifact(Path(name))
    dataset = load_dataset(str(household))
    found = evaluate(model, Batches(dataset.test, batch_size=50), dataset.class_names)
    distilled = [stage for stage in artifact.stages if stage.stage == "distill"]
    recorded = (distilled[0] if distilled else artifact.baseline).top1_fraction
    assert found.top1_fraction == pytest.approx(recorded, abs=0.003)


# Stands for the program: keeps each command's words, and leaves what a run would.
RECORDER = """#!/bin/sh
printf '%s\\n' "$*" >> "$COMMANDS"
while [ "$1" != -o ]; do shift; done
mkdir -p "$2/artifact" "$2/reference"
for engine in fbgemm qnnpack; do touch "$2/reference/torchscript-int8-static-$engine.safetensors"; done
for record in artifact/artifact.json result.json; do echo '  "name": "p2"' > "$2/$record"; done
"""


def run_script(folder: Path, given: Sequence[str] = (), **environment: str) -> list[list[str]]:
    """Run the training script; return its commands."""
    recorder = folder / "bin" / "udacisense"
    recorder.parent.mkdir(parents=True)
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    names = ("DATA", "REST", "TEACHER", "GENERAL", "INIT_224", "INIT_128")
    env = {"PATH": f"{recorder.parent}:{os.environ['PATH']}", "COMMANDS": str(folder / "commands"), **environment}
    script = zoo_folder("baseline").parent / "train.sh"
    env |= {name: name.lower() for name in names}
    subprocess.run([script, folder / "out", *given], env=env, check=True, timeout=60)
    return [line.split() for line in (folder / "commands").read_text().splitlines()]


@pytest.mark.parametrize("environment", [{}, {"FAST": "1"}, {"DRY": "--dry-run"}], ids=str)
def test_the_training_script_gives_commands_that_there_are(tmp_path: Path, environment: dict[str, str]) -> None:
    commands = run_script(tmp_path, ["--precision", "bf16"], **environment)
    pipelines = ["p2", "p2-int8"] * (1 if "FAST" in environment else 3)
    found = []
    for name, *words in commands:
        command = importlib.import_module(f"udacisense.cli.{name}").command
        asked = command.make_context(name, words).params
        if name in ("export", "cascade"):
            continue
        found.append(asked.get("pipeline", asked.get("preset")))
        assert (asked["epochs"], asked["views"]) == (1, 1) or "FAST" not in environment
        assert asked["precision"] == "bf16"
        assert asked["dry_run"] == ("DRY" in environment)
    assert found == ["baseline", "p1", *pipelines]
    assert (commands[-1][0] == "cascade") == ("DRY" not in environment)


def test_the_training_script_leaves_what_ships(tmp_path: Path) -> None:
    run_script(tmp_path, FAST="1")
    for name in ZOO:
        assert (tmp_path / "out" / "zoo" / name / "artifact.json").is_file()
        assert (tmp_path / "out" / "zoo" / name / "static-int8-qnnpack.safetensors").is_file()
    assert '"tiny"' in (tmp_path / "out" / "zoo" / "tiny" / "result.json").read_text()
    assert (tmp_path / "out" / "p2-int8-0" / "artifact").is_dir()
    assert not (tmp_path / "out" / "p2-int8-0" / "p2-0").exists()
