"""One driver a study: who holds it, and how a second one is told."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from autocompress.errors import StorageError
from autocompress.search.database import APPLICATION, engine_options, first_line, missing_driver, parse_url, redact

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

LOCK_FILE = "driver.lock"
_GLANCES = 4
_GLANCE_SECONDS = 0.1
"""Who only looks whether a study is held holds the file for a moment, so one attempt is not enough."""
_CHECK_SECONDS = 10.0
_HOLDER = sqlalchemy.text(
    "SELECT a.application_name, a.pid, a.client_addr FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.classid = :high AND l.objid = :low "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class DriverLock:
    """This driver's hold on a study; see `driver_lock`."""

    def __init__(self, url: str, study: str) -> None:
        self._url = url
        self._parsed = parse_url(url)
        self._study = study
        self._connection: sqlalchemy.Connection | None = None
        self._lost: StorageError | None = None
        self._guard = threading.RLock()
        self._closing = threading.Event()
        self._engine = _lock_engine(self._parsed)

    @property
    def on_server(self) -> bool:
        """Whether the database keeps out drivers on other machines."""
        return self._engine is not None

    def renew(self) -> None:
        """Take the study on the server anew where the server forgot it, as it does when it restarts.

        Raises:
            StorageError: another driver took the study meanwhile.
            SQLAlchemyError: the server is out of reach.
        """
        if self._engine is None:
            return
        with self._guard:
            if self._lost is not None:
                raise self._lost
            if self._connection is not None:
                try:
                    self._connection.execute(sqlalchemy.text("SELECT 1"))
                    return
                except SQLAlchemyError:
                    self._connection.invalidate()
                    self._connection.close()
                    self._connection = None
            connection = self._engine.connect()  # the lock lives as long as the connection
            key = _key(self._study)
            if not connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
                holder = _server_holder(connection, self._study) or "a driver on another machine"
                connection.close()
                where = f"study {self._study!r} in {redact(self._url)}"
                self._lost = StorageError(f"{where} is being searched by {holder}; wait for it or stop it")
                raise self._lost
            self._connection = connection

    def watch(self) -> None:
        """Take the study anew soon after a server came back, also where nothing is written meanwhile."""
        while not self._closing.wait(_CHECK_SECONDS):
            with suppress(SQLAlchemyError, StorageError):  # the next write tells
                self.renew()

    def close(self) -> None:
        """Let the study go."""
        self._closing.set()
        with self._guard:
            if self._connection is not None:
                with suppress(SQLAlchemyError):
                    self._connection.close()
                self._connection = None


@contextmanager
def driver_lock(folder: Path, url: str, study: str) -> Iterator[DriverLock]:
    """Hold the study for this driver until the block ends, or the process dies.

    A file lock in the study's folder keeps out a second driver on this machine; on PostgreSQL an advisory lock also
    keeps out one on another machine.

    Args:
        folder: of the study; it exists.
        url: of the study's database.
        study: name of the study.

    Raises:
        StorageError: another driver holds the study; the text says which.
    """
    path = folder / LOCK_FILE
    with path.open("a+") as stream:
        if not _taken(stream.fileno()):
            raise StorageError(f"study {study!r} is being searched by {_file_holder(path)}; wait for it or stop it")
        stream.seek(0)
        stream.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, stream)
        stream.flush()
        lock = DriverLock(url, study)
        try:
            lock.renew()
        except SQLAlchemyError as error:
            raise StorageError(f"cannot open database {redact(url)}: {first_line(error)}") from error
        if lock.on_server:
            threading.Thread(target=lock.watch, name="driver-lock", daemon=True).start()
        try:
            yield lock
        finally:
            lock.close()


def holder_of(folder: Path | None, url: str, study: str) -> str | None:
    """Who holds a study, such as ``process 123 on HOST``; None where nobody does.

    Args:
        folder: of the study; None where it is not known, so that only the server can tell.
        url: of its database; one that cannot be reached tells nothing.
        study: its name.
    """
    if folder is not None and (folder / LOCK_FILE).exists():
        with (folder / LOCK_FILE).open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _file_holder(folder / LOCK_FILE)
    engine = _lock_engine(parse_url(url))
    if engine is None:
        return None
    try:
        with engine.connect() as connection:
            return _server_holder(connection, study)
    except SQLAlchemyError:
        return None


def _taken(handle: int) -> bool:
    for _ in range(_GLANCES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_GLANCE_SECONDS)
    return False


def _file_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _key(study: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{APPLICATION}/{study}".encode()).digest()[:8], "big", signed=True)


def _lock_engine(parsed: URL) -> sqlalchemy.Engine | None:
    """An engine for the advisory lock; None where the database has none."""
    if parsed.get_backend_name() != "postgresql":
        return None
    options = {key: value for key, value in engine_options(parsed).items() if key != "pool_pre_ping"}
    try:
        return sqlalchemy.create_engine(
            parsed, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT", **options
        )
    except ImportError as error:
        raise StorageError(missing_driver(parsed)) from error


def _server_holder(connection: sqlalchemy.Connection, study: str) -> str | None:
    unsigned = _key(study) % 2**64
    row = connection.execute(_HOLDER, {"high": unsigned >> 32, "low": unsigned % 2**32}).first()
    if row is None:
        return None
    name, server_pid, address = row
    # ``autocompress HOST pid N``; other users' names are hidden from those without the server's permission to see them.
    parts = str(name or "").split()
    if len(parts) == 4 and parts[0] == APPLICATION and parts[2] == "pid":
        return f"process {parts[3]} on {parts[1]}"
    return f"a driver on another machine ({address or 'connection'} {server_pid})"
