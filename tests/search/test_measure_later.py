"""A trial whose board is away: held back at the gate, or trained by predicted latency and measured later."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from autocompress.config import CompressionConfig
from autocompress.errors import HeldBackError
from autocompress.hardware.hosts import AgentJob, AgentReport, Host, LocalHost
from autocompress.hardware.predicted import with_all_predictors
from autocompress.hardware.targets import Target, resolve_target
from autocompress.search.records import TrialRequest, TrialResult
from autocompress.search.stages import TRAINED_FILE
from autocompress.search.trial import run_trial
from autocompress.specs.library import load_spec


class Board:
    """This machine in the part of a board that may be away."""

    name = "user@board"

    def __init__(self) -> None:
        self.away = False
        self.jobs = 0

    def run(self, job: AgentJob) -> AgentReport:
        if self.away:
            return AgentReport("lost", "onnxruntime: user@board: no answer", {}, "starting", 0.0)
        self.jobs += 1
        return LocalHost().run(job)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fast: None) -> Board:
    found = Board()

    def open_host(target: Target) -> Host:
        return LocalHost() if target.predicted else found

    monkeypatch.setattr(Target, "open_host", open_host)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    return found


@pytest.fixture
def request_values(tmp_path: Path) -> dict[str, Any]:
    profile = load_spec("target", "cpu-onnxruntime")
    target = with_all_predictors(resolve_target(profile), profile)
    (tmp_path / "trial").mkdir()
    request = TrialRequest(
        folder=str(tmp_path / "trial"),
        number=3,
        config=CompressionConfig(resolution=32, levels=1, width=0.125),
        family="dae-former",
        data={"name_or_path": "phantoms-tiny"},
        target=replace(target, host_kind="ssh", accuracy_slices=8).to_dict(),
        training={"steps": 2, "seed": 0, "threads": 1},
        parent=None,
        percentile="p50",
        threads=1,
    )
    return asdict(request)


def test_a_lost_board_holds_the_trial_back_and_nothing_is_told(board: Board, request_values: dict[str, Any]) -> None:
    board.away = True
    folder = Path(request_values["folder"])
    with pytest.raises(HeldBackError, match="user@board: no answer"):
        run_trial(request_values)
    assert TrialResult.load(folder) is None

    board.away = False
    run_trial(request_values)
    result = TrialResult.load(folder)
    assert result is not None and result.state == "complete", result
    assert result.measurement is not None and result.measurement.measured


def test_measure_later_trains_first(board: Board, request_values: dict[str, Any]) -> None:
    request_values["measure_later"] = True
    board.away = True
    folder = Path(request_values["folder"])
    with pytest.raises(HeldBackError):
        run_trial(request_values)
    # It is trained, and nothing of it is told.
    trained = (folder / TRAINED_FILE).stat().st_mtime_ns
    assert TrialResult.load(folder) is None
    assert board.jobs == 0
    with pytest.raises(HeldBackError):
        run_trial(request_values)
    assert (folder / TRAINED_FILE).stat().st_mtime_ns == trained

    board.away = False
    run_trial(request_values)
    result = TrialResult.load(folder)
    assert result is not None and result.state == "complete"
    assert result.steps == 2
    # What was predicted for the gate has made way for what was measured.
    assert result.measurement is not None and result.measurement.measured and result.measurement.latency is not None
    assert result.measurement.latency.runs > 0
