"""Orders to the app, and its answers."""

from __future__ import annotations

import secrets
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from exporters.bundle.manifest import Manifest
from exporters.bundle.open import Bundle
from harness.device.contract import ACTIVITY, FAILED, PACKAGE, RESULTS, Command, OrderFailure
from harness.device.phone import Phone, last_line
from harness.device.push import remote_manifest_sha256, require_app
from harness.device.results import check_answers, read_result
from harness.records import MeasurementSet
from udacisense.base.files import sha256_file
from udacisense.base.records import from_json
from udacisense.errors import InferenceError, InputError

_POLL_S = 1.0
_GONE_POLLS = 3  # without a process and without an answer: the app needs a moment to start


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the app is asked."""

    command: Command
    variants: Sequence[str]  # ids of the bundle's manifest; empty: all that the app can run
    threads: Sequence[int] = ()  # thread counts of a bench; a self-test has none
    timeout_s: float  # the longest wait for the answer


def place_order(
    phone: Phone, order: Order, *, stop: threading.Event, on_wait: Callable[[float], None] = lambda _: None
) -> bytes:
    """Ask the app for one result and wait for it; return the result's bytes as the app wrote them.

    Args:
        phone: with the app installed.
        order: what for.
        stop: ends the wait.
        on_wait: told the seconds that passed, about once a second.

    Raises:
        InputError: the app takes no order, or the phone went away.
        InferenceError: the app said that it could not, ended without an answer, or did not answer in time.
    """
    name = f"{order.command}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    extras = {"command": order.command, "order": name, "variants": ",".join(order.variants) or "all"}
    if order.command == "bench":
        extras["threads"] = ",".join(map(str, order.threads))
    words = ["am", "start", "-n", ACTIVITY]
    for key, value in extras.items():
        words += ["--es", key, value]
    ran = phone.run(*words)
    # Before Android 10 `am` ends with 0 where it could not start anything.
    if ran.code or "Error:" in ran.text:
        raise InputError(
            f"The app on {phone} took no order ({last_line(ran.text) or f'exit code {ran.code}'}): install the one "
            "that is built from android_demo."
        )
    return _await(phone, order, name, stop=stop, on_wait=on_wait)


def _await(phone: Phone, order: Order, name: str, *, stop: threading.Event, on_wait: Callable[[float], None]) -> bytes:
    result, failure = f"{RESULTS}/{name}.json", f"{RESULTS}/{name}{FAILED}"
    start = last = time.monotonic()
    gone = 0
    while last - start < order.timeout_s and not stop.is_set():
        seen = phone.script(f"ls {shlex.join([result, failure])} 2>/dev/null; pidof {PACKAGE} >/dev/null || echo gone")
        lines = seen.text.splitlines()
        if result in lines:
            return phone.read(result)
        if failure in lines:
            said = from_json(OrderFailure, phone.read(failure), source=f"{failure} on {phone}")
            raise InferenceError(f"The app on {phone} could not do the {order.command}: {said.error.rstrip('.')}.")
        gone = gone + 1 if "gone" in lines else 0
        if gone >= _GONE_POLLS:
            raise InferenceError(
                f"The app on {phone} ended without an answer to the {order.command}: it crashed or was killed for "
                f"memory; 'adb -s {phone.serial} logcat -d' tells."
            )
        stop.wait(_POLL_S)
        now = time.monotonic()
        on_wait(now - last)
        last = now
    raise InferenceError(
        f"The app on {phone} gave no answer to the {order.command} within {order.timeout_s:.0f} s: keep its screen "
        "on and unlocked, and give --timeout more seconds where it was still working."
    )


def result_names(phone: Phone) -> list[str]:
    """Return the file names of every answer on the phone, failures too.

    Raises:
        InputError: the phone went away, or says that a name leads elsewhere.
    """
    text = phone.script(f"ls {RESULTS} 2>/dev/null || true").text
    names = sorted(name for name in text.splitlines() if name.endswith(".json"))
    odd = [name for name in names if "/" in name or "\0" in name]
    if odd:
        raise InputError(f"{phone} lists {odd[0]!r} among its results, which is no file name: nothing of it is taken.")
    return names


def measure(
    phone: Phone,
    bundle: Bundle,
    order: Order,
    *,
    stop: threading.Event,
    on_wait: Callable[[float], None] = lambda _: None,
) -> MeasurementSet:
    """Place an order and return its answer, read strictly and of this very bundle; see :func:`place_order`.

    Raises:
        InputError: the phone has another bundle, or its answer is damaged or is no answer to this order.
    """
    require_app(phone)
    pushed = remote_manifest_sha256(phone)
    if pushed is not None and pushed != sha256_file(bundle.root / Manifest.FILE_NAME):
        raise InputError(
            f"{phone} has another bundle than {bundle.root}: run 'udacisense device push {bundle.root}' first."
        )
    text = place_order(phone, order, stop=stop, on_wait=on_wait)
    source = f"The answer of {phone}"
    made = read_result(text, bundle, source=source)
    check_answers(made, order.command, order.variants, source=source)
    return made
