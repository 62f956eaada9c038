"""Unstructured pruning: the ratio that was asked for, in the file that is exported, and zeros that stay."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.compression.precision import convert
from autocompress.compression.pruning import KeepZeros, SparseMLPruning, check_sparseml, prunable_weights, sparsity_of
from autocompress.data.dataset import FloatArray, SliceSet
from autocompress.errors import ConfigError
from autocompress.training.settings import TrainSettings
from autocompress.training.trainer import train

needs_sparseml = pytest.mark.skipif(importlib.util.find_spec("sparseml") is None, reason="sparseml is not installed")


@pytest.fixture(scope="module")
def slices(samples: FloatArray) -> SliceSet:
    labels = np.random.default_rng(0).integers(0, 3, (len(samples), *samples.shape[2:]))
    return SliceSet(samples, labels.astype(np.uint8))


@pytest.fixture
def model(delicate: Callable[..., nn.Module]) -> nn.Module:
    return delicate(channels=32)


def test_what_is_prunable(model: nn.Module) -> None:
    # Neither the first layer, nor the last, nor the depthwise one.
    assert prunable_weights(model) == ("qkv.weight", "expand.weight", "mix.weight")


def test_sparsity_counts_the_zeros_of_the_prunable_weights(
    model: nn.Module, export: Callable[..., Path], tmp_path: Path, samples: FloatArray
) -> None:
    with torch.no_grad():
        model.embed.weight.zero_()  # not prunable: must not count
        model.qkv.weight[:, :16] = 0  # 96 x 32: half of 3072
        model.expand.weight[:, :8] = 0  # 128 x 32: a quarter of 4096; mix has 4096 more
    expected = (1536 + 1024) / (3072 + 4096 + 4096)
    assert sparsity_of(model) == pytest.approx(expected)
    path = tmp_path / "model.onnx"
    for opset in (13, 17):
        export(model, path, opset)
        assert sparsity_of(path) == pytest.approx(expected)
    for precision in ("fp16", "int8"):
        convert(path, tmp_path / "other.onnx", precision, calibration=samples)
        # A few small weights may round to zero on top.
        assert expected <= sparsity_of(tmp_path / "other.onnx") < expected + 0.02


@needs_sparseml
@pytest.mark.parametrize("ratio", [0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 12])
def test_the_ratio_is_reached_however_few_the_steps(
    model: nn.Module,
    export: Callable[..., Path],
    slices: SliceSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    steps: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    train(model, slices, TrainSettings(steps=steps), pruning=SparseMLPruning(model, ratio))
    export(model, tmp_path / "model.onnx")
    assert sparsity_of(tmp_path / "model.onnx") == pytest.approx(ratio, abs=0.005)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # SparseML's logs stay away


@needs_sparseml
def test_the_ratio_is_reached_before_the_last_third_of_the_budget(model: nn.Module, slices: SliceSet) -> None:
    sparsities: list[float] = []
    train(
        model,
        slices,
        TrainSettings(steps=20),
        pruning=SparseMLPruning(model, 0.8),
        on_progress=lambda *_: sparsities.append(sparsity_of(model)),
    )
    assert sparsities[13] == pytest.approx(0.8, abs=0.005)
    assert 0 < sparsities[5] < 0.8  # gradually
    assert sparsities[13:] == [sparsities[13]] * 7


@needs_sparseml
def test_a_training_that_is_stopped_still_ends_at_the_ratio(model: nn.Module, slices: SliceSet) -> None:
    outcome = train(model, slices, TrainSettings(steps=20), pruning=SparseMLPruning(model, 0.8), stop=lambda: "now")
    assert outcome.steps == 0
    assert sparsity_of(model) == pytest.approx(0.8, abs=0.005)


@needs_sparseml
def test_a_users_recipe_is_followed(model: nn.Module, slices: SliceSet) -> None:
    recipe = """
pruning_modifiers:
  - !GMPruningModifier
    params: ["re:qkv.weight"]
    init_sparsity: 0.0
    final_sparsity: 0.6
    start_epoch: 0.0
    end_epoch: 2.0
    update_frequency: 0.5
"""
    pruning = SparseMLPruning(model, recipe=recipe, source="mine.yaml")
    assert pruning.recipe.text == recipe
    train(model, slices, TrainSettings(steps=10), pruning=pruning)
    assert (model.qkv.weight == 0).float().mean().item() == pytest.approx(0.6, abs=0.005)
    assert not (model.expand.weight == 0).any()
    with pytest.raises(ConfigError, match=r"mine\.yaml.*'nowhere\.weight' matches no weight"):
        SparseMLPruning(model, recipe=recipe.replace("re:qkv.weight", "nowhere.weight"), source="mine.yaml")


def test_zeros_survive_later_training(model: nn.Module, slices: SliceSet) -> None:
    with torch.no_grad():
        model.expand.weight[torch.rand(model.expand.weight.shape) < 0.7] = 0
    zeros = model.expand.weight == 0
    before = model.expand.weight.detach().clone()
    train(model, slices, TrainSettings(steps=5), pruning=KeepZeros(model))
    assert (model.expand.weight[zeros] == 0).all()
    assert not torch.equal(model.expand.weight, before)


def test_without_sparseml_the_install_line_is_named(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'autocompress\[deepsparse\]'"):
        check_sparseml()
    with pytest.raises(ConfigError, match="SparseML"):
        SparseMLPruning(model, 0.5)
