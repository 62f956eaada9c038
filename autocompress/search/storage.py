"""The study's database: opened, refused in one line, upgraded whole or not at all."""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from autocompress.errors import StorageError, UserError
from autocompress.search.database import engine_options, first_line, missing_driver, parse_url, redact
from autocompress.search.reconnecting import ReconnectingStorage
from autocompress.search.single_writer import HeldSessions, SingleWriterStorage
from autocompress.search.study_lock import DriverLock, driver_lock, holder_of

__all__ = [
    "DriverLock",
    "default_url",
    "driver_lock",
    "driver_storage",
    "head_version",
    "holder_of",
    "known_versions",
    "open_storage",
    "redact",
    "storage_errors",
    "study_names",
    "upgrade_storage",
]


def default_url(folder: Path) -> str:
    """SQLite inside the study's folder."""
    return f"sqlite:///{folder / 'study.db'}"


def open_storage(url: str, *, create: bool = True) -> optuna.storages.RDBStorage:
    """Open a study database, and create it where it is new.

    A database of another version is refused before anything in it is touched: Optuna would add tables first and
    complain then.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER@HOST/NAME``.
        create: whether a database that holds no studies yet becomes one.

    Raises:
        StorageError: the URL is wrong, the server is out of reach, or the database is of another version.
    """
    parsed = parse_url(url)
    _check_place(parsed, create=create)
    try:
        with _engine(parsed) as engine:
            revision = _revision(engine)
            empty = not sqlalchemy.inspect(engine).has_table("studies")
        if revision is None and empty and not create:
            raise StorageError(f"database {redact(url)} holds no studies")
        _refuse_other_version(url, parsed, revision)
        return optuna.storages.RDBStorage(
            parsed.render_as_string(hide_password=False), engine_kwargs=engine_options(parsed)
        )
    except ImportError as error:
        raise StorageError(missing_driver(parsed)) from error
    except RuntimeError as error:
        raise StorageError(f"database {redact(url)}: {first_line(error)}") from error
    except (SQLAlchemyError, AssertionError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"cannot open database {redact(url)}: {first_line(error)}") from error


def driver_storage(
    url: str, lock: DriverLock | None = None, say: Callable[[str], None] = lambda _: None
) -> optuna.storages.BaseStorage:
    """A study database for a driver: a server that goes away for a while is waited for.

    Args:
        url: of the database.
        lock: the driver's hold on the study, which a server that restarts forgets and which is therefore taken anew.
        say: is told in one line when the connection is lost and when it is back.

    Raises:
        StorageError: see `open_storage`; later, from the storage's methods, when the server stays away.
    """
    storage = open_storage(url)
    if parse_url(url).get_backend_name() == "sqlite":
        return SingleWriterStorage(storage, HeldSessions(storage))
    renew = (lambda: None) if lock is None else lock.renew
    # A pool replaces a broken connection by itself. A new one means that the server may have forgotten the lock.
    sqlalchemy.event.listen(storage.engine, "connect", lambda *_: renew())
    return SingleWriterStorage(ReconnectingStorage(storage, where=redact(url), renew=renew, say=say))


def study_names(url: str) -> list[str]:
    """Names of a database's studies in their order, whatever version of Optuna wrote it.

    Raises:
        StorageError: the URL is wrong, the server is out of reach, or the database holds no studies.
    """
    parsed = parse_url(url)
    _check_place(parsed, create=False)
    try:
        with _engine(parsed) as engine:
            if not sqlalchemy.inspect(engine).has_table("studies"):
                raise StorageError(f"database {redact(url)} holds no studies")
            with engine.connect() as connection:
                found = connection.execute(sqlalchemy.text("SELECT study_name FROM studies ORDER BY study_name"))
                return [str(name) for (name,) in found]
    except ImportError as error:
        raise StorageError(missing_driver(parsed)) from error
    except SQLAlchemyError as error:
        raise StorageError(f"cannot open database {redact(url)}: {first_line(error)}") from error


