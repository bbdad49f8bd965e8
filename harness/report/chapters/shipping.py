"""Which file to ship on which platform, and how well that is founded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exporters.bundle.manifest import Variant
from harness.bench.advice import choose, eligible, objection, verdicts, verified_accuracy
from harness.bench.cascade import by_member
from harness.bench.ranking import Row
from harness.bench.rounds import EAGER
from harness.host import host_name, machine_differences
from harness.records import BenchedBundle, BenchSet
from harness.report.collect import Evidence, Ranked
from harness.report.table import Table, grouped
from udacisense.base.display import megabytes, milliseconds, percent
from udacisense.base.records import Outcome

_COMPUTER = "server or desktop"  # the others are phones
# Who can run what; a platform is left out where a bundle has nothing for it.
PLATFORMS: dict[str, tuple[str, ...]] = {
    "Android app, PyTorch Mobile": ("ptl",),
    "Android or iOS app, ONNX Runtime": ("onnx", "ort"),
    "Android or iOS app, ExecuTorch": ("executorch",),
    "Android or iOS app, LiteRT": ("tflite",),
    "iOS app, Core ML": ("coreml",),
    _COMPUTER: ("torchscript", "onnx", "ort"),
}

_UNVERIFIED = "NOT VERIFIED"

_Line = tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the records say of one bundle of a sweep."""

    measured: BenchSet
    name: str
    rows: tuple[Row, ...]  # that may be recommended, from fast to slow
    variants: tuple[Variant, ...]
    formats: dict[str, str]  # variant id -> format, of every file that a record names
    passed: dict[str, str]  # variant id -> the first runner that it passed on; another machine's with its name
    against: dict[str, str]  # variant id -> what speaks against the file, or against a setting of it
    top1: dict[tuple[str, str], float]  # (bundle name, variant id) -> as verified


def shipping_tables(evidence: Evidence, sweep: Ranked) -> Iterator[Table]:
    """Return one row a bundle and platform of a sweep, or nothing."""
    known = [_known(evidence, sweep, bundle) for bundle in sweep.measured.bundles]
    found = [
        (one, line)
        for one in known
        for platform, formats in PLATFORMS.items()
        if (line := _line(one, platform, formats)) is not None
    ]
    if not found:
        return
    host = host_name(sweep.measured.host)
    notes = [
        f"Times are of {host}; another machine's may rank otherwise. Among ties the smallest file is chosen. Where the "
        "platform is another kind of machine, the time says whose it is."
    ]
    if any(line[2] is not None and line[2] not in one.passed for one, line in found):
        notes.append(f"{_UNVERIFIED}: run `udacisense verify` before shipping the file.")
    where = f", by the times of {host}" if len(evidence.machines) > 1 else ""
    columns = ("bundle", "platform", "ship", "size", "top-1", "time here", "evidence")
    yield Table(
        title=f"What to ship where{where}",
        columns=columns,
        rows=tuple(line for _, line in found),
        notes=tuple(notes),
        is_key=True,
    )


def _known(evidence: Evidence, sweep: Ranked, bundle: BenchedBundle) -> _Known:
    measured = sweep.measured
    verified = [made for made in by_member(measured, sweep.verified) if made.bundle_sha256 == bundle.sha256]
    passed: dict[str, str] = {}
    for made in verified:
        elsewhere = f" ({host_name(made.host)})" if machine_differences(measured.host, made.host) else ""
        for m in made.measurements:
            if m.outcome is Outcome.PASSED:
                passed.setdefault(m.spec.variant_id, f"{m.spec.runner}{elsewhere}")
    found = evidence.bundle_of(bundle.sha256)
    variants = () if found is None else found[1].variants
    own = [row for row in sweep.rows if row.cell.bundle == bundle.name and row.cell.format != EAGER]
    judged = verdicts(measured, verified)
    formats = {v.id: v.format for v in variants} | {row.cell.variant_id: row.cell.format for row in own}
    bad = [row for row in reversed(own) if row.outcome is Outcome.FAILED or row.wrong_answers]
    against = {row.cell.variant_id: why for row in bad if (why := objection(row, judged)) is not None}
    against |= {name: why for name in formats if (why := judged.against(bundle.name, name)) is not None}
    return _Known(
        measured=measured,
        name=bundle.name,
        rows=tuple(eligible(own, bundle.name, judged)),
        variants=variants,
        formats=formats,
        passed=passed,
        against=against,
        top1=verified_accuracy(measured, verified),
    )


def _line(known: _Known, platform: str, formats: tuple[str, ...]) -> _Line | None:
    return _timed(known, platform, formats) or _untimed(known, platform, formats) or _refused(known, platform, formats)


def _timed(known: _Known, platform: str, formats: tuple[str, ...]) -> _Line | None:
    rows = [row for row in known.rows if row.cell.format in formats]
    if not rows:
        return None
    chosen, ties = choose(known.measured, rows)
    name = chosen.cell.variant_id
    tied = f"; tie with {', '.join(row.cell.variant_id for row in ties)}" if ties else ""
    doubt = "; NOISY" if chosen.noisy else ""
    doubt += f"; in another setting: {known.against[name]}" if name in known.against else ""
    return (
        known.name,
        platform,
        name,
        megabytes(chosen.cell.file_bytes),
        percent(chosen.top1_fraction),
        f"{milliseconds(chosen.median_ms)}{_whose(known, platform)}",
        f"{_proof(known, name)}, timed on {chosen.cell.runner}{doubt}{tied}",
    )


def _untimed(known: _Known, platform: str, formats: tuple[str, ...]) -> _Line | None:
    at_hand = [
        v for v in known.variants if v.format in formats and v.file_bytes is not None and v.id not in known.against
    ]
    if not at_hand:
        return None
    # Verified ones first, then full precision: without a time nothing speaks for giving precision up.
    best = min(at_hand, key=lambda v: (v.id not in known.passed, v.precision != "fp32", v.file_bytes or 0))
    return (
        known.name,
        platform,
        best.id,
        megabytes(best.file_bytes),
        percent(known.top1.get((known.name, best.id))),
        None,
        f"{_proof(known, best.id)}, not timed",
    )


def _refused(known: _Known, platform: str, formats: tuple[str, ...]) -> _Line | None:
    """Return the row of a platform whose every file has something against it."""
    reasons = grouped((name, why) for name, why in known.against.items() if known.formats.get(name) in formats)
    if not reasons:
        return None
    return (known.name, platform, None, None, None, None, f"no file can be recommended: {'; '.join(reasons)}")


def _whose(known: _Known, platform: str) -> str:
    """Return what keeps a computer's time from being taken for a phone's, and the other way round."""
    is_phone = known.measured.host.system.startswith("Android")
    if is_phone == (platform != _COMPUTER):
        return ""
    return " (a phone's)" if is_phone else " (not a phone's)"


def _proof(known: _Known, variant_id: str) -> str:
    return f"verified on {known.passed[variant_id]}" if variant_id in known.passed else _UNVERIFIED
