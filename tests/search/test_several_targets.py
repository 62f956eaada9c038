"""One search for two targets: each network is trained once, measured on both, and leaves with a file for each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from autocompress.bundles import load, verify_bundle
from autocompress.bundles.manifest import read_manifest
from autocompress.config import CompressionConfig
from autocompress.hardware.records import Latency, Measurement
from autocompress.reports.html import html_report
from autocompress.reports.tables import front_table
from autocompress.search.driver import pareto_front
from autocompress.search.limits import violations
from autocompress.search.records import Placement, TrialResult
from autocompress.search.storage import default_url
from autocompress.search.view import load_study_view
from autocompress.specs.schemas import Constraints

TARGETS = ("cpu-onnxruntime", "cpu-openvino")
SPACE = """
resolution: [32]
levels: [1]
width: [0.125, 0.25]
grouping: [depthwise]
pruning: [{pattern: none}]
precision: [fp32]
"""


def _measured(engine: str, p50: float, memory: int = 10) -> Measurement:
    latency = Latency(p50, p50, p50, p50, (p50, p50), 64)
    return Measurement(engine, "1", "here", "ok", latency=latency, peak_memory_bytes=memory)


def _result(number: int, dice: float, first: float, second: float) -> TrialResult:
    return TrialResult(
        number,
        CompressionConfig(resolution=32 + number),
        "complete",
        dice=dice,
        measurements=(_measured("onnxruntime", first, memory=10),),
        size_bytes=1000,
        others=(Placement("b", (_measured("openvino", second, memory=30),), dice, "model-b.onnx", 4000),),
    )


def test_a_limit_holds_on_every_target() -> None:
    limits = Constraints(max_latency_ms=6, max_memory_bytes=20, max_size_bytes=5000)
    excess = violations(_result(0, 80, 5, 8), limits, "p50")
    assert excess == {"max_latency_ms": 2, "max_memory_bytes": 10, "max_size_bytes": -1000}


def test_a_model_that_is_best_on_one_target_is_on_the_front() -> None:
    trials = [_result(0, 80, 5, 8), _result(1, 75, 6, 3), _result(2, 79, 7, 9)]
    assert [each.number for each in pareto_front(trials, "p50")] == [0, 1]


def test_a_result_travels_as_json() -> None:
    result = _result(0, 80, 5, 8)
    assert TrialResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.latencies_ms("p50") == (5, 8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The study's folder and the last line of its search."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "space.yaml").write_text(SPACE)
    command = [sys.executable, "-m", "autocompress", "search", "--data", "phantoms-tiny", "--study", "both"]
    command += [part for name in TARGETS for part in ("--target", name)]
    command += ["--space", "space.yaml", "--trials", "2", "--trial-seconds", "2", "--no-parent", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    trials = [event for event in events if event["event"] == "trial"]
    assert all(list(event["latencies_ms"]) == list(TARGETS) for event in trials)
    return folder / "runs" / "both", events[-1]


@pytest.mark.slow
def test_each_target_is_an_objective(finished: tuple[Path, dict[str, Any]]) -> None:
    study = optuna.load_study(study_name="both", storage=default_url(finished[0]))
    assert study.metric_names == ["Dice (%)", *(f"latency p50 on {name} (ms)" for name in TARGETS)]
    for trial in study.get_trials(deepcopy=False):
        result = TrialResult.load(finished[0] / "trials" / f"{trial.number:04d}")
        assert result is not None
        assert trial.values == [result.dice, *result.latencies_ms("p50")]
        assert result.dice == min(result.dice, *(each.dice or 0 for each in result.others))


@pytest.mark.slow
def test_a_bundle_holds_a_file_for_each_target(finished: tuple[Path, dict[str, Any]]) -> None:
    for member in finished[1]["front"]:
        manifest = read_manifest(Path(member["bundle"]))
        assert [(model.target, model.engine) for model in manifest.models] == [
            ("cpu-onnxruntime", "onnxruntime"),
            ("cpu-openvino", "openvino"),
        ]
        assert [each["target"] for each in member["others"]] == ["cpu-openvino"]
        report = verify_bundle(member["bundle"], remeasure=False)
        assert report.ok, report.first_failure
        assert load(member["bundle"]).manifest.model.file == "model.onnx"


@pytest.mark.slow
def test_report_and_tables_show_both(finished: tuple[Path, dict[str, Any]]) -> None:
    view = load_study_view(finished[0])
    assert [each.target for each in view.views] == list(TARGETS)
    for number, each in enumerate(view.views):
        assert TARGETS[number] in str(front_table(each).title)
        for trial in each.front_trials:
            assert trial.engine == ("onnxruntime", "openvino")[number]
    html = html_report(view)
    assert html.count('class="chart-data"') == 2
    for name in TARGETS:
        assert f"p50 latency on {name} in ms" in html
