from __future__ import annotations

from pathlib import Path

import pytest
from training_cases import CLASSES, dataset, small_baseline

from harness.report.plots.techniques import write_plots
from harness.report.techniques import as_markdown, per_class_table, techniques_table
from udacisense.base.records import read_json
from udacisense.base.tensors import supported_engines
from udacisense.errors import InputError
from udacisense.pipeline.start import PipelineOptions
from udacisense.pipeline.techniques import TECHNIQUES, TechniquesRecord, find_techniques, run_techniques

pytestmark = pytest.mark.slow

NAMES = ("dynamic-int8", "graph", "pruning-one-shot", "pruning-gradual")

OPTIONS = PipelineOptions(epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_baseline(tmp_path_factory.mktemp("techniques") / "artifact")


@pytest.fixture(scope="module")
def found(artifact: Path) -> tuple[TechniquesRecord, Path]:
    output = artifact.parent / "out"
    (record,) = run_techniques(artifact, dataset(), output_dir=output, names=NAMES, options=OPTIONS)
    return record, output


def test_each_technique_is_measured_against_the_same_baseline(found: tuple[TechniquesRecord, Path]) -> None:
    record, output = found
    assert tuple(result.name for result in record.results) == NAMES
    by_name = {result.name: result for result in record.results}
    assert by_name["dynamic-int8"].figures.file_bytes < record.baseline.file_bytes
    assert by_name["pruning-one-shot"].figures.nonzero_parameters < record.baseline.parameters
    assert by_name["pruning-one-shot"].figures.file_bytes >= 0.95 * record.baseline.file_bytes  # zeros do not shrink it
    assert by_name["graph"].mcnemar_p == 1.0  # the same answers
    assert by_name["graph"].macs is None
    assert sum(map(sum, by_name["graph"].confusion)) == record.baseline.n_eval_images
    assert read_json(TechniquesRecord, output / TechniquesRecord.FILE_NAME) == record


def test_a_second_run_takes_what_is_finished(found: tuple[TechniquesRecord, Path], artifact: Path) -> None:
    record, output = found
    (again,) = run_techniques(artifact, dataset(), output_dir=output, names=NAMES, options=OPTIONS)
    assert [r.figures for r in again.results] == [r.figures for r in record.results]


def test_tables_and_plots_say_it(found: tuple[TechniquesRecord, Path]) -> None:
    record, output = found
    table = techniques_table(record)
    assert [row[0] for row in table.rows] == ["baseline", *NAMES]
    assert any("gzip" in note for note in table.notes)
    assert len(per_class_table(record).rows) == len(CLASSES)
    assert as_markdown(table).count("\n|") == len(NAMES) + 3
    names = {path.name for path in write_plots(record, output)}
    assert {"pareto.svg", "confusion-baseline.svg", "confusion-graph.svg"} <= names
    assert all((output / name).read_text(encoding="utf-8").lstrip().startswith("<?xml") for name in names)


def test_what_cannot_be_run_is_refused(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'graph'"):
        find_techniques(["grahp"])
    assert len(find_techniques([])) == len(TECHNIQUES)
    if "qnnpack" in supported_engines():
        row = TECHNIQUES["qat-qnnpack"]
        assert row.engine == "qnnpack"
    other = dataset()
    strange = type(other)(other.name, ("a", "b", "c"), other.train, other.test, "x")
    with pytest.raises(InputError, match="other classes"):
        run_techniques(artifact, strange, output_dir=tmp_path, names=["graph"])
