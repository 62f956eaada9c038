"""Databases: opened, refused in one line, upgraded whole or not at all, held by one driver, waited for."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from autocompress.errors import StorageError
from autocompress.search import study_lock
from autocompress.search.reconnecting import ReconnectingStorage
from autocompress.search.storage import (
    default_url,
    driver_lock,
    driver_storage,
    holder_of,
    open_storage,
    redact,
    upgrade_storage,
)
from tests.search.postgres_server import Server, postgres_server

OLD = "v3.0.0.d"
"""A version of Optuna's tables before the present one: 3.0 and 3.1 wrote it."""


def small_study(url: str, name: str = "old") -> list[Any]:
    """A study of three trials; what they are, to be compared after an upgrade."""
    study = optuna.create_study(storage=open_storage(url), study_name=name, directions=["maximize", "minimize"])
    for number in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("label", f"trial {number}")
        study.tell(trial, [number, float("inf") if number == 2 else -number])
    return contents(url, name)


def contents(url: str, name: str = "old") -> list[Any]:
    study = optuna.load_study(storage=open_storage(url), study_name=name)
    return [(trial.number, trial.state, trial.values, trial.params, trial.user_attrs) for trial in study.trials]


def downgrade(url: str) -> None:
    """Make a database what an older Optuna would have left: 3.2 brought an index and nothing else."""
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP INDEX ix_trials_study_id"))
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = :old"), {"old": OLD})
    storage.engine.dispose()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as running:
        yield running


@pytest.fixture
def postgres(server: Server, request: pytest.FixtureRequest) -> str:
    """URL of an empty database on the server."""
    name = f"db{abs(hash(request.node.nodeid))}"
    server.ask(f'CREATE DATABASE "{name}"')
    return server.url.replace("/postgres?", f"/{name}?")


# -- opening ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@localhost:1/db", "postgresql://me@localhost:1/db?password=secret"],
)
def test_passwords_are_never_shown(url: str) -> None:
    assert "secret" not in redact(url)
    with pytest.raises(StorageError) as caught:
        open_storage(url + ("&" if "?" in url else "?") + "connect_timeout=1")
    assert "secret" not in str(caught.value) and "localhost" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "mongo://x/y", "sqlite:////no/such/folder/study.db"])
