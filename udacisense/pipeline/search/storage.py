"""Where a study lies: a storage given by URL, which is waited for when it goes away."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from udacisense.base.display import short_digests
from udacisense.errors import InputError, cause, first_line

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

log = logging.getLogger("udacisense")

JOURNAL_NAME = "study.journal"
_PAUSE_S = 1.0
_TABLES_TRIES = 3
_LOCK_S = 60.0  # that a worker waits for another one's change of an SQLite file


def open_storage(study: str | None, folder: Path, *, wait_s: float) -> BaseStorage:
    """Open the storage of a study; it is made where it is not there.

    Args:
        study: ``sqlite:///FILE``, ``postgresql://USER@HOST/DATABASE``, another URL that SQLAlchemy knows, or the path
            of a journal file; None: :data:`JOURNAL_NAME` in ``folder``.
        folder: of the run.
        wait_s: how long a storage that has gone away while it was used is waited for.

    Raises:
        InputError: it cannot be opened.
    """
    check_place(study)
    where = study or str(folder / JOURNAL_NAME)
    if "://" not in where:
        return _waiting(_open_journal(where), where, wait_s)
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    url = _url(where)
    shown = url.render_as_string(hide_password=True)
    try:
        is_sqlite = url.get_backend_name() == "sqlite"
        # A connection for each operation: they are minutes apart, and a server may go and come back between them.
        more: dict[str, Any] = {"poolclass": NullPool, "connect_args": {"timeout": _LOCK_S} if is_sqlite else {}}
        storage = _open(url.render_as_string(hide_password=False), more)
        if is_sqlite:
            _write_one_by_one(storage)
        return _waiting(get_storage(storage), shown, wait_s)
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as exc:
        raise InputError(f"The study's storage {shown} cannot be opened ({_why(exc)}); check the URL.") from exc


def check_place(study: str | None) -> None:
    """Refuse a study's place that could not be opened, as far as can be known without opening it.

    Raises:
        InputError: saying why.
    """
    if study is None:
        return
    if not study.strip():
        raise InputError("The study's place is empty; give a file's path or a URL, or leave --study out.")
    path: str | None = study
    if "://" in study:
        url = _url(study)
        path = url.database if url.get_backend_name() == "sqlite" else None
        if path and not (folder := Path(path).absolute().parent).is_dir():
            raise InputError(f"The study's storage {study} cannot be opened ({folder} is no folder); make it first.")
    if path and Path(path).is_dir():
        raise InputError(f"The study {study} is a folder; give a file.")


def _url(where: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(where)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")  # SQLAlchemy's own choice is its predecessor
        url.get_dialect().import_dbapi()
    except ArgumentError as exc:
        raise InputError(
            f"The study {where!r} is no URL; write sqlite:///FILE, postgresql://USER@HOST/DATABASE, or a file's path."
        ) from exc
    except ImportError as exc:
        shown = url.render_as_string(hide_password=True)
        raise InputError(
            f"The study {shown} needs a driver that is not installed ({exc}); for PostgreSQL: "
            "pip install 'udacisense[postgresql]'."
        ) from exc
    return url


def _open_journal(where: str) -> JournalStorage:
    Path(where).absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_last_line(Path(where))
        return JournalStorage(_Journal(str(Path(where).absolute())))
    # Optuna takes each line as it is: one that is cut or foreign is any of these.
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as exc:
        raise InputError(
            f"The study's journal {where} is damaged or no journal ({cause(exc).rstrip('.')}); give another --study, "
            "or put it aside to begin anew."
        ) from exc


class _Journal(JournalFileBackend):
    """A journal file, whose path is absolute: Optuna's lock links to it, and waits for a dead link without end."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Take off the half line of a worker that died, or whose disk was full: the next would be written behind it."""
        lock = JournalFileSymlinkLock(self._file_path)
        lock.acquire()
        try:
            with Path(self._file_path).open("rb+") as journal:
                size = journal.seek(0, os.SEEK_END)
                journal.seek(max(size - 1, 0))
                if journal.read() not in (b"", b"\n"):  # the whole is read only where there is such a line
                    journal.seek(0)
                    journal.truncate(journal.read().rfind(b"\n") + 1)
        finally:
            lock.release()
        super().append_logs(logs)


