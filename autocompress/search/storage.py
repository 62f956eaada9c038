"""The study's database, and the lock that keeps it to one driver."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from autocompress.errors import StorageError

LOCK_FILE = "driver.lock"


def redact(url: str) -> str:
    """The URL without its password, fit to be shown."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "<not a database URL>"


def default_url(folder: Path) -> str:
    """SQLite inside the study's folder."""
    return f"sqlite:///{folder / 'study.db'}"


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Open (and where it is new, create) a study database.

    Raises:
        StorageError: the URL is wrong, the server is out of reach, or the database is of another version.
    """
    parsed = _parse(url)
    engine_kwargs: dict[str, object] = {}
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and not Path(parsed.database).parent.is_dir():
            raise StorageError(f"database {redact(url)}: folder {Path(parsed.database).parent} does not exist")
        engine_kwargs["connect_args"] = {"timeout": 60}
    else:
        engine_kwargs["pool_pre_ping"] = True
    try:
        return optuna.storages.RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=engine_kwargs)
    except ImportError as error:
        raise StorageError(_missing_driver(parsed)) from error
    except RuntimeError as error:
        raise StorageError(
            f"database {redact(url)} was made by another version of Optuna than {optuna.__version__}; "
            "upgrade a copy of it with 'optuna storage upgrade --storage URL', or start a new --study"
        ) from error
    except (SQLAlchemyError, AssertionError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"cannot open database {redact(url)}: {_first_line(error)}") from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except NoSuchModuleError as error:
        raise StorageError(
            f"unknown kind of database in {redact(url)}; use sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from error
    except ArgumentError as error:
        raise StorageError(
            "--storage is not a database URL; use sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from error
    return parsed


def _missing_driver(parsed: URL) -> str:
    if parsed.get_backend_name() == "postgresql":
        return "PostgreSQL needs its driver: pip install 'autocompress[postgres]'"
    return f"the Python driver of {parsed.drivername} databases is not installed"


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn database errors inside the block into one line."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"database {redact(url)}: {_first_line(error)}") from error


@contextmanager
def driver_lock(folder: Path, url: str, study: str) -> Iterator[None]:
    """Hold the study for this driver until the block ends, or the process dies.

    A file lock in the study's folder keeps out a second driver on this machine; on PostgreSQL an advisory lock also
    keeps out one on another machine.

    Raises:
        StorageError: another driver holds the study; the text says which.
    """
    path = folder / LOCK_FILE
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"study {study!r} is being searched by {_holder(path)}; wait for it or stop it"
            ) from error
        stream.seek(0)
        stream.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, stream)
        stream.flush()
        with _advisory_lock(url, study):
            yield


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def _advisory_lock(url: str, study: str) -> Iterator[None]:
    parsed = _parse(url)
    if parsed.get_backend_name() != "postgresql":
        yield
        return
    try:
        engine = sqlalchemy.create_engine(parsed, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT")
    except ImportError as error:
        raise StorageError(_missing_driver(parsed)) from error
    key = int.from_bytes(hashlib.sha256(f"autocompress/{study}".encode()).digest()[:8], "big", signed=True)
    with engine.connect() as connection:  # the lock lives as long as the connection
        if not connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
            raise StorageError(
                f"study {study!r} in {redact(url)} is being searched by a driver on another machine; "
                "wait for it or stop it"
            )
        yield
