"""A staged rollout: which share of the installations runs what, in a file beside the bundle.

It is no part of the bundle: raising a share leaves the manifest, and with it every record of the bundle, as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from exporters.bundle.open import Bundle
from harness.device.contract import FORMATS
from udacisense.base.records import Outcome, record, to_json
from udacisense.errors import InputError, did_you_mean


@record
class Rollout:
    """``rollout.json``; what no share names goes to the first way to run the cascade, or to the first file."""

    schema_version: Literal[1]
    percent: dict[str, float]  # id of a file, or of a way to run the cascade -> share of the installations

    FILE_NAME: ClassVar[str] = "rollout.json"


def rollout_file(shares: Sequence[str], bundle: Bundle) -> dict[str, bytes]:
    """Return the file beside the bundle, name → content; nothing where no share is given.

    Args:
        shares: ``ID=PERCENT`` each.
        bundle: that the ids are of.

    Raises:
        InputError: an id is nothing that the app runs, a share is not from 0 to 100, or all together are over 100.
    """
    rows = (*bundle.manifest.variants, *bundle.manifest.ways())
    known = [row.id for row in rows if row.outcome is Outcome.PASSED and row.format in FORMATS]
    percent: dict[str, float] = {}
    for given in shares:
        name, _, text = given.rpartition("=")
        if name not in known:
            raise InputError(
                f"--rollout is {given!r}; give ID=PERCENT with one of {', '.join(known)}.{did_you_mean(name, known)}"
            )
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 100 or name in percent:
            raise InputError(f"--rollout is {given!r}; give each id once, with a number from 0 to 100.")
        percent[name] = share
    if sum(percent.values()) > 100:
        raise InputError(f"The shares of --rollout are {sum(percent.values()):g} % together; 100 is the most.")
    made = Rollout(schema_version=1, percent=percent)
    return {Rollout.FILE_NAME: to_json(made).encode()} if percent else {}
