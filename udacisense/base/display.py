"""Figures as a person reads them. Records keep bytes, fractions and milliseconds as numbers."""

from __future__ import annotations

import re
from datetime import datetime, timezone


def megabytes(n_bytes: int | None) -> str | None:
    """Return bytes as decimal megabytes (1 MB = 1,000,000 bytes)."""
    return None if n_bytes is None else f"{n_bytes / 1e6:.3f} MB"


def percent(fraction: float | None) -> str | None:
    """Return a fraction as a percentage."""
    return None if fraction is None else f"{100 * fraction:.1f} %"


def change(value: float, reference: float) -> str:
    """Return how far a value lies above (+) or below (-) a reference, in percent of it."""
    return f"{100 * (value / reference - 1):+.1f} %"


def milliseconds(value: float | None) -> str | None:
    """Return milliseconds with three significant digits, and none behind the point from 100 on."""
    if value is None:
        return None
    return f"{value:.0f} ms" if value >= 100 else f"{value:#.3g} ms"


def now_utc() -> str:
    """Return the time as ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def short_digests(value: object) -> str:
    """Return a value's text with each SHA-256 in it cut to its first twelve digits.

    >>> short_digests("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 augment=none")
    '9f86d081884c… augment=none'
    """
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", str(value))
