from __future__ import annotations

import json
from pathlib import Path

import pytest

from autocompress.cli import main

from ..bundles.conftest import Parts, parts
from ..reports.study_folder import make_study

__all__ = ["parts"]


@pytest.fixture
def runs(tmp_path: Path, parts: Parts, acdc: Path) -> Path:
    make_study(tmp_path / "runs" / "heart", parts, str(acdc))
    return tmp_path / "runs"


def test_a_study_becomes_one_file_with_examples(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = tmp_path / "front.svg"
    assert main(["report", "heart", "--runs", str(runs), "--svg", str(svg), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    page = Path(told["report"]).read_text()
    assert told["report"] == str(runs / "heart" / "report.html")
    assert told["examples"] == 3
    assert page.count('<img src="data:image/png;base64,') == 9  # image, reference and one member, for three cases
    assert "70.25" in page
    assert "not trained" in page
    assert svg.read_text().startswith("<svg")


def test_data_that_moved_away_cost_only_the_examples(
    tmp_path: Path, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "heart", parts, str(tmp_path / "gone"))
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "heart"), "--out", str(out)]) == 0
    assert "no examples" in capsys.readouterr().out
    assert "no examples" in out.read_text()


def test_what_cannot_work_is_one_line(tmp_path: Path, parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_study(tmp_path / "heart", parts, "phantoms-tiny")
    for arguments, message in (
        (["nowhere", "--runs", str(tmp_path)], "no study 'nowhere'"),
        ([str(folder), "--out", str(tmp_path)], "is a folder"),
        ([str(folder), "--out", str(tmp_path / "no" / "page.html")], "does not exist"),
    ):
        assert main(["report", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
