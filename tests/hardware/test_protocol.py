"""The statistics of the protocol against NumPy and SciPy, and the agent's own rules."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from autocompress.hardware.agent import protocol
from autocompress.hardware.hosts.agent_file import AGENT_FOLDER, agent_file


@pytest.mark.parametrize("count", [1, 2, 64, 997])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_percentiles_are_those_of_numpy(count: int, share: float) -> None:
    values = np.random.default_rng(count).lognormal(size=count)
    assert protocol.percentile(sorted(values.tolist()), share) == pytest.approx(np.percentile(values, 100 * share))


@pytest.mark.parametrize("count", [64, 100, 500, 4000])
def test_interval_of_p90_covers_it_with_95_percent(count: int) -> None:
    low, high = protocol.interval_ranks(count, 0.9)
    # The quantile lies between the order statistics low and high (from 0) when more than `low` values and at most
    # `high` values are below it.
    coverage = binom.cdf(high, count, 0.9) - binom.cdf(low, count, 0.9)
    assert 0.95 <= coverage < 0.985
    # Narrower on either side would be too narrow.
    assert binom.cdf(high - 1, count, 0.9) < 0.975
    assert binom.cdf(low + 1, count, 0.9) > 0.025


def test_interval_holds_the_true_p90_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    truth = np.log(10.0)  # 90th percentile of the exponential distribution
    hits = 0
    for _ in range(400):
        low, high = protocol.summary(random.exponential(size=200).tolist())["p90_interval"]
        hits += low <= truth <= high
    assert hits / 400 > 0.92


def test_few_values_still_have_an_interval() -> None:
    assert protocol.interval_ranks(1, 0.9) == (0, 0)
    low, high = protocol.interval_ranks(10, 0.9)
    assert 0 <= low < high == 9


def test_summary_of_a_known_series() -> None:
    summary = protocol.summary([float(value) for value in range(100, 0, -1)])
    assert (summary["p50"], summary["mean"], summary["runs"]) == (50.5, 50.5, 100)
    assert summary["p90"] == pytest.approx(90.1)
    assert summary["p99"] == pytest.approx(99.01)


def test_agent_imports_only_the_standard_library_at_the_top() -> None:
    nodes = [node for path in AGENT_FOLDER.glob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    # Among themselves its modules name each other relatively: their package has another name on a host.
    names |= {
        (node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
    }
    engines = {"onnxruntime", "openvino", "deepsparse", "torch", "safetensors", "tensorrt"}
    assert names - set(sys.stdlib_module_names) == {"numpy", *engines}


def test_agent_is_one_file_that_is_the_same_wherever_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = agent_file()
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    second = agent_file()
    assert tmp_path in second.parents and second.read_bytes() == first.read_bytes()
    # Alone in a folder, in an interpreter that does not see this package, it still answers.
    alone = second.replace(tmp_path / "alone.pyz")
    (tmp_path / "request.json").write_text('{"engine": "no-such-engine", "probe": true}')
    command = [sys.executable, "-I", str(alone), "request.json", "answer.json"]
    subprocess.run(command, cwd=tmp_path, check=True)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert (answer["outcome"], answer["message"]) == ("unsupported", "this agent has no engine no-such-engine")


def test_agent_runs_on_python_36() -> None:
    pytest.importorskip("vermin", reason="pip install 'autocompress[dev]'")
    arguments = ["-t=3.6-", "--violations", "--no-tips", str(AGENT_FOLDER)]
    command = [sys.executable, "-c", "import vermin; vermin.main()", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_agent_without_arguments_says_how_it_is_used() -> None:
    result = subprocess.run([sys.executable, str(agent_file())], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "REQUEST ANSWER" in result.stderr


def test_foreign_load_sees_another_process_and_not_this_one() -> None:
    spin = "import time\nend = time.time() + 1.5\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        load = protocol.Load()
        other.wait()
    found = load.since()
    if found["foreign"] is None:
        pytest.skip("this kernel does not tell its CPU time")
    assert found["foreign"] > 0.3
    assert found["own"] < 0.5


RULES = {"foreign_limit": 0.06, "attempts": 3, "agreement": 0.02, "repeat_seconds": 6.0}


def verdict(*series: tuple[float, float], seconds: float = 1.0, wanted: int = 2) -> tuple[int, bool] | None:
    """Of series given as p50 and foreign load."""
    return protocol.verdict([(p50, foreign, seconds) for p50, foreign in series], RULES, wanted)


def test_the_fastest_series_counts_once_two_agree() -> None:
    assert verdict((10.0, 0.0)) is None
    assert verdict((10.0, 0.0), (9.9, 0.0)) == (1, False)
    # A neighbour that no counter shows: two slow series do not outvote two fast ones, nor does one fast one suffice.
    assert verdict((22.0, 0.0), (10.0, 0.0), (21.0, 0.0)) is None
    assert verdict((22.0, 0.0), (10.0, 0.0), (21.0, 0.0), (10.1, 0.0)) == (1, False)


def test_a_series_beside_foreign_load_does_not_count() -> None:
    assert verdict((9.0, 0.5), (10.0, 0.0)) is None
    assert verdict((9.0, 0.5), (10.0, 0.0), (10.1, 0.0)) == (1, False)
    assert verdict((9.0, 0.5), (9.0, 0.2)) is None
    assert verdict((9.0, 0.5), (9.0, 0.2), (9.0, 0.4)) == (1, True)


def test_a_board_that_was_slowed_down_in_every_series_is_told_by_the_fastest_of_them() -> None:
    slowed = float("inf")
    assert verdict((9.0, slowed), (10.0, 0.0), (10.1, 0.0)) == (1, False)
    assert verdict((9.0, slowed), (8.0, slowed), (10.0, slowed)) == (1, True)
    # Somebody else's load is the lesser evil.
    assert verdict((9.0, slowed), (8.0, slowed), (10.0, 0.3)) == (2, True)


def test_without_agreement_the_fastest_is_marked_when_the_time_is_over() -> None:
    apart = ((14.0, 0.0), (12.0, 0.0), (10.0, 0.0))
    assert verdict(*apart) is None
    assert verdict(*apart, seconds=2.0) == (2, True)
    # One series of a slow model takes all the time there is, and nothing speaks against it.
    assert verdict((200.0, 0.0), seconds=12.8) == (0, False)


def test_an_engine_that_repeats_itself_needs_one_series() -> None:
    assert verdict((10.0, 0.0), wanted=1) == (0, False)
    assert protocol.verdict([(10.0, None, 1.0)], {**RULES, "agreement": None}) == (0, False)
