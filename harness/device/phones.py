"""Which phones there are, which are meant, and the same work on several at once."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from harness.device.phone import Phone
from udacisense.base.records import record
from udacisense.errors import InputError, UdacisenseError

if TYPE_CHECKING:
    from adbutils import AdbClient

T = TypeVar("T")

_CALL_S = 60.0
_NO_ADB = "install Android's platform-tools (Debian, Ubuntu: apt install adb) and have adb on the PATH"
# What adb calls a phone that it cannot work with, and what to do about it.
_ADVICE = {
    "unauthorized": "unlock it and allow USB debugging for this computer",
    "authorizing": "unlock it and allow USB debugging for this computer",
    "offline": "unplug it and plug it in again",
    "no": "this user may not open the USB device: add the udev rules of Android phones (Debian: "
    "apt install android-sdk-platform-tools-common) and plug it in again",
    "recovery": "start it into Android",
    "bootloader": "start it into Android",
    "sideload": "start it into Android",
}


@record
class PhoneState:
    """One line of ``device list``. None where the phone is not ready or does not tell."""

    serial: str
    state: str  # adb's word: device, unauthorized, offline, ...
    model: str | None
    android: str | None  # release, e.g. 14
    api: int | None
    abi: str | None
    free_bytes: int | None
    has_app: bool | None
    advice: str | None  # None where the phone is ready


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What became of one phone's part of the work: a value, or why there is none."""

    phone: Phone
    value: T | None
    error: UdacisenseError | OSError | None  # OSError: of this host, as where its disk is full


def connect() -> AdbClient:
    """Return a client of the adb server; the server is started where none runs.

    Raises:
        InputError: adb is not installed, or its server does not start.
    """
    import subprocess

    from adbutils import AdbClient
    from adbutils.errors import AdbError

    client: AdbClient = AdbClient(socket_timeout=_CALL_S)
    try:
        client.server_version()
    except FileNotFoundError as exc:
        raise InputError(f"adb was not found: {_NO_ADB}.") from exc
    except (AdbError, OSError, ValueError, subprocess.SubprocessError) as exc:
        if "No adb exe" in str(exc):
            raise InputError(f"adb was not found: {_NO_ADB}.") from exc
        raise InputError(f"adb's server does not answer ({exc}): run 'adb kill-server' and try again.") from exc
    return client


def list_phones(client: AdbClient) -> list[PhoneState]:
    """Return every phone that adb sees, the ready ones with what they say of themselves."""
    return [
        _describe(client, found.serial, found.state, found.tags.get("model")) for found in client.list(extended=True)
    ]


def _describe(client: AdbClient, serial: str, state: str, model: str | None) -> PhoneState:
    from harness.device.contract import FILES

    if state != "device":
        advice = _ADVICE.get(state, f"adb calls it {state}; unplug it and plug it in again")
        return PhoneState(
            serial=serial,
            state=state,
            model=model,
            android=None,
            api=None,
            abi=None,
            free_bytes=None,
            has_app=None,
            advice=advice,
        )
    phone = Phone(client, serial, model)
    api = phone.property("ro.build.version.sdk")
    return PhoneState(
        serial=serial,
        state=state,
        model=phone.property("ro.product.model") or model,
        android=phone.property("ro.build.version.release"),
        api=int(api) if api and re.fullmatch("[0-9]{1,4}", api) else None,
        abi=phone.property("ro.product.cpu.abi"),
        free_bytes=phone.free_bytes(FILES.split("/Android", 1)[0]),
        has_app=phone.has_app(),
        advice=None,
    )


def choose(client: AdbClient, *, serials: Sequence[str], every: bool) -> list[Phone]:
    """Return the phones that are meant: those named, or every one, or the only one.

    Raises:
        InputError: there is none, one that is named is not there or not ready, or several are and none was named.
    """
    found = {listed.serial: listed for listed in client.list(extended=True)}
    if not found:
        raise InputError(
            "No phone is connected: plug one in, switch on USB debugging in its developer options, and allow this "
            "computer; 'adb devices' must list it."
        )
    names = list(dict.fromkeys(serials)) or ([] if len(found) > 1 and not every else list(found))
    if not names:
        raise InputError(
            f"{len(found)} phones are connected ({', '.join(found)}): name one with --serial, or give --all."
        )
    for name in names:
        if name not in found:
            raise InputError(f"There is no phone {name}; connected: {', '.join(found)}.")
        if found[name].state != "device":
            state = "not accessible" if found[name].state == "no" else found[name].state
            raise InputError(f"The phone {name} is {state}: {_ADVICE.get(found[name].state, 'plug it in again')}.")
    return [Phone(client, name, (found[name].tags.get("model") or "").replace("_", " ") or None) for name in names]


def on_each(phones: Sequence[Phone], work: Callable[[Phone, threading.Event], T]) -> list[Answer[T]]:
    """Do the same work on every phone at once; one phone's failure does not end another's work.

    Args:
        phones: at least one.
        work: is given the phone, and an event that is set where the work must end at once (Ctrl-C).
    """
    stop = threading.Event()

    def one(phone: Phone) -> Answer[T]:
        try:
            return Answer(phone, work(phone, stop), None)
        except (UdacisenseError, OSError) as exc:
            return Answer(phone, None, exc)

    with ThreadPoolExecutor(max_workers=min(len(phones), 4 * (os.cpu_count() or 1))) as pool:
        waiting = [pool.submit(one, phone) for phone in phones]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            stop.set()
            raise
