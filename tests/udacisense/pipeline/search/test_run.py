from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_cases import dataset, small_baseline

from harness.report.chapters.search import search_chapter, search_markdown
from harness.report.collect import collect
from harness.report.plots.search import front
from udacisense.base.records import read_json
from udacisense.errors import InputError
from udacisense.pipeline.search.cost import Limits
from udacisense.pipeline.search.place import Place
from udacisense.pipeline.search.record import SearchRecord
from udacisense.pipeline.search.run import SearchOptions, first_rung, run_search

pytestmark = pytest.mark.slow

LIMITS = Limits(parameters=60_000, file_bytes=None, arm_instructions=16_000_000)
OPTIONS = SearchOptions(limits=LIMITS, trials=4, finalists=1, epochs=3, final_epochs=1, seeds=(0, 1), batch_size=16)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_baseline(tmp_path_factory.mktemp("search") / "artifact")


@pytest.fixture(scope="module")
def found(baseline: Path) -> tuple[SearchRecord, Path]:
    output = baseline.parent / "out"
    return run_search(baseline, dataset(), output_dir=output, options=OPTIONS), output


def test_a_search_trains_within_limits_and_the_best_at_full_length(found: tuple[SearchRecord, Path]) -> None:
    record, output = found
    assert len(record.tried) == 4
    assert all(LIMITS.broken(row.cost) is None for row in record.tried)
    whole = [row for row in record.tried if row.outcome == "finished"]
    assert whole
    assert all(row.epochs == 3 for row in whole)
    best = min(whole, key=lambda row: row.validation_loss or 0.0)
    assert [(row.trial, row.seed) for row in record.finalists] == [(best.trial, 0), (best.trial, 1)]
    assert record.best == best
    assert read_json(SearchRecord, output / "search.json") == record
    assert (output / "finalists" / f"network-{best.trial:04d}-seed-1" / "artifact" / "artifact.json").is_file()
    assert not list((output / "trials").glob("*/checkpoint.safetensors")), "what is told needs no checkpoint"


def test_the_same_command_again_trains_nothing(
    found: tuple[SearchRecord, Path], baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("it trained")

    monkeypatch.setattr("udacisense.stages.distill.train", never)
    assert run_search(baseline, dataset(), output_dir=found[1], options=OPTIONS) == found[0]


def test_the_report_shows_the_front(found: tuple[SearchRecord, Path]) -> None:
    record, output = found
    line = front([row for row in record.tried if row.outcome == "finished"])
    assert record.best in line
    assert [row.cost.arm_instructions for row in line] == sorted(row.cost.arm_instructions for row in line)
    chapter = search_chapter(collect([output]))
    assert chapter.blocks
    text = search_markdown(record)
    assert all(f"{row.validation_loss:.4f}" in text for row in record.finalists)
    assert "4 networks were trained" in text


def test_an_interrupted_search_goes_on_from_the_last_epoch(
    found: tuple[SearchRecord, Path], baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import udacisense.stages.distill as stage

    real, begun = stage.train, []

    def interrupted(*args: Any, **options: Any) -> Any:
        def stop(epoch: Any) -> None:
            tell(epoch)
            begun.append(epoch.epoch)
            if len(begun) == 2:
                raise KeyboardInterrupt

        tell = options.pop("after_epoch")
        return real(*args, after_epoch=stop if tell else None, **options)

    monkeypatch.setattr(stage, "train", interrupted)
    options = SearchOptions(limits=LIMITS, trials=1, finalists=1, epochs=3, final_epochs=1, batch_size=16)
    with pytest.raises(KeyboardInterrupt):
        run_search(baseline, dataset(), output_dir=tmp_path, options=options)
    record = run_search(baseline, dataset(), output_dir=tmp_path, options=options)
    assert begun == [1, 2, 3]
    assert (record.tried[0].epochs, len(record.tried)) == (3, 1)
    assert record.tried[0].validation_loss == found[0].tried[0].validation_loss, "as without the interruption"


def test_another_task_on_the_same_study_is_refused(found: tuple[SearchRecord, Path], baseline: Path) -> None:
    place = Place(study=str(found[1] / "study.journal"))
    other = SearchOptions(limits=LIMITS, trials=4, epochs=2, batch_size=16, place=place)
    with pytest.raises(InputError, match=r"another task, with epochs = 3 \(now 2\)"):
        run_search(baseline, dataset(), output_dir=found[1] / "other", options=other)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"trials": 0}, "trials is 0"), ({"family": "blocs"}, "Did you mean 'blocks'"), ({"epochs": 0}, "epochs is 0")],
)
def test_options_that_make_no_sense_are_refused(
    baseline: Path, tmp_path: Path, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(InputError, match=word):
        run_search(baseline, dataset(), output_dir=tmp_path / "out", options=SearchOptions(**options))
    assert not (tmp_path / "out").exists()


def test_halving_begins_where_a_loss_says_something() -> None:
    assert [first_rung(epochs) for epochs in (1, 3, 6, 9, 27, 81)] == [1, 1, 2, 3, 3, 3]
