from __future__ import annotations

import json
from pathlib import Path

import pytest

from autocompress.cli import main
from autocompress.cli.list_ import table


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("spaces", {"paper", "compact", "full"}),
        ("objectives", {"dice-latency", "dice-latency-p90"}),
        ("targets", {"cpu"}),
        ("studies", {"default", "phantoms", "acdc", "cpu-deepsparse"}),
        ("models", {"dae-former", "unet"}),
    ],
)
def test_lists_names_with_their_descriptions(kind: str, names: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert names <= {line.split()[0] for line in lines}
    assert all(len(line.split()) > 3 for line in lines)

    assert main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert names <= {row["name"] for row in rows}
    assert all(row["description"] and row["origin"] for row in rows)


def test_files_of_the_working_directory_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "paper.yaml").write_text("description: Mine.\nresolution: 64\n")
    (tmp_path / "search_spaces" / "wrong.yaml").write_text("resolution: 31\n")
    monkeypatch.chdir(tmp_path)
    assert main(["list", "spaces"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["paper"].split("  ", 1)[1].strip() == "working directory (hides built-in)  Mine."
    assert "WRONG: search_spaces/wrong.yaml: field resolution[0]: 31 must be" in lines["wrong"]


def test_an_unknown_kind_is_told_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "engines"]) == 2
    err = capsys.readouterr().err
    assert "invalid choice: 'engines'" in err
    assert all(kind in err for kind in ("targets", "spaces", "objectives", "studies", "models"))


def test_columns_are_aligned() -> None:
    assert table([["a", "bb", "c"], ["aaa", "b", ""]]) == "a    bb  c\naaa  b"
