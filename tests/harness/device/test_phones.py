"""The same work on several phones: what one of them, or the desk, runs into is one phone's outcome."""

from __future__ import annotations

import threading
from pathlib import Path

import click
import pytest
from adbutils import AdbClient

from harness.device.phone import Phone
from harness.device.phones import on_each
from udacisense.base.files import write_text
from udacisense.cli.device import _end
from udacisense.errors import InputError


def test_a_desk_that_cannot_keep_one_record_keeps_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where one record's disk is full: the others are still being measured when the first one fails."""
    phones = [Phone(AdbClient(), serial, None) for serial in ("first", "second", "third")]
    (tmp_path / "first").write_text("a file where a folder is needed")
    first_failed = threading.Event()

    def keep(phone: Phone, stop: threading.Event) -> Path:
        try:
            if phone.serial == "third":
                raise InputError("third was unplugged.")
            if phone.serial == "second":
                assert first_failed.wait(30)
                assert not stop.is_set()
            path = tmp_path / phone.serial / "record.json"
            write_text(path, "{}")
            return path
        finally:
            if phone.serial == "first":
                first_failed.set()

    answers = on_each(phones, keep)
    assert [answer.value for answer in answers] == [None, tmp_path / "second" / "record.json", None]
    with pytest.raises(click.exceptions.Exit) as ended:
        _end(answers, 0)
    assert ended.value.exit_code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0].startswith(f"error: {tmp_path / 'first'}")
    assert told[1] == "error: third was unplugged."