def _check_last_line(journal: Path) -> None:
    """Read the last whole line: Optuna forgives a foreign one, as if another worker wrote it, and trips over it later.

    Raises:
        ValueError: it is no JSON, or there is no whole line.
    """
    content = journal.read_bytes() if journal.is_file() else b""
    if content:
        whole, end, _ = content.rpartition(b"\n")
        if not end:
            raise ValueError("it has no whole line")
        json.loads(whole.rpartition(b"\n")[2])


def _open(address: str, more: dict[str, Any]) -> RDBStorage:
    """Open a database, and make its tables: workers that start together make the same ones, and one of them fails."""
    from sqlalchemy.exc import SQLAlchemyError

    for _ in range(_TABLES_TRIES - 1):
        with contextlib.suppress(SQLAlchemyError):
            return RDBStorage(address, engine_kwargs=more)
        time.sleep(_PAUSE_S)
    return RDBStorage(address, engine_kwargs=more)


def _write_one_by_one(storage: RDBStorage) -> None:
    """Let SQLite's transactions begin with its lock: Python's begin with the first change, after what it is based on.

    Two workers would else take the same queued trial. Source: SQLAlchemy's documentation of its SQLite dialect.
    """
    from sqlalchemy import event

    event.listen(storage.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def open_study(
    storage: BaseStorage, name: str, task: Mapping[str, object], pruner: optuna.pruners.BasePruner | None = None
) -> optuna.Study:
    """Open a study, or make it; a study of another task is refused.

    Args:
        storage: where it lies.
        name: of the study in its storage.
        task: what makes the trials of one study comparable, as plain values.
        pruner: that ends trials early; None: none does.

    Raises:
        InputError: it was made for another task; every difference is named.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = {"study_name": name, "storage": storage, "pruner": pruner or optuna.pruners.NopPruner()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            study = optuna.create_study(**given)  # type: ignore[arg-type]
        except DuplicatedStudyError:
            study = optuna.load_study(**given)  # type: ignore[arg-type]
    if "task" not in study.user_attrs:
        study.set_user_attr("task", dict(task))
    kept: dict[str, object] = study.user_attrs["task"]
    unlike = [key for key in sorted({*kept, *task}) if kept.get(key) != task.get(key)]
    if unlike:
        shown = ", ".join(
            f"{key} = {short_digests(kept.get(key))} (now {short_digests(task.get(key))})" for key in unlike
        )
        raise InputError(
            f"The study {name!r} was made for another task, with {shown}; give the same options, or another --study."
        )
    return study


def _why(exc: BaseException) -> str:
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return first_line(exc)


def _waiting(inner: BaseStorage, shown: str, wait_s: float) -> BaseStorage:
    """Return a storage whose operations are tried again until the one behind it is back, for so many seconds.

    Once it was waited for in vain, whatever ends the run does not wait again.
    """
    is_gone = threading.Event()

    def patient(name: str) -> Callable[..., Any]:
        def call(_: BaseStorage, *args: Any, **options: Any) -> Any:
            until: float | None = None
            while True:
                try:
                    return getattr(inner, name)(*args, **options)
                except (StorageInternalError, OSError) as exc:
                    now = time.monotonic()
                    if until is None and not is_gone.is_set():
                        log.warning("the study's storage %s does not answer (%s); waiting for it", shown, _why(exc))
                    until = now + wait_s if until is None else until
                    if now >= until or is_gone.is_set():
                        is_gone.set()
                        raise InputError(
                            f"The study's storage {shown} has not answered for {wait_s:g} s ({_why(exc)}); when it is "
                            "back, the same command goes on: what is finished is kept."
                        ) from exc
                    time.sleep(_PAUSE_S)

        return call

    made: BaseStorage = type("Waiting", (BaseStorage,), {n: patient(n) for n in BaseStorage.__abstractmethods__})()
    return made