def upgrade_storage(url: str, *, keep: Path | None = None) -> tuple[str, str, Path | None]:
    """Bring a database of an older Optuna to this one's version, whole or not at all.

    SQLite: a copy is kept, another one is upgraded and checked, and that one is then written over the database in one
    transaction. PostgreSQL: all steps are one transaction of the server.

    Args:
        url: of the database.
        keep: where the copy of a SQLite database is kept; beside it by default, named after its version.

    Returns:
        The version before, the version now, and the copy (None where nothing was done, or on PostgreSQL).

    Raises:
        StorageError: no study database, one of a newer Optuna, or an upgrade that failed and changed nothing.
    """
    parsed = parse_url(url)
    _check_place(parsed, create=False)
    try:
        with _engine(parsed) as engine:
            revision = _revision(engine)
        if revision is None:
            raise StorageError(f"database {redact(url)} holds no studies")
        if revision == head_version():
            return revision, revision, None
        if revision not in known_versions():
            raise StorageError(_newer(url, revision))
        if parsed.get_backend_name() == "sqlite":
            path = Path(str(parsed.database))
            copy = keep or _free_name(path.with_name(f"{path.name}.{revision}"))
            _upgrade_sqlite(path, copy)
            return revision, head_version(), copy
        _upgrade_in_transaction(parsed)
        return revision, head_version(), None
    except ImportError as error:
        raise StorageError(missing_driver(parsed)) from error
    except (StorageError, UserError):
        raise
    except Exception as error:  # a migration raises what its libraries raise
        raise StorageError(
            f"upgrade of database {redact(url)} failed and changed nothing: {first_line(error)}"
        ) from error


def head_version() -> str:
    """The version of study databases that the installed Optuna reads and writes."""
    return _versions()[0]


def known_versions() -> tuple[str, ...]:
    """All versions that the installed Optuna can upgrade from, its own first."""
    return _versions()


def _versions() -> tuple[str, ...]:
    from alembic.script import ScriptDirectory

    folder = Path(optuna.storages.__file__).parent / "_rdb" / "alembic"
    return tuple(each.revision for each in ScriptDirectory(str(folder)).walk_revisions())


def _revision(engine: sqlalchemy.Engine) -> str | None:
    """The version that a database says it is of; None where it is no study database, or not one yet."""
    if not sqlalchemy.inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _refuse_other_version(url: str, parsed: URL, revision: str | None) -> None:
    if revision is None or revision == head_version():
        return
    if revision not in known_versions():
        raise StorageError(_newer(url, revision))
    raise StorageError(
        f"database {redact(url)} was made by another version of Optuna than {optuna.__version__} "
        f"(schema {revision}, now {head_version()}); type 'autocompress studies upgrade --storage {redact(url)}'"
        + ("" if parsed.password is None else " with its password")
    )


def _newer(url: str, revision: str) -> str:
    return (
        f"database {redact(url)} was made by another version of Optuna, a newer one than {optuna.__version__} "
        f"(schema {revision}); type 'pip install -U optuna'"
    )


def _check_place(parsed: URL, *, create: bool) -> None:
    """A folder that is not there, and a file that a mistyped path would make."""
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    path, shown = Path(parsed.database), redact(str(parsed))
    if not path.parent.is_dir():
        raise StorageError(f"database {shown}: folder {path.parent} does not exist")
    if not create and not path.is_file():
        raise StorageError(f"database {shown} does not exist")


@contextmanager
def _engine(parsed: URL) -> Iterator[sqlalchemy.Engine]:
    options = {key: value for key, value in engine_options(parsed).items() if key != "pool_pre_ping"}
    engine = sqlalchemy.create_engine(parsed, poolclass=sqlalchemy.pool.NullPool, **options)
    try:
        yield engine
    finally:
        engine.dispose()


def _upgrade_sqlite(path: Path, copy: Path) -> None:
    """Upgrade a copy, and write it over the database in one transaction of SQLite."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    work = Path(name)
    try:
        with closing(sqlite3.connect(path, timeout=5)) as original:
            for target in (copy, work):
                with closing(sqlite3.connect(target)) as stream:
                    original.backup(stream)
            _upgrade_in_transaction(make_url(f"sqlite:///{work}"))
            with closing(sqlite3.connect(work)) as upgraded:
                (verdict,) = upgraded.execute("PRAGMA integrity_check").fetchone()
                if verdict != "ok":
                    raise StorageError(f"the upgraded copy of {path} is damaged ({verdict}); nothing was changed")
                upgraded.backup(original)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    finally:
        for left in (work, work.with_name(f"{work.name}-journal")):
            left.unlink(missing_ok=True)


def _free_name(path: Path) -> Path:
    """The path, or with a number where a copy of an earlier upgrade has that name."""
    number = 2
    found = path
    while found.exists():
        found = path.with_name(f"{path.name}.{number}")
        number += 1
    return found


def _upgrade_in_transaction(parsed: URL) -> None:
    # Nothing is created on the way: a table that a migration makes must not be there before it.
    storage = optuna.storages.RDBStorage(
        parsed.render_as_string(hide_password=False),
        engine_kwargs=engine_options(parsed),
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    try:
        with _quiet_root():
            storage.upgrade()
        if storage.get_current_version() != storage.get_head_version():
            raise StorageError(f"the database is of schema {storage.get_current_version()} still")
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def _quiet_root() -> Iterator[None]:
    """Where nobody handles log records, Optuna's migrations would set logging up for the whole process."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn database errors inside the block into one line."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"database {redact(url)}: {first_line(error)}") from error
