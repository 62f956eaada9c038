"""The recorder of tables: what a row holds, and that an interruption loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from autocompress.config import CompressionConfig
from autocompress.errors import UserError
from benchmarks import record_table

REPOSITORY = Path(__file__).resolve().parents[2]
SPACE = """
resolution: [32]
levels: [1]
width: [0.125]
pruning: [{pattern: none}, {pattern: channel, ratios: [0.5]}]
"""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in this process, which has torch loaded already, one job at a time, and measure in a moment."""
    from autocompress.hardware import settings

    def pool(workers: int) -> Executor:
        return ThreadPoolExecutor(1)

    brief = {"min_seconds": 0.0, "max_seconds": 0.05, "warmup_seconds": 0.05, "foreign_limit": 1e9, "agreement": None}
    monkeypatch.setattr(record_table, "_pool", pool)
    monkeypatch.setattr(settings, "MeasureSettings", partial(settings.MeasureSettings, **brief))


def _interrupted_in_training(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Ctrl-C comes when so many networks were trained. The answer fills with the identifiers of those begun."""
    begun: list[str] = []
    train = record_table.train_row

    def watched(job: record_table.Job) -> Any:
        if len(begun) == after:
            raise KeyboardInterrupt
        begun.append(CompressionConfig.from_dict(job["config"]).identifier)
        return train(job)

    monkeypatch.setattr(record_table, "train_row", watched)
    return begun


@pytest.mark.usefixtures("here", "tiny_phantoms")
def test_an_interrupted_recording_goes_on_without_training_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space, out, path = tmp_path / "space.yaml", tmp_path / "out", tmp_path / "table.json"
    space.write_text(SPACE)
    command = ["--data", "phantoms-tiny", "--space", str(space), "--steps", "18", "--parent-seconds", "1"]
    command += ["--out", str(out), "--table", str(path)]
    with monkeypatch.context() as patch:
        first = _interrupted_in_training(patch, after=1)
        assert record_table.main(command) == 130
    assert not path.exists()
    assert "same command goes on" in capsys.readouterr().err

    assert record_table.main([*command, "--assemble"]) == 0
    assert len(json.loads(path.read_text())["rows"]) == 1

    with monkeypatch.context() as patch:
        second = _interrupted_in_training(patch, after=5)
        assert record_table.main(command) == 0
    assert len(first) == len(second) == 1
    assert first != second

    table = json.loads(path.read_text())
    assert table["schema"] == "autocompress-table/1"
    assert table["dataset"] == "phantoms-tiny"
    assert table["parent_seconds"] > 0.5
    rows = table["rows"]
    assert [row["config"]["prune_ratio"] for row in rows] == [0.0, 0.5]
    assert rows[1]["size_bytes"] < rows[0]["size_bytes"]  # half of the hidden channels are gone
    for row in rows:
        assert row["steps"] == 18
        assert [rung["share"] for rung in row["rungs"]] == [0.1111, 0.3333, 1.0]
        seconds = [rung["seconds"] for rung in row["rungs"]]
        assert 0 < seconds[0] < seconds[1] < seconds[2]
        assert all(0 <= rung["dice"] < 100 for rung in row["rungs"])
        assert row["latency_ms"] > 0 and row["gate_seconds"] > 0 and row["finish_seconds"] > 0

    assert record_table.main([*command, "--seed", "1"]) == 2
    assert "choose another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_keeps_what_is_finished(tmp_path: Path) -> None:
    short, long = tmp_path / "short.json", tmp_path / "long.json"
    script = f"""
import time
from pathlib import Path
from benchmarks.record_table import run_jobs
run_jobs(time.sleep, {{Path({str(short)!r}): 0.0, Path({str(long)!r}): 600.0}}, 2, "naps")
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "1 of 2" in line, line + process.stderr.read()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode != 0
    assert short.exists()
    assert not long.exists()


def test_of_two_measurements_the_faster_one_is_kept() -> None:
    slow, fast = {"disturbed": False, "latency_ms": 3.0}, {"disturbed": True, "latency_ms": 2.0}
    assert record_table.faster(slow, fast) is fast
    assert record_table.faster(fast, slow) is fast


def test_a_network_slower_than_a_larger_one_is_doubtful() -> None:
    small = CompressionConfig(resolution=32, width=0.25)
    pruned = CompressionConfig(resolution=64, width=0.25, prune_pattern="channel", prune_ratio=0.5)
    large = CompressionConfig(resolution=64, width=0.5)
    other = CompressionConfig(resolution=96, width=0.125)  # larger in one respect, smaller in another: no comparison
    assert record_table.implausible({small: 2.0, pruned: 2.04, large: 2.0, other: 1.0}) == []
    assert record_table.implausible({small: 1.0, pruned: 2.1, large: 2.0, other: 1.0}) == [pruned]


def test_rows_of_two_recordings_are_not_mixed(tmp_path: Path) -> None:
    record_table.claim(tmp_path, {"seed": 0, "seconds": 20.0})
    record_table.claim(tmp_path, {"seed": 0, "seconds": 20.0})
    with pytest.raises(UserError, match=r"another seconds \(20\.0, now 30\.0\)"):
        record_table.claim(tmp_path, {"seed": 0, "seconds": 30.0})


def test_the_committed_table_is_whole() -> None:
    """Every configuration of its space, each once, with rungs in order."""
    from autocompress.specs.schemas import SearchSpace

    path = REPOSITORY / "benchmarks" / "tables" / "phantoms.json"
    table = json.loads(path.read_text())
    assert path.stat().st_size < 300_000
    wanted = {config.identifier for config in SearchSpace.from_dict(table["space"]).configurations()}
    found = [CompressionConfig.from_dict(row["config"]).identifier for row in table["rows"]]
    assert len(wanted) >= 120
    assert len(found) == len(wanted)
    assert set(found) == wanted
    for row in table["rows"]:
        assert [rung["share"] for rung in row["rungs"]] == table["rungs"]
        seconds = [rung["seconds"] for rung in row["rungs"]]
        assert seconds == sorted(set(seconds))
        assert all(0 <= rung["dice"] <= 100 for rung in row["rungs"])
        assert min(row["latency_ms"], row["memory_bytes"], row["size_bytes"], row["steps"], seconds[0]) > 0
