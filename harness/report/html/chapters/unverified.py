"""What nobody has checked, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.report.collect import Evidence, by_host
from harness.report.html.blocks import Block, Grid, Part
from harness.report.sections import host_name, notes_of, ranked
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
        )
        yield Part(title=f"What nobody has checked ({len(rows)} entries)", blocks=(Grid(table=table, is_key=True),))


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
    for one in by_host(evidence):
        for _, sweep in one.benches:
            for cell in sweep.cells:
                if cell.skip_reason is not None:
                    yield "not timed", cell.skip_reason, f"{cell.bundle or '-'}/{cell.spec.variant_id}"
            for note in notes_of(sweep, ranked(evidence, sweep)):
                yield "not measured, or in doubt", note, host_name(sweep.host)
