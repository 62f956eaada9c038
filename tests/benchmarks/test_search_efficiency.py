"""The comparison of searches on a table: its figures are those of the simulator."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from autocompress.search.simulator import simulate
from autocompress.specs.schemas import Constraints
from tests.search import table as tables

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "search_efficiency.py"


def test_figures_are_means_over_seeds_and_ratios_are_over_ours(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(json.dumps(tables.values()))
    command = [sys.executable, str(PROGRAM), "--table", "table.json", "--seeds", "2", "--json", "out.json"]
    command += ["--min-dice", "60", "--jobs", "1", "--methods", "ours (auto)", "ours, random", "random"]
    command += ["--until", "0.4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["configurations"] == 48
    assert values["everything_seconds"] == pytest.approx(48 * (tables.GATE + tables.TRAIN + tables.FINISH))
    for comparison in values["comparisons"]:
        rows = {row["method"]: row for row in comparison["rows"]}
        assert comparison["ratios"]["random"] == pytest.approx(
            rows["random"]["compute_mean"] / rows["ours (auto)"]["compute_mean"]
        )
        assert all(row["compute_mean"] <= 0.4 for row in rows.values())
        table, limits = tables.table(), Constraints(min_dice=comparison["min_dice"])
        traces = [
            simulate(table, sampler="random", seed=seed, constraints=limits, enough=0.95, until=0.4 * table.seconds)
            for seed in range(2)
        ]
        reached = [min(each.compute_to(0.95) / table.seconds, 0.4) for each in traces]
        assert rows["ours, random"]["compute_mean"] == pytest.approx(statistics.fmean(reached))


def test_a_table_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--table", "nowhere.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cannot read nowhere.json" in done.stderr
