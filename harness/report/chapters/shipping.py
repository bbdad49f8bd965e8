"""Which file to ship on which platform, and how well that is founded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporters.manifest import Variant
from harness.advice import choose, eligible
from harness.host import machine_differences
from harness.ranking import Row
from harness.report.blocks import Grid
from harness.report.collect import Evidence, by_host
from harness.report.sections import host_name, ranked
from harness.tables import Table, verified_accuracy
from harness.types import BenchedBundle, BenchSet
from udacisense.display import megabytes, milliseconds, percent
from udacisense.types import Outcome

_COMPUTER = "server or desktop"  # the others are phones
# Who can run what; a platform is left out where a bundle has nothing for it.
PLATFORMS: dict[str, tuple[str, ...]] = {
    "Android app, PyTorch Mobile": ("ptl",),
    "Android or iOS app, ONNX Runtime": ("onnx", "ort"),
    "Android or iOS app, ExecuTorch": ("executorch",),
    "iOS app, Core ML": ("coreml",),
    _COMPUTER: ("torchscript", "onnx", "ort"),
}


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the records say of one bundle of a sweep."""

    measured: BenchSet
    name: str
    rows: tuple[Row, ...]  # that may be recommended, from fast to slow
    variants: tuple[Variant, ...]
    passed: dict[str, str]  # variant id -> the first runner that it passed on; another machine's with its name
    failed: frozenset[str]
    top1: dict[tuple[str, str], float]  # (bundle name, variant id) -> as verified


def shipping_table(evidence: Evidence, measured: BenchSet) -> Iterator[Grid]:
    """Return one row a bundle and platform of a sweep, or nothing."""
    rows = ranked(evidence, measured)
    known = [_known(evidence, measured, bundle, rows) for bundle in measured.bundles]
    found = [
        shipped
        for one in known
        for platform, formats in PLATFORMS.items()
        if (shipped := _timed(one, platform, formats) or _untimed(one, platform, formats)) is not None
    ]
    if found:
        columns = ("bundle", "platform", "ship", "size", "top-1", "time here", "evidence")
        notes = (
            f"Times are of {host_name(measured.host)}; another machine's may rank otherwise. Among ties the smallest "
            "file is chosen. Where the platform is another kind of machine, the time says whose it is.",
        )
        where = f", by the times of {host_name(measured.host)}" if len(by_host(evidence)) > 1 else ""
        table = Table(title=f"What to ship where{where}", columns=columns, rows=tuple(found), notes=notes)
        yield Grid(table=table, is_key=True)


def _known(evidence: Evidence, measured: BenchSet, bundle: BenchedBundle, rows: Sequence[Row]) -> _Known:
    verified = [made for made in evidence.own_host_first(measured.host) if made.bundle_sha256 == bundle.sha256]
    passed: dict[str, str] = {}
    for made in verified:
        elsewhere = f" ({host_name(made.host)})" if machine_differences(measured.host, made.host) else ""
        for m in made.measurements:
            if m.outcome is Outcome.PASSED:
                passed.setdefault(m.spec.variant_id, f"{m.spec.runner}{elsewhere}")
    found = evidence.bundle_of(bundle.sha256)
    return _Known(
        measured=measured,
        name=bundle.name,
        rows=tuple(eligible(rows, bundle.name)),
        variants=() if found is None else found[1].variants,
        passed=passed,
        failed=frozenset(
            m.spec.variant_id for made in verified for m in made.measurements if m.outcome is Outcome.FAILED
        ),
        top1=verified_accuracy(measured, verified),
    )


def _timed(known: _Known, platform: str, formats: tuple[str, ...]) -> tuple[str | None, ...] | None:
    rows = [row for row in known.rows if row.cell.format in formats and row.cell.spec.variant_id not in known.failed]
    if not rows:
        return None
    chosen, ties = choose(known.measured, rows)
    name = chosen.cell.spec.variant_id
    tied = f"; tie with {', '.join(row.cell.spec.variant_id for row in ties)}" if ties else ""
    doubt = "; NOISY" if chosen.noisy else ""
    return (
        known.name,
        platform,
        name,
        megabytes(chosen.cell.file_bytes),
        percent(chosen.top1_fraction),
        f"{milliseconds(chosen.median_ms)}{_whose(known, platform)}",
        f"{_proof(known, name)}, timed on {chosen.cell.spec.runner}{doubt}{tied}",
    )


def _untimed(known: _Known, platform: str, formats: tuple[str, ...]) -> tuple[str | None, ...] | None:
    at_hand = [
        v for v in known.variants if v.format in formats and v.file_bytes is not None and v.id not in known.failed
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


def _whose(known: _Known, platform: str) -> str:
    """Return what keeps a computer's time from being taken for a phone's, and the other way round."""
    is_phone = known.measured.host.system.startswith("Android")
    if is_phone == (platform != _COMPUTER):
        return ""
    return " (a phone's)" if is_phone else " (not a phone's)"


def _proof(known: _Known, variant_id: str) -> str:
    return f"verified on {known.passed[variant_id]}" if variant_id in known.passed else "not verified"
