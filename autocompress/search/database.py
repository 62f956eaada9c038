"""Database URLs, and how a connection to one is made and named."""

from __future__ import annotations

import os
import socket
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from autocompress.errors import StorageError

APPLICATION = "autocompress"
_NAME_BYTES = 63
"""PostgreSQL cuts ``application_name`` after so many bytes."""


def redact(url: str) -> str:
    """The URL without its password, fit to be shown."""
    try:
        parsed = make_url(url)
        hidden = {key: "***" if key in ("password", "sslpassword") else value for key, value in parsed.query.items()}
        return parsed.set(query=hidden).render_as_string(hide_password=True)
    except ArgumentError:
        return "<not a database URL>"


def parse_url(url: str) -> URL:
    """The URL with the driver that is used for it.

    Raises:
        StorageError: it is none, or of a kind of database that is unknown.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
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


def engine_options(parsed: URL) -> dict[str, Any]:
    """Keyword arguments of SQLAlchemy's engine for a database."""
    if parsed.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    if parsed.get_backend_name() != "postgresql":
        return {"pool_pre_ping": True}
    wanted = {
        "application_name": application_name(),
        "connect_timeout": "10",
        # A machine that vanishes without a word is noticed after a minute and not after two hours.
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
    }
    arguments = {key: value for key, value in wanted.items() if key not in parsed.query}
    return {"pool_pre_ping": True, "connect_args": arguments}


def application_name() -> str:
    """What this process is called in the server's list of connections: ``autocompress HOST pid N``."""
    end = f" pid {os.getpid()}"
    host = socket.gethostname().encode("ascii", "replace").decode()
    return f"{APPLICATION} {host[: _NAME_BYTES - len(APPLICATION) - 1 - len(end)]}{end}"


def missing_driver(parsed: URL) -> str:
    """One line on the Python driver of a kind of database."""
    if parsed.get_backend_name() == "postgresql":
        return "PostgreSQL needs its driver: pip install 'autocompress[postgres]'"
    return f"the Python driver of {parsed.drivername} databases is not installed"


def first_line(error: BaseException) -> str:
    """The first line of what a database said, from under what libraries wrapped it in."""
    cause = getattr(error, "orig", None) or error.__cause__ or error
    cause = getattr(cause, "orig", None) or cause
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
