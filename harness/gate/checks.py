"""The requirements, a function a section: what was measured against its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporters.bundle.manifest import Variant
from harness.gate.config import GateConfig, Rules
from harness.gate.figures import Figures, Timed, join_figures
from harness.records import Check, Measurement
from udacisense.base.records import Outcome
from udacisense.errors import InputError
from udacisense.measure.stats import unpaired_ratio


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What variants are held to, and against."""

    config: GateConfig
    figures: Mapping[str, Figures]  # of every variant of the bundle
    timed: Timed | None  # None: nothing is said about speed
    past: Mapping[str, Figures] | None  # of an older run


def check_variant(variant: Variant, cells: Sequence[Measurement], standard: Standard) -> Iterator[Check]:
    """Hold one variant against its requirements; ``cells`` are its own of the verification."""
    yield _consistency(variant, cells, is_required=standard.config.is_required(variant.id))
    if variant.outcome is not Outcome.PASSED:
        return
    rules, own, timed = standard.config.rules(variant.id), standard.figures[variant.id], standard.timed
    yield from _accuracy(own, rules)
    yield from _confidence(own, rules)
    yield from _size(own, rules, standard.figures)
    if timed is not None:
        yield from _speed(own, rules, timed.reason(variant.id), what="mean" if variant.path is None else "median")
    if standard.past is not None:
        old = standard.past.get(variant.id) or join_figures(variant.id, [], None, None)
        yield from _worse(own, old, rules)
        if timed is not None:
            yield from _slower(own, old, rules, timed.reason(variant.id))


def _consistency(variant: Variant, cells: Sequence[Measurement], *, is_required: bool) -> Check:
    failed = [m for m in cells if m.outcome is Outcome.FAILED]
    passed = [m for m in cells if m.outcome is Outcome.PASSED]
    skipped = [m for m in cells if m.outcome is Outcome.SKIPPED]
    outcome, reason = Outcome.PASSED, None
    if failed:
        outcome, reason = Outcome.FAILED, "; ".join(f"{_cell(m)}: {m.reason}" for m in failed)
    elif not passed:
        reason = (
            "; ".join(f"{_cell(m)}: {m.reason}" for m in skipped) or f"not verified: {variant.reason or 'left out'}"
        )
        outcome = Outcome.FAILED if is_required else Outcome.SKIPPED
        reason = f"required to pass here, and could not be verified: {reason}" if is_required else reason
    return Check(
        requirement="consistent with its source",
        measured=float(len(failed)) if failed or passed else None,
        limit=0.0,
        unit="failed cells",
        outcome=outcome,
        reason=reason,
    )


def _cell(measurement: Measurement) -> str:
    engine = f" ({measurement.spec.engine})" if measurement.spec.engine else ""
    return f"{measurement.spec.runner}{engine}"


def _accuracy(own: Figures, rules: Rules) -> Iterator[Check]:
    if rules.accuracy.max_drop_points is not None:
        lost = None
        if own.top1_fraction is not None and own.reference_top1_fraction is not None:
            lost = 100 * (own.reference_top1_fraction - own.top1_fraction)
        yield _at_most("top-1 lost to the float32 master", lost, rules.accuracy.max_drop_points, "points", _NO_LABELS)
    if rules.accuracy.min_top1_fraction is not None:
        yield _at_least("top-1", own.top1_fraction, rules.accuracy.min_top1_fraction, "fraction", _NO_LABELS)


def _confidence(own: Figures, rules: Rules) -> Iterator[Check]:
    limits, found = rules.confidence, own.certainty
    if limits.max_moved is not None:
        moved = None if found is None else found.mean_moved
        yield _at_most("confidence moved from the float32 master's", moved, limits.max_moved, "", _NOT_COMPARED)
    if limits.max_calibration_error is not None:
        error = None if found is None else found.calibration_error
        yield _at_most("expected calibration error", error, limits.max_calibration_error, "", _NO_LABELS)
    if limits.min_answered_top1_fraction is not None:
        right = None if found is None else found.answered_top1_fraction
        yield _at_least("top-1 of the answered", right, limits.min_answered_top1_fraction, "fraction", _NO_LABELS)
    if limits.max_unknown_taken_fraction is not None:
        name, most = "other things taken for a class", limits.max_unknown_taken_fraction
        yield _at_most(name, own.unknown_taken_fraction, most, "fraction", _NO_UNKNOWN)
    if rules.shift.max_lost_points is not None:
        name, most = "top-1 lost to the float32 master under shift", rules.shift.max_lost_points
        yield _at_most(name, own.shift_lost_points, most, "points", _NO_SHIFT)


def _size(own: Figures, rules: Rules, figures: Mapping[str, Figures]) -> Iterator[Check]:
    if rules.size.max_bytes is not None:
        yield _at_most("file size", own.file_bytes, rules.size.max_bytes, "bytes", "it has no file")
    if rules.size.min_reduction_percent is None:
        return
    name = rules.size.reference
    if name is None:
        raise InputError("size.min_reduction_percent needs size.reference, the variant to compare with.")
    if name not in figures:
        raise InputError(f"size.reference is '{name}'; the bundle has {', '.join(figures)}.")
    if name == own.variant_id:
        return
    whole = figures[name].file_bytes
    smaller = None if not whole or own.file_bytes is None else 100 * (1 - own.file_bytes / whole)
    reason = f"{name} or it has no file"
    yield _at_least(f"smaller than {name}", smaller, rules.size.min_reduction_percent, "%", reason)


