"""The command as a user types it: trained, measured, exported, confirmed; on the smallest phantoms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autocompress.bundles import load, verify_bundle
from autocompress.cli import main
from autocompress.data import open_dataset


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autocompress", "search", "--runs", str(folder / "runs"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=400, check=False)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text("resolution: [32, 64]\nlevels: [1, 2]\nwidth: [0.125]\nprecision: [fp32, int8]\n")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, space: Path) -> tuple[Path, dict[str, Any]]:
    """A search that came to its end, and the last line that it printed."""
    folder = tmp_path_factory.mktemp("search")
    done = run(folder, *SMALL, "--space", str(space), "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


SMALL = (
    "--data",
    "phantoms-tiny",
    "--target",
    "cpu-onnxruntime",
    "--trials",
    "3",
    "--trial-seconds",
    "2",
    "--study",
    "small",
)


def test_last_line_is_the_result(finished: tuple[Path, dict[str, Any]]) -> None:
    _, last = finished
    assert last["event"] == "done" and last["study"] == "small"
    assert sum(last["trials"].values()) == 3
    assert set(last["seconds"]) == {"setup", "train", "measure", "evaluate", "export", "other"}
    latencies = [member["latency_ms"]["p50"] for member in last["front"]]
    assert latencies
    for member in last["front"]:
        assert set(member) >= {"trial", "config", "dice", "dice_test", "latency_ms", "measured", "parameters", "gmacs"}
        assert member["measured"] is True and 0 <= member["dice"] <= 100 and 0 <= member["dice_test"] <= 100
        assert Path(member["bundle"], "model.onnx").stat().st_size == member["size_bytes"]


def test_members_of_the_front_are_bundles_that_verify_and_predict(finished: tuple[Path, dict[str, Any]]) -> None:
    _, last = finished
    volume = next(open_dataset("phantoms-tiny").volumes("test"))
    for member in last["front"]:
        report = verify_bundle(member["bundle"], remeasure=False)
        assert report.ok, report.first_failure
        labels = load(member["bundle"]).predict(volume.image[:, 0])
        assert labels.shape == volume.label.shape and labels.max() <= 8


def test_the_same_command_takes_up_what_is_there(finished: tuple[Path, dict[str, Any]], space: Path) -> None:
    folder, last = finished
    again = run(folder, *SMALL, "--space", str(space), "--json")
    assert again.returncode == 0, again.stderr
    repeated = json.loads(again.stdout.splitlines()[-1])
    assert repeated["front"] == last["front"] and repeated["trials"] == last["trials"]


def test_another_setting_under_the_same_name_is_refused(
    finished: tuple[Path, dict[str, Any]], space: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = str(finished[0] / "runs")
    assert main(["search", "--runs", runs, *SMALL, "--space", str(space), "--seed", "5"]) == 2
    assert_one_line(capfd.readouterr().err, "choose another --study name")


def test_a_search_for_a_board_that_is_not_there_says_predicted_everywhere(
    tmp_path: Path, space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", "phantoms-tiny", "--target", "jetson-nano", "--space", str(space), "--trials", "1")
    done = run(tmp_path, *arguments, "--trial-seconds", "2", "--no-parent", "--study", "board")
    assert done.returncode == 0, done.stderr
    assert "are predicted, not measured: published figures" in " ".join(done.stdout.split())
    (bundle,) = (tmp_path / "runs" / "board" / "bundles").iterdir()
    assert bundle.name.endswith("-predicted")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["target"] == "jetson-nano"
    assert [model["measurements"][0]["measured"] for model in manifest["models"]] == [False]
    assert "predicted, not measured" in (bundle / "README.md").read_text()
    assert main(["verify", str(bundle)]) == 0, capsys.readouterr()
    front = json.loads((tmp_path / "runs" / "board" / "front.json").read_text())["front"]
    assert [member["measured"] for member in front] == [False]
    capsys.readouterr()
    assert main(["search", "--runs", str(tmp_path / "runs"), *arguments[:2], "--target", "gpu", "--trials", "1"]) == 2
    assert "--predict" in capsys.readouterr().err


def test_the_report_of_the_study_is_one_file(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    assert main(["report", str(folder / "runs" / "small")]) == 0
    page = (folder / "runs" / "small" / "report.html").read_text()
    assert "<script" in page and "gallbladder" in page


def test_nothing_feasible_ends_with_the_nearest_miss(finished: tuple[Path, dict[str, Any]], space: Path) -> None:
    folder, _ = finished
    none = run(folder, *SMALL, "--space", str(space), "--min-dice", "99")
    assert none.returncode == 3
    assert "nearest miss is trial" in none.stdout and "relax to --min-dice" in none.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--min-dice", "250"), "min_dice"),
        (("--budget", "soon"), "budget.seconds"),
        (("--warm-start", "no-such-study"), "no study 'no-such-study'"),
        (("--trials", "0"), "budget.trials"),
        (("--target", "abacus"), "unknown target 'abacus'"),
        (("--target", "cpu", "--target", "cpu-openvino", "--engines", "openvino"), "--engines goes with one target"),
        (("--target", "cpu", "--target", "cpu"), "targets"),
        (("--data", "no-such-folder"), "data set not found"),
        (("--workers", "0"), "workers"),
        (("--sampler", "oracle"), "sampler.name"),
        (("--parent", "no-such-folder"), "no-such-folder does not exist"),
        (("--parent", "somewhere", "--no-parent"), "contradict each other"),
        (("--recipe", "no-such-file"), "cannot read recipe no-such-file"),
        (("--study", "../escape"), "no such file"),
        (("--study", ".."), "is no name"),
        (("--runs", "/proc/nowhere"), "cannot create folder"),
        (("--budget", "15s"), "too small for one trial of 10 s of training: at least"),
        (("--storage", "sqlite:////no/such/folder/x.db"), "does not exist"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--runs", str(tmp_path / "runs"), *mistaken(arguments)]) == 2
    assert_one_line(capfd.readouterr().err, expected)


def mistaken(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """A command that would be right without ``arguments``."""
    target = () if "--target" in arguments else ("--target", "cpu-onnxruntime")
    return ("--data", "phantoms-tiny", *target, *arguments)


def assert_one_line(stderr: str, expected: str) -> None:
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and expected in lines[0]


@pytest.mark.slow
def test_a_search_that_stops_trials_trains_its_front_longer_and_starts_another_one(tmp_path: Path, space: Path) -> None:
    arguments = (
        "--data",
        "phantoms-tiny",
        "--target",
        "cpu-onnxruntime",
        "--no-parent",
        "--space",
        str(space),
        "--json",
    )
    done = run(tmp_path, *arguments, "--trials", "5", "--trial-seconds", "12", "--workers", "1", "--study", "first")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(events[-1]["trials"].values()) == 5
    rungs = [event for event in events if event["event"] == "rung"]
    # A ninth of 12 s is too soon; a third is not.
    assert rungs and {round(event["share"], 3) for event in rungs} == {0.333}
    for event in rungs:
        if not event["goes_on"]:
            progress = tmp_path / "runs" / "first" / "trials" / f"{event['trial']:04d}"
            assert json.loads((progress / "result.json").read_text())["rungs"][0]["dice"] == event["dice"]
    for member in events[-1]["front"]:
        assert member["dice"] >= member["was"]["dice"]
        assert (member["longer_seconds"] > 0) == (member["dice"] > member["was"]["dice"])
        assert verify_bundle(member["bundle"], remeasure=False).ok

    second = run(tmp_path, *arguments, "--budget", "100s", "--warm-start", "first", "--study", "second")
    assert second.returncode == 0, second.stderr
    later = [json.loads(line) for line in second.stdout.splitlines()]
    started = [event["config"] for event in later if event["event"] == "started"]
    front = [member["config"] for member in events[-1]["front"]]
    assert started[: len(front)] == front


@pytest.mark.slow
def test_the_nearest_miss_is_trained_longer_and_may_become_feasible(tmp_path: Path, space: Path) -> None:
    arguments = (*SMALL[:4], "--no-parent", "--space", str(space), "--trials", "2", "--trial-seconds", "12", "--json")
    none = run(tmp_path, *arguments, "--workers", "1", "--min-dice", "99", "--study", "miss")
    assert none.returncode == 3, none.stderr
    assert "by further training: not 99 %" in none.stdout
    (path,) = (tmp_path / "runs" / "miss" / "trials").glob("*/longer/result.json")
    before, after = (json.loads(each.read_text())["dice"] for each in (path.parents[1] / "result.json", path))
    assert f"{after:.2f} Dice" in json.loads(none.stdout.splitlines()[-1])["nearest_miss"]
    assert list((tmp_path / "runs" / "miss").glob("bundles/*")) == []

    enough = run(tmp_path, *arguments, "--workers", "1", "--min-dice", f"{(before + after) / 2}", "--study", "miss")
    assert enough.returncode == 0, enough.stderr
    (member,) = json.loads(enough.stdout.splitlines()[-1])["front"]
    assert (member["dice"], member["was"]["dice"], member["longer_seconds"]) == (after, before, 6.0)
    assert verify_bundle(member["bundle"], remeasure=False).ok
