from __future__ import annotations

import json
from pathlib import Path

import pytest

from autocompress.cli import main
from autocompress.specs import load_spec, load_study


@pytest.mark.parametrize(
    ("kind", "name", "folder"),
    [
        ("space", "paper", "search_spaces"),
        ("spaces", "compact", "search_spaces"),
        ("objective", "dice-latency", "objectives"),
        ("target", "cpu", "hw_profiles"),
        ("study", "phantoms", "studies"),
    ],
)
def test_what_is_shown_is_a_file_that_can_be_used(
    kind: str,
    name: str,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", kind, name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"# {kind.removesuffix('s')} {name}, built-in: ")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["show", kind, "mine"]) == 0
    again = capsys.readouterr().out
    assert [line for line in again.splitlines() if line[0] != "#"] == [
        line for line in text.splitlines() if line[0] != "#"
    ]


def test_a_study_is_shown_with_its_space_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "study", "default", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == "study"
    assert shown["origin"] == "built-in"
    assert Path(shown["path"]).name == "default.yaml"
    assert shown["spec"] == load_study("default").to_dict()
    assert shown["spec"]["space"]["resolution"] == list(load_spec("space", "compact").resolution)


def test_a_notice_of_an_engine_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "target", "cpu"]) == 0
    comments = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert any("deepsparse" in line and "evaluation" in line for line in comments)


def test_a_model_says_what_it_can_be_built_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "model", "dae-former", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["levels"] == [1, 2, 3]
    assert set(shown["groupings"]) == {"depthwise", "dense"}
    assert main(["show", "models", "dae-former"]) == 0
    assert "levels: [1, 2, 3]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["study", "phantom"], "unknown study 'phantom'; did you mean phantoms?"),
        (["target", "./nowhere.yaml"], "target './nowhere.yaml': no such file"),
        (["model", "dae-farmer"], "dae-former"),
        (["engine", "x"], "invalid choice: 'engine'"),
    ],
)
def test_what_is_not_there_gets_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.count("\n") == 1
