"""Every result that lies on a phone, taken home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from exporters.bundle import Bundle
from harness.device.contract import FAILED, RESULTS, OrderFailure
from harness.device.orders import result_names
from harness.device.phone import Phone
from harness.device.results import OtherBundleError, read_result, to_bench_set
from udacisense.errors import InputError
from udacisense.types import Outcome, from_json, record, write_record


@record
class PulledFile:
    """What became of one file on the phone."""

    serial: str
    file: str
    outcome: Outcome  # passed: kept; skipped: of another bundle; failed: damaged, or the app had failed
    kept: str | None  # where; None unless passed
    reason: str | None
    exit_code: int


def pull_results(
    phone: Phone, bundle: Bundle, *, place: Callable[[str, str], Path], allow_factory: str | None = None
) -> list[PulledFile]:
    """Read every result on a phone and keep those of ``bundle``; the phone keeps its own.

    Args:
        phone: where to look.
        bundle: results of others are left alone.
        place: from a file's name without its ending, and ``verify`` or ``bench``, to where it is kept.
        allow_factory: see :func:`exporters.bundle.load_reference`.

    Raises:
        InputError: the phone went away, or there is no result at all.
    """
    names = result_names(phone)
    if not names:
        raise InputError(
            f"There is no result on {phone}; measure in the app, or with 'udacisense device selftest {bundle.root}'."
        )
    return [_pull(phone, name, bundle, place, allow_factory) for name in names]


def _pull(
    phone: Phone, name: str, bundle: Bundle, place: Callable[[str, str], Path], allow_factory: str | None
) -> PulledFile:
    text = phone.read(f"{RESULTS}/{name}")
    source = f"{name} on {phone}"

    def left(outcome: Outcome, reason: str, code: int) -> PulledFile:
        return PulledFile(serial=phone.serial, file=name, outcome=outcome, kept=None, reason=reason, exit_code=code)

    try:
        if name.endswith(FAILED):
            return left(Outcome.FAILED, from_json(OrderFailure, text, source=source).error, 4)
        made = read_result(text, bundle, source=source)
        path = place(name.removesuffix(".json"), made.kind)
        write_record(path, made if made.kind == "verify" else to_bench_set(made, bundle, allow_factory=allow_factory))
    except OtherBundleError:
        return left(Outcome.SKIPPED, "it is of another bundle", 0)
    except InputError as exc:
        return left(Outcome.FAILED, str(exc), exc.exit_code)
    return PulledFile(serial=phone.serial, file=name, outcome=Outcome.PASSED, kept=str(path), reason=None, exit_code=0)
