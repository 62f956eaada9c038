from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from autocompress.cli import main


@pytest.mark.usefixtures("tiny_phantoms")
def test_describes_and_draws_a_sheet_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "describe", "phantoms-tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "contact sheet written to phantoms-tiny-contact-sheet.png"
    assert any("liver" in line for line in lines)
    with Image.open(tmp_path / "phantoms-tiny-contact-sheet.png") as sheet:
        assert min(sheet.size) > 100


@pytest.mark.usefixtures("tiny_phantoms")
def test_json_is_one_object_with_the_place_of_the_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "describe", "phantoms-tiny", "--json", "--sheet", str(sheet)]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["contact_sheet"] == str(sheet)
    assert sheet.is_file()


def test_a_folder_that_is_not_there_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "describe", str(tmp_path / "nowhere")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "nowhere" in err
    assert err.count("\n") == 1