def test_wrong_urls_are_one_line(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_text("not a database, " * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_storage(default_url(tmp_path))
    assert path.read_text() == "not a database, " * 100


def test_nothing_is_created_where_something_was_to_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        open_storage(default_url(tmp_path), create=False)
    assert not list(tmp_path.iterdir())


# -- versions -----------------------------------------------------------------------------------------------------


def test_a_database_of_a_newer_optuna_is_refused_and_not_touched(tmp_path: Path) -> None:
    open_storage(default_url(tmp_path)).engine.dispose()
    path = tmp_path / "study.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
        connection.execute("DROP TABLE trial_heartbeats")  # Optuna would make a missing table before it complains
    before = path.read_bytes()
    for attempt in (open_storage, upgrade_storage):
        with pytest.raises(StorageError, match="pip install -U optuna"):
            attempt(default_url(tmp_path))
    assert path.read_bytes() == before


def test_an_older_sqlite_database_is_upgraded_by_the_command_that_the_refusal_names(tmp_path: Path) -> None:
    url = default_url(tmp_path)
    trials = small_study(url)
    downgrade(url)
    before = (tmp_path / "study.db").read_bytes()
    with pytest.raises(StorageError, match=f"type 'autocompress studies upgrade --storage {url}'"):
        open_storage(url)
    assert (tmp_path / "study.db").read_bytes() == before

    old, new, copy = upgrade_storage(url)
    assert (old, new) == (OLD, "v3.2.0.a") and copy is not None
    assert contents(url) == trials
    with sqlite3.connect(copy) as connection:  # the copy is what was there, openable by what wrote it
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (OLD,)
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (3,)
    assert {path.name for path in tmp_path.iterdir()} == {"study.db", copy.name}
    assert upgrade_storage(url) == (new, new, None)


def failing_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the upgrade fail once its statements were carried out."""
    from alembic.runtime.migration import MigrationContext

    real = MigrationContext.run_migrations

    def broken(self: MigrationContext, **options: Any) -> None:
        real(self, **options)
        raise RuntimeError("the lights went out")

    monkeypatch.setattr(MigrationContext, "run_migrations", broken)


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = default_url(tmp_path)
    trials = small_study(url)
    downgrade(url)
    before = (tmp_path / "study.db").read_bytes()
    with monkeypatch.context() as patch:
        failing_after(patch)
        with pytest.raises(StorageError, match="changed nothing: the lights went out"):
            upgrade_storage(url)
    assert (tmp_path / "study.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]
    upgrade_storage(url)
    assert contents(url) == trials


def test_postgresql_is_upgraded_in_one_transaction(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import psycopg

    trials = small_study(postgres)
    downgrade(postgres)

    def state() -> tuple[Any, ...]:
        with psycopg.connect(postgres) as connection:
            index = connection.execute("SELECT count(*) FROM pg_indexes WHERE indexname = 'trials_study_id_key'")
            version = connection.execute("SELECT version_num FROM alembic_version")
            return (*(index.fetchone() or ()), *(version.fetchone() or ()))

    assert state() == (0, OLD)
    with pytest.raises(StorageError, match="studies upgrade --storage postgresql://postgres"):
        open_storage(postgres)
    with monkeypatch.context() as patch:
        failing_after(patch)
        with pytest.raises(StorageError, match="changed nothing"):
            upgrade_storage(postgres)
    assert state() == (0, OLD)
    assert upgrade_storage(postgres) == (OLD, "v3.2.0.a", None)
    assert state() == (1, "v3.2.0.a") and contents(postgres) == trials


# -- one driver ---------------------------------------------------------------------------------------------------


def test_a_second_driver_is_told_who_holds_the_study(tmp_path: Path) -> None:
    url = default_url(tmp_path)
    assert holder_of(tmp_path, url, "mine") is None
    me = f"process {os.getpid()} on {socket.gethostname()}"
    with driver_lock(tmp_path, url, "mine"):
        assert holder_of(tmp_path, url, "mine") == me
        with pytest.raises(StorageError, match=f"being searched by {me}"), driver_lock(tmp_path, url, "mine"):
            pass
    with driver_lock(tmp_path, url, "mine"):
        pass
    assert holder_of(tmp_path, url, "mine") is None


def test_postgresql_tells_a_driver_elsewhere_who_holds_the_study(tmp_path: Path, postgres: str) -> None:
    # Another folder stands for another machine: the file lock there is free.
    other = tmp_path / "other"
    other.mkdir()
    me = f"process {os.getpid()} on {socket.gethostname()}"
    with driver_lock(tmp_path, postgres, "shared"):
        assert holder_of(None, postgres, "shared") == me
        assert holder_of(None, postgres, "unlike it") is None
        with pytest.raises(StorageError, match=f"being searched by {me}"), driver_lock(other, postgres, "shared"):
            pass
        with driver_lock(other, postgres, "unlike it"):
            pass
    assert holder_of(None, postgres, "shared") is None


# -- a server that goes away --------------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_comes_back_is_waited_for(tmp_path: Path, server: Server, postgres: str) -> None:
    said: list[str] = []
    with driver_lock(tmp_path, postgres, "patient") as lock:
        storage = driver_storage(postgres, lock, said.append)
        study = optuna.create_study(storage=storage, study_name="patient", directions=["maximize", "minimize"])
        first = study.ask()
        server.kill()
        restart = threading.Timer(1.0, server.start)
        restart.start()
        study.tell(first, [1.0, 2.0])
        restart.join()
        assert [line.split(": ")[1].split(" ")[0] for line in said] == ["connection", "back"]
        # The server forgot the lock; the driver holds it again.
        holder = holder_of(None, postgres, "patient")
        assert holder == f"process {os.getpid()} on {socket.gethostname()}"
        assert [(trial.state, trial.values) for trial in study.trials] == [(TrialState.COMPLETE, [1.0, 2.0])]


def test_a_driver_whose_study_was_taken_while_the_server_restarted_writes_nothing(
    tmp_path: Path, server: Server, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_lock, "_CHECK_SECONDS", 1000.0)  # as if the other one was there first
    (tmp_path / "other").mkdir()
    with driver_lock(tmp_path, postgres, "wanted") as lock:
        study = optuna.create_study(
            storage=driver_storage(postgres, lock), study_name="wanted", directions=["maximize"]
        )
        trial = study.ask()
        server.kill()
        server.start()
        with driver_lock(tmp_path / "other", postgres, "wanted"):
            with pytest.raises(StorageError, match="is being searched by process"):
                study.tell(trial, 1.0)
            (stored,) = optuna.load_study(storage=open_storage(postgres), study_name="wanted").trials
            assert stored.state == TrialState.RUNNING


def test_a_server_that_stays_away_is_one_line_and_then_no_more_waiting(server: Server, postgres: str) -> None:
    storage = ReconnectingStorage(open_storage(postgres), where=redact(postgres), patience=1.0)
    study = optuna.create_study(storage=storage, study_name="gone", directions=["maximize", "minimize"])
    trial = study.ask()
    server.kill()
    try:
        with pytest.raises(StorageError, match=r"not back within 1 s .*repeat the command") as caught:
            study.tell(trial, [1.0, 2.0])
        assert "\n" not in str(caught.value)
        begun = time.monotonic()
        with pytest.raises(StorageError):
            study.ask()
        assert time.monotonic() - begun < 0.9
    finally:
        server.start()


class AnswerLost:
    """A database whose server dies after it did something and before it said so."""

    def __init__(self, backend: optuna.storages.RDBStorage, method: str) -> None:
        self._real = getattr(backend, method)
        self.left = 1

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        from sqlalchemy.exc import OperationalError

        value = self._real(*arguments, **named)
        if self.left:
            self.left -= 1
            raise OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))
        return value


@pytest.mark.parametrize("method", ["_create_new_trial", "set_trial_state_values", "set_trial_user_attr"])
@pytest.mark.parametrize("enqueued", [False, True])
def test_what_was_done_although_its_answer_was_lost_is_not_done_twice(
    tmp_path: Path, method: str, enqueued: bool
) -> None:
    backend = open_storage(default_url(tmp_path))
    storage = ReconnectingStorage(backend, where="here")
    study = optuna.create_study(storage=storage, study_name="once", directions=["maximize", "minimize"])
    lost = AnswerLost(backend, method)
    setattr(backend, method, lost)
    if enqueued:
        study.enqueue_trial({"x": 0.5})
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("label", "one")
    study.tell(trial, [1.0, 2.0])
    assert lost.left == 0
    (only,) = optuna.load_study(storage=open_storage(default_url(tmp_path)), study_name="once").trials
    assert (only.state, only.values, only.user_attrs) == (TrialState.COMPLETE, [1.0, 2.0], {"label": "one"})


def test_what_is_no_lost_connection_is_not_repeated(tmp_path: Path) -> None:
    storage = ReconnectingStorage(open_storage(default_url(tmp_path)), where="here")
    study = optuna.create_study(storage=storage, study_name="once", directions=["maximize"])
    trial = study.ask()
    study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_user_attr(trial._trial_id, "late", 1)
