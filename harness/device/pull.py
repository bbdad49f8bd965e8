"""Every result that lies on a phone, taken home."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from exporters.bundle.open import Bundle
from harness.device.contract import FAILED, RESULTS, OrderFailure
from harness.device.orders import result_names
from harness.device.phone import Phone
from harness.device.results import OtherBundleError, read_result, to_bench_set
from udacisense.base.records import Outcome, from_json, record, write_record
from udacisense.errors import InputError


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
    phone: Phone,
    bundle: Bundle,
    *,
    place: Callable[[str, str], Path],
    stop: threading.Event,
    allow_factory: str | None = None,
) -> list[PulledFile]:
    """Read every result on a phone and keep those of ``bundle``; the phone keeps its own.

    Args:
        phone: where to look.
        bundle: results of others are left alone.
        place: from a file's name without its ending, and ``verify`` or ``bench``, to where it is kept.
        stop: where it is set, the pulling ends; what was kept stays.
        allow_factory: see :func:`exporters.bundle.reference.load_reference`.

    Raises:
        InputError: the phone went away, there is no result at all, or ``stop`` was set.
    """
    names = result_names(phone)
    if not names:
        raise InputError(
            f"There is no result on {phone}; measure in the app, or with 'udacisense device selftest {bundle.root}'."
        )

    def came(n_bytes: int) -> None:  # noqa: ARG001 - a reader's hook
        if stop.is_set():
            raise InputError("The pulling was ended.")

    return [
        _keep(
            phone,
            name,
            phone.read(f"{RESULTS}/{name}", on_bytes=came),
            bundle,
            place=place,
            allow_factory=allow_factory,
        )
        for name in names
    ]


def _keep(
    phone: Phone,
    name: str,
    text: bytes,
    bundle: Bundle,
    *,
    place: Callable[[str, str], Path],
    allow_factory: str | None,
) -> PulledFile:
    source = f"{name} on {phone}"

    def left(outcome: Outcome, reason: str, code: int) -> PulledFile:
        return PulledFile(serial=phone.serial, file=name, outcome=outcome, kept=None, reason=reason, exit_code=code)

    try:
        if name.endswith(FAILED):
            return left(Outcome.FAILED, from_json(OrderFailure, text, source=source).error, 4)
        made = read_result(text, bundle, source=source)
        path = place(name.removesuffix(".json"), made.kind)
        write_record(path, made if made.kind != "bench" else to_bench_set(made, bundle, allow_factory=allow_factory))
    except OtherBundleError:
        return left(Outcome.SKIPPED, "it is of another bundle", 0)
    except InputError as exc:
        return left(Outcome.FAILED, str(exc), exc.exit_code)
    return PulledFile(serial=phone.serial, file=name, outcome=Outcome.PASSED, kept=str(path), reason=None, exit_code=0)
