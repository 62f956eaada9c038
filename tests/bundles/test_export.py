"""Export: ONNX Runtime agrees with PyTorch in every form, with static shapes, quietly."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from autocompress.bundles.export import export_onnx
from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError
from autocompress.models import build, get_family
from autocompress.models.registry import EXPORT_FORMS


def network(config: CompressionConfig, in_channels: int = 1, family: str = "dae-former") -> nn.Module:
    torch.manual_seed(0)
    model = build(family, config, in_channels=in_channels, num_classes=3)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.03)
    return model


def relative_error(model: nn.Module, path: Path, in_channels: int, resolution: int) -> float:
    image = torch.rand(1, in_channels, resolution, resolution)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": image.numpy()})
    with torch.no_grad():
        expected = model.eval()(image).numpy()
    assert logits.shape == expected.shape
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("form", EXPORT_FORMS)
@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(
    ("config", "in_channels"),
    [
        (CompressionConfig(32, 2, 0.1), 1),
        (CompressionConfig(32, 3, 0.1, "dense"), 3),
        (CompressionConfig(64, 1, 0.1), 2),  # more tokens than channels: attention in its other order
        (CompressionConfig(64, 2, 0.1, prune_ratio=0.5, prune_pattern="channel"), 1),
    ],
    ids=str,
)
def test_runtime_agrees(tmp_path: Path, config: CompressionConfig, in_channels: int, opset: int, form: str) -> None:
    model = network(config, in_channels)
    path = tmp_path / "model.onnx"
    export_onnx(
        model,
        path,
        in_channels=in_channels,
        resolution=config.resolution,
        opset=opset,
        form=form,  # type: ignore[arg-type]
    )
    assert relative_error(model, path, in_channels, config.resolution) < 1e-4
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert [entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")] == [opset]
    shape = [dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, in_channels, config.resolution, config.resolution]
    operators = Counter(node.op_type for node in graph.graph.node)
    assert ("LayerNormalization" in operators) == (opset >= 17 and form != "channels_first")
    assert "Gelu" not in operators


@pytest.mark.parametrize("form", ["tokens", "channels_first"])
def test_zeros_of_pruned_weights_reach_the_file(tmp_path: Path, form: str) -> None:
    model = network(CompressionConfig(32, 2, 0.25))
    prunable = get_family("dae-former").prunable(model)
    for name in prunable:
        weight = model.get_parameter(name).data
        weight[weight.abs() <= weight.abs().quantile(0.8)] = 0
    path = tmp_path / "model.onnx"
    export_onnx(model, path, in_channels=1, resolution=32, form=form)  # type: ignore[arg-type]
    matrices = [
        array
        for array in map(numpy_helper.to_array, onnx.load(path).graph.initializer)
        # Depthwise kernels are not pruned, and have one input channel.
        if array.ndim >= 2 and array.size > 512 and not (array.ndim == 4 and array.shape[1:] == (1, 3, 3))
    ]
    zeros = sum(int((array == 0).sum()) for array in matrices) / sum(array.size for array in matrices)
    assert zeros == pytest.approx(0.8, abs=0.005)


def test_unet_exports_in_any_form(tmp_path: Path) -> None:
    model = network(CompressionConfig(32, 2, 0.25, "dense"), family="unet")
    export_onnx(model, tmp_path / "model.onnx", in_channels=1, resolution=32, form="channels_first")
    assert relative_error(model, tmp_path / "model.onnx", 1, 32) < 1e-4


def test_is_quiet_and_keeps_the_mode_of_each_part(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    model.train()
    model[1].eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_onnx(model, tmp_path / "model.onnx", in_channels=1, resolution=8)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert capfd.readouterr() == ("", "")


def test_export_leaves_the_weights_trainable_and_unchanged(tmp_path: Path) -> None:
    model = network(CompressionConfig(32, 2, 0.1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for form in EXPORT_FORMS:
        export_onnx(model, tmp_path / "model.onnx", in_channels=1, resolution=32, form=form)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_refuses_unknown_opset_and_form(tmp_path: Path) -> None:
    model = nn.Conv2d(1, 1, 1)
    with pytest.raises(ConfigError, match="opset 9"):
        export_onnx(model, tmp_path / "m.onnx", in_channels=1, resolution=8, opset=9)
    with pytest.raises(ConfigError, match="'sparse' is not one of plain"):
        export_onnx(model, tmp_path / "m.onnx", in_channels=1, resolution=8, form="sparse")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no multiple of 8"):
        export_onnx(network(CompressionConfig(32, 2, 0.1)), tmp_path / "m.onnx", in_channels=1, resolution=36)
    assert list(tmp_path.iterdir()) == []
