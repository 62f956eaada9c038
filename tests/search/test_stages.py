"""A trial that stops on its way and goes on elsewhere ends as one that did not, and trains nothing twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from autocompress.config import CompressionConfig
from autocompress.data import open_dataset
from autocompress.hardware.targets import resolve_target
from autocompress.search import trial as trial_module
from autocompress.search.executor import Ended
from autocompress.search.records import WEIGHTS_FILE, TrialRequest, TrialResult
from autocompress.search.stages import (
    PROGRESS_FILE,
    STAGE_FILES,
    TRAINED_FILE,
    TrialFolders,
    last_results,
    next_part,
    save_progress,
)
from autocompress.search.trial import run_trial
from autocompress.search.variants import Variants
from autocompress.specs.library import load_spec
from autocompress.training.metrics import evaluate_volumes
from tests.search import fake_search

DATA: dict[str, Any] = {"name_or_path": "phantoms-tiny", "seed": 0, "validation_fraction": 0.2, "class_names": None}
TRAINING = {"steps": 18, "batch_size": 8, "seed": 3, "threads": 1, "distill_weight": 0.0, "bf16": "off"}


def request(files: TrialFolders, number: int, pause_at: float | None = None) -> TrialRequest:
    files.prepare(number)
    return TrialRequest(
        folder=str(files.folder(number)),
        number=number,
        config=CompressionConfig(resolution=32, levels=1, width=0.125),
        family="dae-former",
        data=DATA,
        target=resolve_target(load_spec("target", "cpu-onnxruntime")).to_dict(),
        training=TRAINING,
        parent=None,
        percentile="p50",
        threads=1,
        pause_at=pause_at,
    )


def run(asked: TrialRequest) -> TrialResult | None:
    run_trial(asked.to_dict())
    return TrialResult.load(Path(asked.folder))


@pytest.mark.slow
def test_stopped_twice_handed_over_and_judged_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = TrialFolders(tmp_path)
    whole = run(request(files, 0))
    assert whole is not None and whole.state == "complete" and whole.steps == 18

    assert run(request(files, 1, 1 / 9)) is None
    first = files.progress(1)
    assert first is not None and [rung.share for rung in first.rungs] == [1 / 9]
    assert first.steps == 2 and first.measurement is not None and first.measurement.ok
    run_trial(request(files, 1, 1 / 9).to_dict())  # asked again after the answer was lost
    assert files.progress(1) == first

    files.prepare(3)
    for name in STAGE_FILES:
        if (files.folder(1) / name).exists():
            shutil.copy(files.folder(1) / name, files.folder(3))
    files.let_go(3)  # as if without hope: it trains anew, and keeps what is known of the gate and the rung

    files.hand_over(1, 2)  # it was stopped, and is taken up under another number
    assert run(request(files, 2, 1 / 3)) is None
    second = files.progress(2)
    assert second is not None and second.number == 2 and second.rungs[0] == first.rungs[0]
    assert second.seconds["train"] > first.seconds["train"]

    # The target is out of reach while it is judged: what was trained stays.
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    with monkeypatch.context() as broken:
        broken.setattr(trial_module, "evaluate_file", fail)
        with pytest.raises(OSError, match="no route"):
            run(request(files, 2))
    assert (files.folder(2) / TRAINED_FILE).exists()

    with monkeypatch.context() as idle:
        idle.setattr(trial_module._Trial, "_train", fail)
        result = run(request(files, 2))
    assert result is not None and result.state == "complete"
    assert result.dice == whole.dice and result.steps == 18
    assert [rung.share for rung in result.rungs] == [1 / 9, 1 / 3]
    anew = run(request(files, 3))
    assert anew is not None and anew.steps == 18 and anew.rungs == first.rungs
    theirs = load_file(files.folder(0) / WEIGHTS_FILE)
    for number in (2, 3):
        ours = load_file(files.folder(number) / WEIGHTS_FILE)
        assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    assert not any((files.folder(number) / name).exists() for name in STAGE_FILES for number in (0, 2, 3))


def test_a_rung_tells_the_dice_of_the_network_as_it_was(tmp_path: Path) -> None:
    import torch

    from autocompress.models import build
    from autocompress.training.checkpoint import Checkpoint

    files = TrialFolders(tmp_path)
    asked = request(files, 0, 1 / 3)
    run(asked)
    progress = files.progress(0)
    dataset = open_dataset(**DATA)
    model = build("dae-former", asked.config, in_channels=1, num_classes=len(dataset.class_names)).eval()
    model.load_state_dict(Checkpoint.load(files.folder(0) / "training.safetensors").part("model"))
    with torch.inference_mode():
        report = evaluate_volumes(lambda part: model(torch.from_numpy(part)).numpy(), dataset, "validation", 32)
    assert progress is not None and progress.rungs[0].dice == pytest.approx(report.mean)
    (files.folder(0) / "training.safetensors").write_bytes(b"\0" * 20)
    result = run(request(files, 0))
    assert result is not None and result.state == "failed" and "is damaged" in result.reason


def test_a_limit_is_kept_with_what_it_refused(tmp_path: Path) -> None:
    files = TrialFolders(tmp_path)
    result = run(replace(request(files, 0), max_latency_ms=1e-4))
    assert result is not None and result.state == "pruned" and not result.stopped
    assert dict(result.refused_under) == {"max_latency_ms": 1e-4}
    assert not (files.folder(0) / PROGRESS_FILE).exists()


def test_parts_of_a_trial_need_the_target_or_train_and_not_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("not on this machine")

    training = (trial_module._Trial, "_train")
    target = ((Variants, "measure"), (trial_module, "evaluate_file"))
    files = TrialFolders(tmp_path)
    for part, elsewhere in (("gate", [training]), ("training", target), ("judgement", [training])):
        assert files.result(0) is None and next_part(files.folder(0)) == part
        with monkeypatch.context() as here:
            for module, name in elsewhere:
                here.setattr(module, name, fail)
            run(replace(request(files, 0), training={**TRAINING, "steps": 4}, part=next_part(files.folder(0))))
    result = files.result(0)
    assert result is not None and result.state == "complete" and result.steps == 4 and result.measurement is not None


class AtOnce:
    """Runs each task while it is submitted, and keeps which part of which trial it was."""

    slots = 1
    running: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.parts: list[tuple[int, str]] = []
        self._ended: list[Ended] = []

    def submit(self, key: str, function: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> None:
        self.parts.append((int(key), values["part"]))
        try:
            function(values)
            self._ended.append(Ended(key, None))
        except OSError as error:
            self._ended.append(Ended(key, str(error)))

    def wait(self, seconds: float) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended


def test_the_driver_asks_for_one_part_after_the_other_and_for_a_lost_one_again(tmp_path: Path) -> None:
    plan = fake_search.make_plan(tmp_path / "study", trials=2)
    files, executor = TrialFolders(plan.folder), AtOnce()

    def asked(number: int, config: CompressionConfig) -> Mapping[str, Any]:
        folder = files.folder(number)
        return {"folder": str(folder), "number": number, "config": config.to_dict(), "part": next_part(folder)}

    def task(values: Mapping[str, Any]) -> None:
        folder, config = Path(values["folder"]), CompressionConfig.from_dict(values["config"])
        if values["part"] == "gate":
            save_progress(folder, TrialResult(values["number"], config, "failed"))
        elif values["part"] == "judgement":
            fake_search.fake_trial({**values, "seconds": 0.0})
        elif executor.parts.count((0, "training")) == 1 and values["number"] == 0:
            raise OSError("the worker died")
        else:
            (folder / TRAINED_FILE).touch()

    plan.folder.mkdir()
    driver, _ = fake_search.drive(plan, executor, task=task, request=asked)
    assert [result.state for result in driver.results] == ["complete", "complete"]
    assert executor.parts == [
        *((0, part) for part in ("gate", "training")),
        *((1, part) for part in ("training", "judgement")),
        *((2, part) for part in ("gate", "training", "judgement")),
    ]


def test_of_a_trial_that_was_taken_up_again_the_last_result_counts(tmp_path: Path) -> None:
    files = TrialFolders(tmp_path)
    one, other = CompressionConfig(resolution=32), CompressionConfig(resolution=64)
    for number, config, state in ((2, one, "pruned"), (10, one, "complete"), (9, other, "pruned")):
        files.save(TrialResult(number, config, state))
    files.prepare(11)  # under way
    assert [(each.number, each.state) for each in last_results(tmp_path)] == [(9, "pruned"), (10, "complete")]
