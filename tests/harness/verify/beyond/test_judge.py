"""Other things and shifted photos: taken and lost as counted by hand, and through a real verification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exporters.bundle.open import open_bundle
from harness.inputs import InputSet
from harness.report.plots.accuracy import shift_heats
from harness.report.tables import beyond_table
from harness.verify.beyond.certainty import believe
from harness.verify.beyond.inputs import make_beyond, read_unknown
from harness.verify.beyond.judge import judge_shifts, judge_unknown
from harness.verify.options import VerifyOptions
from harness.verify.run import verify_bundle
from udacisense.base.records import Confidence, Outcome
from udacisense.data.images import DataSet
from udacisense.errors import InputError


def test_other_things_are_taken_where_their_margin_reaches_the_threshold() -> None:
    outputs = np.log(np.asarray([(0.6, 0.3, 0.1), (0.5, 0.45, 0.05), (0.9, 0.05, 0.05), (0.4, 0.3, 0.3)]))
    fitted = Confidence(temperature=1.0, rule="margin", unsure_below=0.2, n_images=9)
    by = (believe(one.astype(np.float32), "logits", fitted) for one in (outputs, np.zeros((4, 3))))
    found = judge_unknown(*(one.is_given for one in by))
    assert (found.n_images, found.taken_fraction, found.reference_taken_fraction) == (4, 0.5, 0.0)
    assert found.taken_low < 0.5 < found.taken_high


def answers(right: np.ndarray) -> np.ndarray:
    """Logits of two classes that are right (class 0) where told."""
    return np.stack([right, ~right], axis=-1).astype(np.float32).reshape(-1, 2)


def test_a_loss_that_is_larger_under_shift_is_told_with_its_interval() -> None:
    n, labels = 40, np.zeros(40, dtype=np.int64)
    master = np.ones((7, 5, n), dtype=bool)
    own = master.copy()
    own[:, 2:, : n // 2] = False  # severities 3 to 5 of half the images
    clean = answers(np.ones(n, dtype=bool)), answers(np.ones(n, dtype=bool))
    found = judge_shifts(answers(own), answers(master), labels, clean=clean)
    assert found.lost_points == pytest.approx(100 * 0.6 * 0.5)
    assert (found.clean_lost_points, found.more_points) == (0.0, pytest.approx(30.0))
    assert 0 < found.more_low < 30 < found.more_high
    assert found.accuracy[0].top1_fractions == (1.0, 1.0, 0.5, 0.5, 0.5)
    same = judge_shifts(answers(own), answers(own), labels, clean=clean)
    assert (same.more_points, same.more_low, same.more_high) == (0.0, 0.0, 0.0)


def test_a_bundle_is_verified_on_other_things_and_shifted_photos(small_bundle: Path, drawn_dataset: DataSet) -> None:
    unknown = drawn_dataset.train.pixels[:20].numpy()
    options = VerifyOptions(
        dataset=drawn_dataset, unknown=unknown, is_shifted=True, variants=("ptl-fp32",), runners=("lite",)
    )
    measured = verify_bundle(open_bundle(small_bundle), options)
    (cell,) = measured.measurements
    assert cell.outcome is Outcome.PASSED
    assert cell.comparison is not None
    u, s = cell.comparison.unknown, cell.comparison.shifts
    assert u is not None
    assert s is not None
    assert (u.n_images, u.taken_fraction, u.reference_taken_fraction) == (20, 1.0, 1.0)  # no threshold was fitted
    assert s.n_images == 200
    assert s.accuracy == s.reference_accuracy
    assert s.lost_points == s.more_points == 0.0
    table = beyond_table(measured)
    assert table is not None
    assert table.rows[0][0] == "ptl-fp32"
    by_cell, by_severity = shift_heats(measured)
    assert [name for name, _ in by_cell.rows] == ["float32 master", "ptl-fp32 on lite"]
    assert [name for name, _ in by_severity.rows] == ["1", "2", "3", "4", "5"]


def test_what_cannot_be_fed_is_refused(tmp_path: Path) -> None:
    drawn = InputSet("drawn", np.zeros((2, 3, 8, 8), dtype=np.uint8), None)
    with pytest.raises(InputError, match="--shift needs labelled photos"):
        make_beyond(drawn, unknown=None, is_shifted=True)
    with pytest.raises(InputError, match="is no folder; give --unknown"):
        read_unknown(tmp_path / "nothing", 32)
    with pytest.raises(InputError, match="holds no images"):
        read_unknown(tmp_path, 32)
    (tmp_path / "deeper").mkdir()
    Image.new("RGB", (60, 40), "red").save(tmp_path / "deeper" / "a.png")
    found = read_unknown(tmp_path, 32)
    assert found.shape == (1, 3, 32, 32)
    assert found[0, :, 5, 5].tolist() == [255, 0, 0]
