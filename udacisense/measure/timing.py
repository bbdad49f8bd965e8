"""Timing of one callable: warm-up, batches of calls, three stop conditions, raw samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from udacisense.errors import InputError

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Samples:
    """What :func:`collect_samples` measured; nothing is clipped or dropped."""

    first_ms: float  # the very first call, before any warm-up
    samples_ms: tuple[float, ...]  # per call, in the order measured
    calls_per_sample: int


def collect_samples(
    call: Callable[[], object],
    *,
    warmup: int,
    min_samples: int,
    min_s: float,
    max_s: float,
    min_sample_ms: float = 1.0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Samples:
    """Call ``call`` until there are enough samples.

    The first call is timed apart; ``warmup`` more follow untimed (fewer where they take longer than ``max_s``).
    Where a call is shorter than ``min_sample_ms``, a sample is a batch of calls that lasts at least that long when
    it is calibrated, so that reading the clock costs a negligible part of it (the method of pyperf's ``calibrate``).
    Sampling ends when ``min_samples`` and ``min_s`` are both reached, or when ``max_s`` is, and never before the
    first sample.

    Args:
        call: the work; its result is dropped.
        warmup: untimed calls after the first.
        min_samples: samples wanted, at least 1.
        min_s: seconds of sampling wanted.
        max_s: seconds after which sampling ends whatever has been reached.
        min_sample_ms: shortest sample in milliseconds.
        clock: returns nanoseconds, never going back.

    Raises:
        InputError: a number is out of range.
    """
    _check(warmup, min_samples, (min_s, max_s), min_sample_ms)
    first_ns = _time_calls(call, 1, clock)
    end = clock() + max_s * _NS_PER_S
    for _ in range(warmup):
        if clock() >= end:
            break
        call()
    calls = _calibrate(call, min_sample_ms * _NS_PER_MS, clock)
    samples_ns: list[int] = []
    start = clock()
    while True:
        samples_ns.append(_time_calls(call, calls, clock))
        elapsed_s = (clock() - start) / _NS_PER_S
        if elapsed_s >= max_s or (len(samples_ns) >= min_samples and elapsed_s >= min_s):
            break
    return Samples(
        first_ms=first_ns / _NS_PER_MS,
        samples_ms=tuple(ns / calls / _NS_PER_MS for ns in samples_ns),
        calls_per_sample=calls,
    )


def _check(warmup: int, min_samples: int, limits_s: tuple[float, float], min_sample_ms: float) -> None:
    min_s, max_s = limits_s
    if warmup < 0 or min_samples < 1 or min_s < 0 or max_s < min_s or min_sample_ms < 0:
        raise InputError(
            f"Timing with warmup {warmup}, min_samples {min_samples}, min_s {min_s:g}, max_s {max_s:g},"
            f" min_sample_ms {min_sample_ms:g} is impossible; warmup and the times are at least 0, min_samples is at"
            " least 1, and max_s is at least min_s."
        )


def _calibrate(call: Callable[[], object], min_ns: float, clock: Callable[[], int]) -> int:
    """Double the calls in a sample until one sample lasts at least ``min_ns``."""
    calls = 1
    while _time_calls(call, calls, clock) < min_ns:
        calls *= 2
    return calls


def _time_calls(call: Callable[[], object], calls: int, clock: Callable[[], int]) -> int:
    if calls == 1:
        start = clock()
        call()
        return clock() - start
    repeats = range(calls)
    start = clock()
    for _ in repeats:
        call()
    return clock() - start
