"""What nobody has checked, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.bench.advice import cautions
from harness.host import host_name
from harness.report.blocks import Block, Part
from harness.report.collect import Evidence
from harness.report.table import Table
from udacisense.base.records import Outcome

_NO_REASON = "no reason was recorded"


def unverified_blocks(evidence: Evidence) -> Iterator[Block]:
    """Return one table, a row a reason; nothing where everything was checked."""
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for what, why, which in (*_exports(evidence), *_verifications(evidence), *_times(evidence)):
        rows.setdefault((what, why), {})[which] = None
    if rows:
        table = Table(
            title="Unverified, and why",
            columns=("what", "why", "how many", "which"),
            rows=tuple((what, why, str(len(names)), ", ".join(names)) for (what, why), names in rows.items()),
            is_key=True,
        )
        yield Part(title=f"What nobody has checked ({len(rows)} entries)", blocks=(table,))


def _exports(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    for _, manifest in evidence.bundles:
        for variant in manifest.variants:
            if variant.outcome is not Outcome.PASSED:
                what = "not exported" if variant.outcome is Outcome.SKIPPED else "export failed"
                yield what, variant.reason or _NO_REASON, f"{manifest.name}/{variant.id}"


def _verifications(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    for _, made in evidence.verifications:
        found = evidence.bundle_of(made.bundle_sha256)
        bundle = found[1].name if found else Path(made.bundle).name
        for m in made.measurements:
            if m.outcome is Outcome.SKIPPED:
                yield "not verified", m.reason or _NO_REASON, f"{bundle}/{m.spec.variant_id}"


def _times(evidence: Evidence) -> Iterator[tuple[str, str, str]]:
    for one in evidence.machines:
        for sweep in one.sweeps:
            for cell in sweep.measured.cells:
                if cell.skip_reason is not None:
                    yield "not timed", cell.skip_reason, f"{cell.bundle or '-'}/{cell.variant_id}"
            for note in cautions(sweep.measured, sweep.rows):
                yield "not measured, or in doubt", note, host_name(one.host)
