from __future__ import annotations

import numpy as np
import pytest

from harness.verify.answers import _check_alone
from harness.verify.compare import FloatArray
from udacisense.errors import InferenceError

ALONE = np.asarray([[0, 1, 4], [3, 0, 1]], np.float32)


def check(first: FloatArray, again: FloatArray) -> None:
    _check_alone(first, np.concatenate([first, again]), np.arange(len(first)), 50)


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e9])
def test_answers_that_differ_from_call_to_call_are_no_rounding_whatever_their_size(size: float) -> None:
    answers = ALONE * np.float32(size)
    check(answers, answers * np.float32(1 + 1e-6))
    with pytest.raises(InferenceError, match="differ from call to call"):
        check(answers, answers[:, ::-1].copy())


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e9])
def test_a_small_difference_beside_others_is_not_blamed_on_the_batch_alone(size: float) -> None:
    alone = ALONE * np.float32(size)
    for factor, cause in ((1.005, "enlarges float32's own rounding does so"), (1.05, "depends on the other images")):
        with pytest.raises(InferenceError, match=cause):
            _check_alone(alone * np.float32(factor), np.concatenate([alone, alone]), np.arange(len(alone)), 50)
