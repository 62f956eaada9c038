"""A training that pauses and goes on is the training that was never interrupted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.compression.pruning import KeepZeros, SparseMLPruning
from autocompress.data.dataset import SliceSet
from autocompress.errors import ConfigError, DataError
from autocompress.training.checkpoint import Checkpoint, Pause
from autocompress.training.distillation import soft_targets
from autocompress.training.settings import TrainSettings
from autocompress.training.trainer import train

Build = Callable[[], nn.Module]
STEPS = 18


def _with_dropout(network: Build) -> nn.Module:
    return nn.Sequential(*network(), nn.Dropout(0.2))


def _same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("bf16", ["off", "on"])
def test_goes_on_bit_for_bit_through_two_pauses(network: Build, squares: SliceSet, tmp_path: Path, bf16: str) -> None:
    settings = TrainSettings.from_dict({"steps": STEPS, "bf16": bf16, "batch_size": 20})
    teacher = soft_targets(network(), squares.images)
    whole = _with_dropout(network)
    expected = train(whole, squares, settings, teacher=teacher)

    path = tmp_path / "state.safetensors"
    seen = []
    for at in (1 / 9, 1 / 3, None):
        model = _with_dropout(network)  # as another process would build it
        torch.manual_seed(99)
        outcome = train(model, squares, settings, teacher=teacher, pause=Pause(path, at))
        seen.append((outcome.status, outcome.steps))
    assert seen == [("paused", 2), ("paused", 6), ("done", STEPS)]
    assert _same(model, whole)
    assert outcome.loss == expected.loss


def test_zeros_are_chosen_when_they_would_have_been(network: Build, squares: SliceSet, tmp_path: Path) -> None:
    pytest.importorskip("sparseml")
    settings = TrainSettings(steps=STEPS)
    whole = network()
    train(whole, squares, settings, pruning=SparseMLPruning(whole, 0.8))
    for at in (1 / 9, 1 / 3, None):
        model = network()
        train(model, squares, settings, pruning=SparseMLPruning(model, 0.8), pause=Pause(tmp_path / "state", at))
    assert _same(model, whole)
    assert float((model[2].weight == 0).float().mean()) == pytest.approx(0.8, abs=0.01)


def test_seconds_before_a_pause_count(network: Build, squares: SliceSet, tmp_path: Path) -> None:
    settings = TrainSettings(seconds=0.2)
    first = train(network(), squares, settings, pause=Pause(tmp_path / "state", 0.5))
    second = train(network(), squares, settings, pause=Pause(tmp_path / "state"))
    assert first.status == "paused" and 0.1 <= first.seconds < 0.2
    assert second.status == "done" and second.steps > first.steps
    assert second.seconds >= 0.2


def test_no_pickle_is_read(network: Build, squares: SliceSet, tmp_path: Path) -> None:
    path = tmp_path / "state"
    train(network(), squares, TrainSettings(steps=9), pause=Pause(path, 0.3))
    assert path.read_bytes()[8:9] == b"{"  # safetensors: a length, then a JSON header
    assert Checkpoint.load(path).values["steps"] == 3


def test_what_does_not_fit_is_named(network: Build, squares: SliceSet, tmp_path: Path) -> None:
    path = tmp_path / "state"
    settings = TrainSettings(steps=4)
    train(network(), squares, settings, pause=Pause(path, 0.5))
    other = nn.Sequential(nn.Conv2d(1, 2, 1))
    with pytest.raises(DataError, match="does not fit this training"):
        train(other, squares, settings, pause=Pause(path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="is damaged"):
        train(network(), squares, settings, pause=Pause(path))
    model = copy.deepcopy(network())
    with pytest.raises(ConfigError, match="KeepZeros cannot pause"):
        train(model, squares, settings, pruning=KeepZeros(model), pause=Pause(tmp_path / "new"))
