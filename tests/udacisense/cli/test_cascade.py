"""``udacisense cascade`` through the command line: a folder that is whole, and answers for what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from udacisense.base.records import read_json
from udacisense.cli.main import run
from udacisense.data.shapes import draw_dataset
from udacisense.errors import InputError, LoadError
from udacisense.measure.cascade import Cascade
from udacisense.models.cascade import load_cascade


@pytest.fixture(scope="session")
def place(once: Callable[..., Path]) -> Path:
    """Two networks, trained for a moment on drawn shapes, and the cascade of them."""

    def make(folder: Path) -> None:
        draw_dataset(folder / "shapes", train_per_class=20, test_per_class=10, seed=1)
        for name, epochs in (("small", 2), ("large", 6)):
            line = f"train --model tiny --resolution 32 --epochs {epochs} --batch-size 20 --lr 4e-3 --init none"
            assert run([*line.split(), "--data", f"{folder}/shapes", "-o", f"{folder}/{name}"]) == 0
        members = [f"{folder}/{name}/artifact" for name in ("small", "large")]
        line = ["cascade", *members, "--data", f"{folder}/shapes", "--max-asked", "0.5", "-o", f"{folder}/cascade"]
        assert run(line) == 0

    return once("cascade", make)


def test_the_folder_holds_members_thresholds_temperatures_and_the_curve(place: Path) -> None:
    made, places = load_cascade(place / "cascade")
    assert [one.name for one in made.members] == ["tiny", "tiny-2"]
    assert [path.name for path in places] == ["tiny", "tiny-2"]
    assert made.members[0].threshold == made.chosen.thresholds[0]
    assert made.members[1].threshold is None
    assert made.chosen in made.curve
    assert made.chosen.asked_fraction.value <= 0.5
    assert (made.n_held_back, made.n_test, made.wish.max_points_lost) == (20, 100, None)
    assert all(one.confidence.n_images == 20 for one in made.members)
    assert not [note for note in made.notes if "nothing shows" in note]  # 'train' kept each temperature


def test_a_cascade_of_models_that_ship_keeps_their_names_alone(place: Path, tmp_path: Path) -> None:
    shapes = f"{place}/shapes"
    assert run(["cascade", "tiny", "p1", "--data", shapes, "-o", str(tmp_path / "out")]) == 2  # other classes
    assert not (tmp_path / "out").exists()


def test_a_changed_member_and_a_foreign_place_are_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "cascade", tmp_path / "c")
    record = tmp_path / "c" / Cascade.FILE_NAME
    text = record.read_text()
    record.write_text(text.replace("members/tiny-2", "../elsewhere"))
    with pytest.raises(InputError, match="or lies in members/ under its name"):
        load_cascade(tmp_path / "c")
    record.write_text(text)
    shutil.copytree(place / "large" / "artifact", tmp_path / "c" / "members" / "tiny", dirs_exist_ok=True)
    with pytest.raises(LoadError, match="The weights of tiny are not those that the cascade"):
        load_cascade(tmp_path / "c")


def test_a_wish_that_nothing_fulfils_leaves_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [f"{place}/{name}/artifact" for name in ("small", "large")]
    line = ["cascade", *members, "--data", f"{place}/shapes", "-o", str(tmp_path / "out")]
    assert run([*line, "--max-mean-ms", "0.000001"]) == 2
    assert "No thresholds fulfil the wish." in capsys.readouterr().err
    assert run([*line, "--max-asked", "30"]) == 2
    assert run([line[0], line[1], *line[3:]]) == 2
    assert "A cascade has 2 to 3 members" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_model_of_a_cascade_is_asked_for_where_one_is_meant(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", f"{place}/cascade", "--data", f"{place}/shapes"]) == 2
    assert "is a cascade of several models" in capsys.readouterr().err
    assert read_json(Cascade, place / "cascade" / Cascade.FILE_NAME).name == "cascade"
