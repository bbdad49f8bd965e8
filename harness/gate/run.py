"""The gate: what was verified and measured, held against requirements. Its exit code is the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from exporters.bundle.manifest import Variant
from exporters.bundle.open import bundle_sha256, opened
from harness.bench.advice import eligible, objection, verdicts
from harness.bench.ranking import Row, rank, reported_medians
from harness.gate.config import GateConfig, Rules
from harness.host import require_like
from harness.records import BenchSet, Check, Host, Measurement, MeasurementSet
from udacisense.base.records import Count, Outcome, Positive, from_json, record
from udacisense.errors import InputError
from udacisense.measure.stats import unpaired_ratio


@record
class Figures:
    """What is known of one variant; None where it was not measured."""

    variant_id: str
    top1_fraction: float | None
    reference_top1_fraction: float | None
    n_images: Count | None
    file_bytes: Count | None
    median_ms: Positive | None  # at its best setting among those that may ship
    speedup: float | None
    noisy: bool
    medians_ms: tuple[Positive, ...] = ()  # of the processes behind it, by which a later run is judged


@record
class GateCheck:
    """One requirement of one variant."""

    variant_id: str
    check: Check


@record
class GateReport:
    """``gate.json``: every check, and the figures that a later run is held against."""

    schema_version: Literal[1]
    kind: Literal["gate"]
    bundle: str
    bundle_sha256: str
    inputs: str
    host: Host | None  # of the times; None where nothing was timed
    figures: tuple[Figures, ...]
    checks: tuple[GateCheck, ...]

    FILE_NAME: ClassVar[str] = "gate.json"


def exit_code(report: GateReport) -> int:
    """Return 0 where something passed and nothing failed, else 1."""
    outcomes = [entry.check.outcome for entry in report.checks]
    return 0 if Outcome.PASSED in outcomes and Outcome.FAILED not in outcomes else 1


@dataclass(frozen=True)
class Past:
    """An older run."""

    host: Host | None
    figures: Mapping[str, Figures]


def gate_bundle(
    path: Path,
    *,
    verification: MeasurementSet,
    bench: BenchSet | None = None,
    config: GateConfig | None = None,
    baseline: Past | None = None,
) -> GateReport:
    """Hold a bundle against its requirements.

    Args:
        path: the bundle's folder.
        verification: what ``verify`` found; of this very bundle.
        bench: what ``bench`` measured, this bundle among others; without it nothing is said about speed.
        config: the requirements; None: the defaults of :mod:`harness.gate.config`.
        baseline: an older run, from :func:`read_baseline`.

    Raises:
        InputError: a record is of another bundle, or times of unlike hosts would be compared.
    """
    with opened(path) as bundle:
        manifest = bundle.manifest
    sha256 = bundle_sha256(manifest)
    config = config or GateConfig()
    if verification.bundle_sha256 != sha256:
        raise InputError(f"The verification is of another bundle ({verification.bundle}); verify {path} again.")
    timed = None if bench is None else _timed(bench, sha256, path, verification)
    if bench is not None and baseline is not None and baseline.host is not None:
        require_like(baseline.host, bench.host)
    cells = {v.id: [m for m in verification.measurements if m.spec.variant_id == v.id] for v in manifest.variants}
    figures = {v.id: _figures(v.id, cells[v.id], v.file_bytes, timed) for v in manifest.variants}
    checks = [
        GateCheck(variant_id=v.id, check=check)
        for v in manifest.variants
        for check in _checks(v, cells[v.id], figures, config, baseline, timed)
    ]
    return GateReport(
        schema_version=1,
        kind="gate",
        bundle=str(path),
        bundle_sha256=sha256,
        inputs=verification.inputs,
        host=None if bench is None else bench.host,
        figures=tuple(figures.values()),
        checks=tuple(checks),
    )


def read_baseline(path: Path) -> Past:
    """Read an older run: what ``gate``, ``verify`` or ``bench`` wrote.

    Raises:
        InputError: it is none of them.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror or exc}; give an older record.") from exc
    except (ValueError, RecursionError) as exc:  # RecursionError: thousands of brackets
        raise InputError(f"{path} cannot be read as JSON: {exc}.") from exc
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind == "gate":
        report = from_json(GateReport, text, source=str(path))
        return Past(report.host, {f.variant_id: f for f in report.figures})
    if kind == "verify":
        verified = from_json(MeasurementSet, text, source=str(path))
        ids = {m.spec.variant_id for m in verified.measurements}
        cells = {i: [m for m in verified.measurements if m.spec.variant_id == i] for i in ids}
        return Past(None, {i: _figures(i, cells[i], None, None) for i in ids})
    if kind == "bench":
        measured = from_json(BenchSet, text, source=str(path))
        if len(measured.bundles) != 1:
            raise InputError(f"{path} has {len(measured.bundles)} bundles; a baseline has one.")
        timed = _timed(measured, measured.bundles[0].sha256, path, None)
        figures = {i: _figures(i, [], row.cell.file_bytes, timed) for i, row in timed.best.items()}
        return Past(measured.host, figures)
    raise InputError(f"{path} is no record of gate, verify or bench; give one of these as the baseline.")


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """What a sweep says of a bundle's variants."""

    bench: BenchSet
    best: dict[str, Row]  # of each variant, the fastest row that may ship
    why_not: dict[str, str]  # of variants without one


