"""Exported programs: the network's function in plain numbers and text, and nothing that a file could make run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from autocompress.bundles.exported_program import (
    is_exported_program,
    load_exported_program,
    read_exported_program,
    write_exported_program,
)
from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, UserError
from autocompress.hardware.agent import errors, narrowing, programs

from .test_export import network


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A small network's file."""
    path = tmp_path / "model.safetensors"
    write_exported_program(network(CompressionConfig(32, 1, 0.125)), path, in_channels=1, resolution=32)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any], **metadata: str) -> Path:
    """The same file with another graph."""
    with safe_open(str(path), framework="pt") as stream:
        told = dict(stream.metadata())
    graph = json.loads(told["exported_program"])
    change(graph)
    save_file(load_file(str(path)), str(path), {**told, "exported_program": json.dumps(graph), **metadata})
    return path


@pytest.mark.parametrize(
    ("config", "in_channels", "family"),
    [
        (CompressionConfig(32, 2, 0.1), 1, "dae-former"),
        (CompressionConfig(32, 3, 0.1, "dense"), 3, "dae-former"),
        (CompressionConfig(64, 1, 0.1), 2, "dae-former"),
        (CompressionConfig(32, 2, 0.25, "dense"), 1, "unet"),
    ],
    ids=str,
)
def test_gives_what_the_network_gives(tmp_path: Path, config: CompressionConfig, in_channels: int, family: str) -> None:
    model, side = network(config, in_channels, family), config.resolution
    model.train()
    write_exported_program(model, tmp_path / "p.safetensors", in_channels=in_channels, resolution=side)
    assert all(module.training for module in model.modules())
    run = load_exported_program(tmp_path / "p.safetensors")
    model.eval()
    for seed in (1, 2):
        image = np.random.default_rng(seed).random((1, in_channels, side, side), dtype=np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(run(image), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_says_what_it_takes_and_holds(program: Path) -> None:
    found = read_exported_program(program)
    model = network(CompressionConfig(32, 1, 0.125))
    assert (found.input_shape, found.output_shape) == ((1, 1, 32, 32), (1, 3, 32, 32))
    assert found.torch == torch.__version__
    weights = sum(each.bytes for name, each in found.tensors.items() if name.startswith("state/"))
    assert weights == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert {node["op"].split(".")[0] for node in found.graph["nodes"]} <= {"aten", "getitem"}


NEVER_UNPICKLES = """
import json, pickle, sys
import torch, torch.serialization
def caught(*_, **__):
    raise SystemExit("something was unpickled")
class Caught:
    def __init__(self, *_, **__):
        caught()
pickle.Unpickler = pickle._Unpickler = Caught
pickle.load = pickle.loads = torch.load = torch.serialization.load = torch.jit.load = caught
from autocompress.bundles.exported_program import load_exported_program
import numpy
from pathlib import Path
print(load_exported_program(Path(sys.argv[1]))(numpy.zeros((1, 1, 32, 32), numpy.float32)).shape)
"""


def test_nothing_is_unpickled(program: Path) -> None:
    command = [sys.executable, "-c", NEVER_UNPICKLES, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "(1, 3, 32, 32)", done.stderr
    # No pickle is in there either: the header is JSON, and what follows are the tensors' bytes, to the last one.
    content = program.read_bytes()
    length = int.from_bytes(content[:8], "little")
    ends = [each["data_offsets"][1] for name, each in json.loads(content[8 : 8 + length]).items() if name[0] != "_"]
    assert len(content) == 8 + length + max(ends)


def put(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """Change the first operator of a graph."""
    return lambda graph: graph["nodes"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(op="torch.os.system", args=["true"]), "'torch.os.system', which is no operator of ATen"),
        (put(op="os.system.default", args=["true"]), "no operator of ATen"),
        (put(op="aten.__class__.__init__"), "has no operator aten.__class__"),
        (put(op="aten.frobnicate.default"), "has no operator aten.frobnicate.default"),
        (put(op="aten.from_file.default", args=["/etc/passwd"]), "the text '/etc/passwd'"),
        (put(kwargs={"a": {"dtype": "load"}}), "argument of an unknown kind 'dtype'"),
        (put(kwargs={"a": {"call": "os.system"}}), "argument of an unknown kind 'call'"),
        (put(kwargs={"x=print(1)": 1}), "without a proper name"),
        (put(args=[{"value": "nowhere"}]), "nowhere"),
    ],
)
def test_what_is_no_tensor_operator_is_refused(
    program: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    rewrite(program, change)
    with pytest.raises(UserError) as caught:
        load_exported_program(program)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_values_never_become_code(program: Path) -> None:
    """torch.fx writes Python: a value's name from the file must not be part of it."""
    evil = "x; raise SystemExit('ran') #"

    def rename(graph: dict[str, Any]) -> None:
        text = json.dumps(graph)
        first = graph["nodes"][0]["name"]
        graph.update(json.loads(text.replace(f'"{first}"', json.dumps(evil))))

    image = np.ones((1, 1, 32, 32), np.float32)
    expected = load_exported_program(program)(image)
    np.testing.assert_array_equal(load_exported_program(rewrite(program, rename))(image), expected)


def test_another_version_and_other_files_are_told_apart(program: Path, tmp_path: Path) -> None:
    other = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, str(other))
    (tmp_path / "noise.safetensors").write_bytes(b"\x80\x04pickle" * 10)
    assert is_exported_program(program)
    assert not is_exported_program(other)
    assert not is_exported_program(tmp_path / "noise.safetensors")
    assert not is_exported_program(tmp_path / "missing.safetensors")
    with pytest.raises(UserError, match="is not an exported program of the format"):
        read_exported_program(other)
    with pytest.raises(UserError, match=r"noise\.safetensors is not an exported program"):
        read_exported_program(tmp_path / "noise.safetensors")
    with pytest.raises(UserError, match=r"missing\.safetensors cannot be read: No such file"):
        read_exported_program(tmp_path / "missing.safetensors")
    rewrite(program, lambda graph: None, format="autocompress-exported-program/9")
    assert is_exported_program(program)
    with pytest.raises(UserError, match="the one that this version reads"):
        read_exported_program(program)
    with pytest.raises(errors.RefusedError, match=r"autocompress-exported-program/9.*export it again"):
        programs.read_program(str(program))


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph.pop("nodes"),
        lambda graph: graph.update(nodes=[]),
        lambda graph: graph["input"].update(shape=[1, "x"]),
        lambda graph: graph["tensors"].update(more="state/nowhere"),
    ],
)
def test_a_damaged_graph_is_one_line(program: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    rewrite(program, change)
    with pytest.raises(UserError, match="damaged exported program") as caught:
        read_exported_program(program)
    assert "\n" not in str(caught.value)


class Decides(nn.Module):
    """What it does depends on the image: that is no fixed graph."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image if image.sum() > 0 else -image


class Twice(nn.Module):
    """Two outputs."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image + 1, image - 1


@pytest.mark.parametrize(
    ("model", "message"), [(Decides(), "cannot be exported by torch.export"), (Twice(), "1 inputs and 2 outputs")]
)
def test_what_cannot_be_exported_is_one_line(tmp_path: Path, model: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        write_exported_program(model, tmp_path / "p.safetensors", in_channels=1, resolution=8)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# Sixteen bits


@pytest.mark.parametrize(("narrow", "limit"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("levels", [2, 3])
def test_sixteen_bits_stay_close_to_float32(tmp_path: Path, narrow: torch.dtype, limit: float, levels: int) -> None:
    """Softmaxes and norms over all tokens are what goes wrong where everything is made narrow."""
    model = network(CompressionConfig(64, levels, 0.25)).eval()
    write_exported_program(model, tmp_path / "p.safetensors", in_channels=1, resolution=64)
    graph, tensors, _ = programs.read_program(str(tmp_path / "p.safetensors"))
    image = torch.rand(1, 1, 64, 64)
    program = programs.build_program(graph, tensors, torch.device("cpu"))
    with torch.inference_mode():
        expected = model(image)
        narrowing.narrow_program(program, image, narrow)
        found = program(image.to(narrow)).float()
    error = float((found - expected).abs().max() / expected.abs().max())
    assert 1e-4 < error < limit
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.95
    # Weights are stored once, and narrow but for what is applied to float32.
    held = dict(program.named_buffers())
    assert sum(each.numel() for each in held.values() if each.dtype == narrow) > 0.9 * sum(
        parameter.numel() for parameter in model.parameters()
    )
    kinds = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"aten.softmax.int", "aten.layer_norm.default"} <= kinds


def test_a_mask_does_not_become_an_infinity() -> None:
    wide = torch.tensor([-1e9, 0.5, 1e9])
    assert narrowing.narrowed(wide, torch.float16).tolist() == [-65504.0, 0.5, 65504.0]


class Products(nn.Module):
    """A product of activations beyond 65504, as of long vectors, and a norm that brings it back."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image.flatten(2) * 100
        scores = x @ x.transpose(1, 2)
        return (image * 0 + 1) * (scores / scores.amax())


def test_products_of_activations_stay_within_range_in_float16(tmp_path: Path) -> None:
    write_exported_program(Products(), tmp_path / "p.safetensors", in_channels=1, resolution=16)
    graph, tensors, _ = programs.read_program(str(tmp_path / "p.safetensors"))
    program = programs.build_program(graph, tensors, torch.device("cpu"))
    image = torch.ones(1, 1, 16, 16)
    with torch.inference_mode():
        narrowing.narrow_program(program, image, torch.float16)
        np.testing.assert_allclose(program(image.half()).float().numpy(), 1.0)
