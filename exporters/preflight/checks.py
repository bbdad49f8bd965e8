"""One question of a preflight, and its answer."""

from __future__ import annotations

from exporters.bundle.metadata import Metadata
from udacisense.base.records import Outcome, record


@record
class PreflightCheck:
    """One question, and its answer."""

    name: str
    outcome: Outcome
    found: str
    allowed: str
    fix: str | None  # None where nothing is wrong


def check(name: str, found: str, allowed: str, fix: str, *, is_ok: bool) -> PreflightCheck:
    """Return what was found; ``fix`` is told where it is wrong."""
    return PreflightCheck(
        name=name,
        outcome=Outcome.PASSED if is_ok else Outcome.FAILED,
        found=found,
        allowed=allowed,
        fix=None if is_ok else fix,
    )


def skipped(name: str, reason: str) -> PreflightCheck:
    """Return that nothing was found, and why."""
    return PreflightCheck(name=name, outcome=Outcome.SKIPPED, found=reason, allowed="", fix=None)


def say_labels(where: str | None) -> PreflightCheck:
    """Say where a file keeps labels and normalisation; None: nowhere, which no runtime minds."""
    return check("labels and normalisation", where or "none: an app must know them", "any", "", is_ok=True)


def check_shape(metadata: Metadata | None) -> PreflightCheck:
    """Check that an app can feed one image."""
    if metadata is None:
        return skipped("input shape", "the file has no metadata of ours")
    shape = metadata.signature.input_shape
    found = f"{metadata.batch or 'N'} × {' × '.join(str(n) for n in shape[1:])} float32, {metadata.input_kind}"
    return check(
        "input shape",
        found,
        "one image: batch 1 or dynamic",
        "export with --batch 1 or --batch dynamic",
        is_ok=metadata.batch in {None, 1},
    )