def _timed(bench: BenchSet, sha256: str, path: Path, verification: MeasurementSet | None) -> _Timed:
    """Choose the fastest row of each variant that may ship: batch 1, by the same rules as a recommendation."""
    name = next((b.name for b in bench.bundles if b.sha256 == sha256), None)
    if name is None:
        raise InputError(f"The bench has no figures of {path} as it is now; bench it again.")
    known = None
    if verification is not None:
        # Lost accuracy is held against the requirements' own limit.
        known = replace(verdicts(bench, [verification]), lost={})
    rows = [row for row in rank(bench) if row.cell.bundle == name and row.cell.spec.batch_size == 1]
    best: dict[str, Row] = {}
    for row in eligible(rows, name, known):  # from fast to slow
        best.setdefault(row.cell.spec.variant_id, row)
    why_not: dict[str, str] = {}
    for row in (row for row in rows if row.is_tuned or row.median_ms is None):
        why = objection(row, known) or "timed in the tuning rounds alone; bench it by itself with --variant"
        why_not.setdefault(row.cell.spec.variant_id, why)
    return _Timed(bench=bench, best=best, why_not=why_not)


def _figures(variant_id: str, cells: list[Measurement], file_bytes: int | None, timed: _Timed | None) -> Figures:
    """Join what is known. Of several cells the widest comparison counts, and of those the worst accuracy."""
    compared = [m.comparison for m in cells if m.comparison is not None and m.outcome is not Outcome.SKIPPED]
    widest = max((c.n_inputs for c in compared), default=0)
    judged = [c for c in compared if c.n_inputs == widest and c.top1_fraction is not None]
    worst = min(judged, key=lambda c: c.top1_fraction or 0.0, default=None)
    row = None if timed is None else timed.best.get(variant_id)
    medians = () if timed is None or row is None else reported_medians(timed.bench, row.cell.id).by_round.values()
    return Figures(
        variant_id=variant_id,
        top1_fraction=None if worst is None else worst.top1_fraction,
        reference_top1_fraction=None if worst is None else worst.reference_top1_fraction,
        n_images=None if worst is None else worst.n_inputs,
        file_bytes=file_bytes,
        median_ms=None if row is None else row.median_ms,
        speedup=None if row is None or row.speedup is None else row.speedup.value,
        noisy=row is not None and row.noisy,
        medians_ms=tuple(medians),
    )


def _checks(
    variant: Variant,
    cells: list[Measurement],
    figures: Mapping[str, Figures],
    config: GateConfig,
    baseline: Past | None,
    timed: _Timed | None,
) -> Iterator[Check]:
    yield _consistency(variant, cells, is_required=config.is_required(variant.id))
    if variant.outcome is not Outcome.PASSED:
        return
    rules, own = config.rules(variant.id), figures[variant.id]
    yield from _accuracy(own, rules)
    yield from _size(own, rules, figures)
    if timed is not None:
        yield from _speed(own, rules, _untimed(timed, variant.id))
    if baseline is not None:
        old = baseline.figures.get(variant.id) or _figures(variant.id, [], None, None)
        yield from _worse(own, old, rules)
        if timed is not None:
            yield from _slower(own, old, rules, _untimed(timed, variant.id))


def _consistency(variant: Variant, cells: list[Measurement], *, is_required: bool) -> Check:
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


def _untimed(timed: _Timed, variant_id: str) -> str:
    why = timed.why_not.get(variant_id)
    return "it was not timed" if why is None else f"no time that may ship: {why}"


def _speed(own: Figures, rules: Rules, absent: str) -> Iterator[Check]:
    noise = _NOISE if own.noisy else None
    if rules.speed.max_median_ms is not None:
        yield _at_most("median time", own.median_ms, rules.speed.max_median_ms, "ms", absent, note=noise)
    if rules.speed.min_speedup is not None:
        yield _at_least("speed-up", own.speedup, rules.speed.min_speedup, "×", absent, note=noise)


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
    yield _at_most(name, measured, limit, "%", _NEW, note=f"{interval}; {_NOISE}" if own.noisy or old.noisy else interval)


_NO_LABELS = "no labelled images were verified on; give verify --data"
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
