"""Stored studies, as the command lists, renames, exports, deletes and upgrades them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from autocompress.cli import main
from autocompress.paths import read_json, write_json
from autocompress.search.plan import PLAN_FILE
from autocompress.search.storage import default_url, driver_lock, open_storage

from ..bundles.conftest import Parts, parts
from ..reports.study_folder import make_study

__all__ = ["parts"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, parts: Parts) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name in ("heart", "liver"):
        make_study(folder / "runs" / name, parts, "phantoms-tiny")
    url = f"sqlite:///{folder / 'shared.db'}"
    for name in ("one", "two"):
        study = optuna.create_study(storage=open_storage(url), study_name=name, directions=["maximize", "minimize"])
        for dice, latency in ((70.0, 9.0), (80.0, 12.0)):
            trial = study.ask()
            storage = study._storage  # what trial.report does, which is for one objective
            storage.set_trial_intermediate_value(trial._trial_id, 3, 60.0)
            study.tell(trial, [dice, latency])
        study.ask()
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """Two studies of three trials: two complete (71.5 % at 0.8 ms, 78 % at 25 ms) and one refused."""
    return Path(shutil.copytree(made / "runs", tmp_path / "runs"))


@pytest.fixture
def shared(made: Path, tmp_path: Path) -> str:
    """A database with two studies and no folders."""
    shutil.copyfile(made / "shared.db", tmp_path / "shared.db")
    return f"sqlite:///{tmp_path / 'shared.db'}"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The JSON that a successful command prints."""
    assert main(["studies", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["studies", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def names(url: str) -> set[str]:
    return {each.study_name for each in open_storage(url).get_all_studies()}


def test_list_tells_what_is_there_and_who_searches_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heart = runs / "heart"
    with driver_lock(heart, default_url(heart), "heart"):
        first, second = call(capsys, "list", "--runs", str(runs))
    assert (first["name"], second["name"]) == ("heart", "liver")
    assert first["trials"] == {"complete": 2, "pruned": 1}
    assert (first["best_dice"], first["best_latency_ms"], first["front"]) == (78.0, 0.8, 1)
    assert first["holder"] == f"process {os.getpid()} on {socket.gethostname()}" and second["holder"] is None
    (runs / "liver" / "trials" / "0000" / "result.json").write_text("{")
    assert main(["studies", "list", "--runs", str(runs)]) == 0
    heading, heart_line, liver_line = capsys.readouterr().out.splitlines()
    assert "2 complete, 1 pruned" in heart_line and "78.00 %" in heart_line and "0.80 ms" in heart_line
    assert heading.startswith("study") and "WRONG" in liver_line


def test_list_of_a_database(shared: str, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = call(capsys, "list", "--storage", shared)
    assert (one["name"], two["name"]) == ("one", "two")
    assert one["trials"] == {"complete": 2, "running": 1}
    assert (one["best_dice"], one["best_latency_ms"]) == (80.0, 9.0)


def test_rename_keeps_folder_plan_and_database_in_agreement(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "rename", "heart", "cor", "--runs", str(runs))["study"] == "cor"
    assert not (runs / "heart").exists()
    assert read_json(runs / "cor" / PLAN_FILE)["name"] == "cor"
    assert names(default_url(runs / "cor")) == {"cor"}
    assert main(["report", "cor", "--runs", str(runs), "--no-examples"]) == 0
    capsys.readouterr()
    assert "exists already" in refusal(capsys, "rename", "cor", "liver", "--runs", str(runs))
    assert "is no name" in refusal(capsys, "rename", "cor", "../escape", "--runs", str(runs))


def test_a_rename_that_was_interrupted_is_finished_by_the_same_command(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "heart").rename(runs / "cor")  # and then the lights went out
    call(capsys, "rename", "heart", "cor", "--runs", str(runs))
    assert read_json(runs / "cor" / PLAN_FILE)["name"] == "cor" and names(default_url(runs / "cor")) == {"cor"}


def test_rename_in_a_shared_database(shared: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has a study of that name" in refusal(capsys, "rename", "one", "two", "--storage", shared)
    call(capsys, "rename", "one", "three", "--storage", shared)
    assert names(shared) == {"two", "three"}


def test_export_writes_every_trial(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("csv", "json"):
        told = call(capsys, "export", "heart", "--runs", str(runs), "--out", str(tmp_path / f"heart.{kind}"))
        assert told["trials"] == 3
    rows = list(csv.DictReader(io.StringIO((tmp_path / "heart.csv").read_text())))
    assert [(row["number"], row["state"], row["dice"], row["p50_ms"]) for row in rows] == [
        ("0", "complete", "71.5", "0.8"),
        ("1", "complete", "78.0", "25.0"),
        ("2", "pruned", "", "90.0"),
    ]
    assert (rows[2]["resolution"], rows[1]["width"]) == ("224", "0.5")
    exported = json.loads((tmp_path / "heart.json").read_text())
    assert exported["plan"]["name"] == "heart"
    first = exported["trials"][0]
    assert first["optuna"]["values"] == [71.5, 0.8] and first["measurements"][0]["latency"]["p50"] == 0.8
    assert "give a file" in refusal(capsys, "export", "heart", "--runs", str(runs), "--out", str(tmp_path / "x.txt"))
    assert "say where to" in refusal(capsys, "export", "heart", "--runs", str(runs))


def test_export_tells_rungs_and_copies_into_another_database(
    shared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    call(capsys, "export", "one", "--storage", shared, "--out", str(tmp_path / "one.json"), "--to-storage", other)
    exported = json.loads((tmp_path / "one.json").read_text())["trials"]
    assert [each["optuna"]["intermediate_values"] for each in exported] == [{"3": 60.0}, {"3": 60.0}, {}]
    copied = optuna.load_study(study_name="one", storage=open_storage(other))
    assert [trial.values for trial in copied.trials] == [[70.0, 9.0], [80.0, 12.0], None]
    assert "already" in refusal(capsys, "export", "one", "--storage", shared, "--to-storage", other)


def test_delete_takes_the_study_and_nothing_else(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("kept")
    (runs / "heart" / "trials" / "link").symlink_to(elsewhere)
    assert "add --yes" in refusal(capsys, "delete", "heart", "--runs", str(runs))
    heart = runs / "heart"
    with driver_lock(heart, default_url(heart), "heart"):
        assert "being searched by process" in refusal(capsys, "delete", "heart", "--runs", str(runs), "--yes")
    assert (heart / PLAN_FILE).exists()
    call(capsys, "delete", "heart", "--runs", str(runs), "--yes")
    assert [path.name for path in runs.iterdir()] == ["liver"]
    assert (elsewhere / "file").read_text() == "kept"
    assert "no study 'heart'" in refusal(capsys, "delete", "heart", "--runs", str(runs), "--yes")


def test_delete_in_a_shared_database_leaves_the_others(shared: str, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "delete", "one", "--storage", shared, "--yes")
    assert names(shared) == {"two"}


def test_delete_leaves_a_folder_whose_database_others_use(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optuna.create_study(storage=open_storage(default_url(runs / "heart")), study_name="guest")
    assert "also holds guest" in refusal(capsys, "delete", "heart", "--runs", str(runs), "--yes")
    assert (runs / "heart" / PLAN_FILE).exists()


def test_upgrade_by_name_and_not_beside_a_driver(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heart = runs / "heart"
    url = default_url(heart)
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("DROP INDEX ix_trials_study_id"))
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v3.0.0.d'"))
    storage.engine.dispose()
    with driver_lock(heart, url, "heart"):
        for how in (["heart", "--runs", str(runs)], ["--storage", url, "--runs", str(runs)]):
            assert "being searched by process" in refusal(capsys, "upgrade", *how)
    told = call(capsys, "upgrade", "heart", "--runs", str(runs))
    assert (told["before"], told["now"]) == ("v3.0.0.d", "v3.2.0.a") and Path(told["copy"]).is_file()
    assert main(["studies", "upgrade", "--storage", url]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_what_cannot_work_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ACTION" in refusal(capsys)
    assert "no study 'lung'" in refusal(capsys, "rename", "lung", "x", "--runs", str(runs))
    assert "does not exist" in refusal(capsys, "list", "--storage", f"sqlite:///{runs / 'none.db'}")
    assert not (runs / "none.db").exists()
    (runs / "heart" / "study.db").unlink()
    assert "--storage URL" in refusal(capsys, "delete", "heart", "--runs", str(runs), "--yes")
    write_json(runs / "heart" / PLAN_FILE, {"name": "heart"})
    assert main(["studies", "list", "--runs", str(runs)]) == 0