def _speed(own: Figures, rules: Rules, absent: str, *, what: str) -> Iterator[Check]:
    noise = _NOISE if own.noisy else None
    if rules.speed.max_median_ms is not None:
        yield _at_most(f"{what} time", own.median_ms, rules.speed.max_median_ms, "ms", absent, note=noise)
    if rules.speed.min_speedup is not None:
        yield _at_least("speed-up", own.speedup, rules.speed.min_speedup, "×", absent, note=noise)
    if rules.speed.max_arm_instructions is not None:
        most = float(rules.speed.max_arm_instructions)
        yield _at_most("ARM instructions", own.arm_instructions, most, "", _NOT_COUNTED)


def _worse(own: Figures, old: Figures, rules: Rules) -> Iterator[Check]:
    limits = rules.regression
    if limits.max_accuracy_drop_points is not None:
        same = own.n_images == old.n_images
        lost = _change(own.top1_fraction, old.top1_fraction, lambda now, then: 100 * (then - now)) if same else None
        why = _NEW if same else f"verified on {own.n_images} images, and in the baseline run on {old.n_images}"
        yield _at_most("top-1 lost to the baseline run", lost, limits.max_accuracy_drop_points, "points", why)
    if limits.max_size_growth_percent is not None:
        grown = _change(own.file_bytes, old.file_bytes or None, lambda now, then: 100 * (now / then - 1))
        yield _at_most("file larger than in the baseline run", grown, limits.max_size_growth_percent, "%", _NEW)


def _slower(own: Figures, old: Figures, rules: Rules, absent: str) -> Iterator[Check]:
    """Hold the times of two runs against each other: slower is what the whole interval of their ratio shows."""
    limit, name = rules.regression.max_slowdown_percent, "slower than in the baseline run"
    if limit is None:
        return
    if own.median_ms is None or not old.medians_ms:
        why = absent if own.median_ms is None else _NEW if old.median_ms is None else "the baseline keeps no rounds"
        yield _at_most(name, None, limit, "%", why)
        return
    ratio = unpaired_ratio(own.medians_ms, old.medians_ms)
    if ratio is None or ratio.low is None or ratio.high is None:
        yield _at_most(name, None, limit, "%", "one process alone was timed: that gives no interval")
        return
    measured, low, high = (100 * (value - 1) for value in (ratio.value, ratio.low, ratio.high))
    interval = f"interval {low:.3g} to {high:.3g} %"
    if low <= limit < measured:
        reason = f"{measured:.3g} % slower, {interval}: too few or too uneven rounds to tell; measure longer"
        yield Check(requirement=name, measured=measured, limit=limit, unit="%", outcome=Outcome.SKIPPED, reason=reason)
        return
    yield _at_most(
        name, measured, limit, "%", _NEW, note=f"{interval}; {_NOISE}" if own.noisy or old.noisy else interval
    )


_NO_LABELS = "no labelled images were verified on; give verify --data"
_NOT_COMPARED = "no finite answers were compared; verify the bundle again"
_NO_UNKNOWN = "no photos of other things were fed; give verify --unknown"
_NO_SHIFT = "no shifted photos were fed; give verify --shift"
_NOT_COUNTED = "its ARM instructions were not counted; give bench --arm-instructions"
_NEW = "the baseline does not have it"
_NOISE = "NOISY: measure again on a quiet host"


def _change(now: float | None, then: float | None, change: Callable[[float, float], float]) -> float | None:
    return None if now is None or then is None else change(now, then)


def _at_most(name: str, value: float | None, limit: float, unit: str, absent: str, *, note: str | None = None) -> Check:
    # Rounded: 0.887 - 0.837 is 0.05000000000000004, and a result on its limit must not fail by the last bit.
    return _check(name, value, limit, unit=unit, absent=absent, note=note, fails=lambda v: round(v, 9) > limit)


def _at_least(
    name: str, value: float | None, limit: float, unit: str, absent: str, *, note: str | None = None
) -> Check:
    return _check(name, value, limit, unit=unit, absent=absent, note=note, fails=lambda v: round(v, 9) < limit)


def _check(
    name: str,
    value: float | None,
    limit: float,
    *,
    unit: str,
    absent: str,
    note: str | None,
    fails: Callable[[float], bool],
) -> Check:
    if value is None:
        return Check(requirement=name, measured=None, limit=limit, unit=unit, outcome=Outcome.SKIPPED, reason=absent)
    if not fails(value):
        return Check(requirement=name, measured=value, limit=limit, unit=unit, outcome=Outcome.PASSED, reason=note)
    reason = f"{value:.4g} {unit}, the limit is {limit:g} {unit}" + (f" ({note})" if note else "")
    return Check(requirement=name, measured=value, limit=limit, unit=unit, outcome=Outcome.FAILED, reason=reason)
