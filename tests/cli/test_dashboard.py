from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autocompress.cli import main

from ..bundles.conftest import Parts, parts
from ..reports.study_folder import make_study

__all__ = ["parts"]

Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def study(tmp_path: Path, parts: Parts) -> Path:
    return make_study(tmp_path / "runs" / "heart", parts, "acdc")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a real dashboard and returns its process and its address."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "autocompress", "dashboard", *map(str, arguments), "--port", "0", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return process, json.loads(line)["url"]

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=90) as answer:
        return answer.read().decode()


def test_the_dashboard_serves_the_study_and_our_figure(start: Start, study: Path) -> None:
    process, url = start(study)
    assert "<html" in get(url).lower()
    api = url.removesuffix("/dashboard") + "/api/studies"
    (summary,) = json.loads(get(api))["study_summaries"]
    assert summary["study_name"] == "heart"
    detail = json.loads(get(f"{api}/{summary['study_id']}"))
    assert "trial 0" in detail["note"]["body"]
    figure = json.loads(detail["plotly_graph_objects"][0]["graph_object"])
    points = {trace["name"]: trace for trace in figure["data"] if "name" in trace}
    # Trial 1 is more accurate and breaks the constraint: it must not be on the front.
    assert points["Pareto front, measured"]["x"] == [0.8]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=90) in (0, 130)


def test_any_database_is_shown_with_its_constraints(start: Start, study: Path) -> None:
    _, url = start("--storage", f"sqlite:///{study / 'study.db'}")
    api = url.removesuffix("/dashboard") + "/api/studies"
    (summary,) = json.loads(get(api))["study_summaries"]
    detail = json.loads(get(f"{api}/{summary['study_id']}"))
    figure = json.loads(detail["plotly_graph_objects"][0]["graph_object"])
    # Optuna draws infeasible trials first and the front last.
    assert list(figure["data"][0]["x"]) == [25.0]
    assert list(figure["data"][-1]["x"]) == [0.8]
    assert figure["layout"]["xaxis"]["title"]["text"] == "latency p50 (ms)"


def test_what_cannot_work_is_one_line(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, message in (
            ([str(study), "--port", port], f"cannot listen on 127.0.0.1 port {port}"),
            ([str(study), "--port", "70000"], "outside 0 to 65535"),
            ([str(study), "--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
            ([], "--storage URL"),
            (["nowhere", "--runs", str(tmp_path)], "no study 'nowhere'"),
            (["--storage", f"sqlite:///{tmp_path}/none.db"], "does not exist"),
            (["--storage", "nonsense"], "not a database URL"),
        ):
            assert main(["dashboard", *arguments]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert message in line
    assert not (tmp_path / "none.db").exists()


def test_a_password_is_never_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--storage", "postgresql://me:secret-word@127.0.0.1:1/studies"]) == 2
    captured = capsys.readouterr()
    assert "secret-word" not in captured.out + captured.err
    assert len(captured.err.splitlines()) == 1
    assert os.environ.get("PGPASSWORD") is None
