"""The engine torch behind the agent: number formats, options, the gate, the cache, and predictions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.bundles.export import export_onnx
from autocompress.bundles.exported_program import read_exported_program, write_exported_program
from autocompress.cli import main
from autocompress.config import CompressionConfig
from autocompress.hardware import gate
from autocompress.hardware.cache import graph_digest
from autocompress.hardware.candidates import export_untrained, noise
from autocompress.hardware.infer import EngineError, infer
from autocompress.hardware.measure import measure
from autocompress.hardware.predicted import predicted_target
from autocompress.hardware.prediction.features import graph_costs
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Target, inspect_target, resolve_target
from autocompress.hardware.turnstile import Turnstile
from autocompress.models import build
from autocompress.models.complexity import complexity
from autocompress.specs.library import load_spec

CONFIG = CompressionConfig(64, 2, 0.25)


@pytest.fixture(scope="module")
def target() -> Target:
    return resolve_target(load_spec("target", "cpu"), engines=["torch"])


@pytest.fixture(scope="module")
def program(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAE-Former of two levels."""
    folder = tmp_path_factory.mktemp("program")
    return export_untrained(CONFIG, target.engines, folder, family="dae-former")["torch"]


def layers(*sizes: int) -> nn.Module:
    """Convolutions of 3 x 3 between so many channels, without bias."""
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(sizes)))


def written(path: Path, network: nn.Module, side: int = 16) -> Path:
    write_exported_program(network, path, in_channels=1, resolution=side)
    return path


def test_the_profile_names_it_as_what_it_is(target: Target) -> None:
    assert [engine.name for engine in target.engines] == ["torch"]
    assert target.engines[0].version == torch.__version__
    assert target.engines[0].precisions == ("fp32", "bf16")
    usual = inspect_target(load_spec("target", "cpu"))
    (other,) = [each for each in usual.unusable if each.name == "torch"]
    assert other.line == "torch: used only on request; --engines torch"


def test_bf16_is_computed_and_stays_close(program: Path, target: Target) -> None:
    images = noise(2, 1, 64, 64)
    exact = next(infer(program, "torch", target, [images]))
    rounded = next(infer(program, "torch", target, [images], precision="bf16"))
    assert rounded.dtype == np.float32
    difference = float(np.abs(rounded - exact).max() / np.abs(exact).max())
    # Eight bits of mantissa: some thousandths; float32 would be a thousand times closer.
    assert 1e-4 < difference < 0.05


def test_what_it_does_not_do_is_refused(target: Target, tmp_path: Path) -> None:
    program = written(tmp_path / "p.safetensors", layers(1, 4, 3))

    def refusal(precision: str = "fp32", **changes: Any) -> str:
        engine = replace(target.engines[0], **changes)
        with pytest.raises(EngineError) as error:
            list(infer(program, engine, target, [noise(1, 1, 16, 16)], precision=precision))
        assert error.value.outcome == "unsupported"
        return str(error.value)

    assert refusal("fp16") == "torch: torch does not compute in fp16 on cpu here"
    assert refusal("int8") == "torch: torch does not compute in int8 on cpu here"
    assert "the option cuda_graphs is for the device cuda" in refusal(options={"cuda_graphs": True})
    assert "not speed: 1" in refusal(options={"speed": 1})
    assert "not cuda_graphs: 1" in refusal(options={"cuda_graphs": 1})
    assert refusal(device="tensorrt-gpu") == "torch: torch computes on cpu and cuda, not on tensorrt-gpu"
    if not torch.cuda.is_available():
        assert "no CUDA" in refusal(device="cuda") or "no NVIDIA GPU" in refusal(device="cuda")


class Wide(nn.Module):
    """More than any memory between two small ends."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.repeat(1, 2**30, 1, 1).exp().sum(1, keepdim=True)


def test_too_little_memory_is_an_outcome(target: Target, tmp_path: Path) -> None:
    path = written(tmp_path / "p.safetensors", Wide(), side=256)
    with pytest.raises(EngineError) as error:
        list(infer(path, "torch", target, [noise(1, 1, 256, 256)]))
    assert error.value.outcome == "out_of_memory"
    assert "allocate" in str(error.value)


def test_a_measurement_tells_what_was_computed(target: Target, quick: MeasureSettings, tmp_path: Path) -> None:
    # Small: few processors compute in bf16 fast.
    found = measure(
        written(tmp_path / "p.safetensors", layers(1, 4, 3)),
        target,
        inputs=noise(2, 1, 16, 16),
        precision="bf16",
        settings=quick,
        turnstile=Turnstile(tmp_path / "turnstile"),
    ).best
    assert found is not None
    assert found.latency is not None
    details = found.conditions["engine_details"]
    assert (details["computes_in"], details["cuda_graphs"]) == ("bf16", False)
    assert found.conditions["threads"] == target.engines[0].threads
    assert "gpu" not in found.conditions
    assert found.energy_joules is None or found.energy_joules > 0
    assert type(found).from_dict(json.loads(json.dumps(found.to_dict()))) == found
    # Records from before energies were told can be read.
    old = {name: value for name, value in found.to_dict().items() if name != "energy_joules"}
    assert type(found).from_dict(old).energy_joules is None


@pytest.mark.usefixtures("fast")
@pytest.mark.slow
def test_a_configuration_is_measured_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"resolution": 32, "width": 0.125, "precision": "bf16"}))
    assert main(["measure", str(tmp_path / "config.json"), "--target", "cpu", "--engines", "torch", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["best"], found["precision"]) == ("torch", "bf16")
    path = written(tmp_path / "p.safetensors", layers(1, 4, 3))
    assert main(["measure", str(path), "--target", "cpu", "--engines", "torch"]) == 0
    table = capsys.readouterr().out
    assert "torch" in table
    assert main(["measure", str(path), "--target", "cpu-onnxruntime"]) == 2
    assert "p.safetensors is an exported program, which torch alone runs" in capsys.readouterr().err


def test_the_energy_is_shown_where_it_is_known(program: Path, monkeypatch: Any, capsys: Any) -> None:
    from autocompress.cli import measure as verb
    from autocompress.hardware.measure import MeasurementSet
    from autocompress.hardware.records import Latency, Measurement

    found = Measurement("torch", "2", "here", "ok", latency=Latency(2.0, 2.5, 3.0, 2.1, (2.4, 2.6), 64))
    target = inspect_target(load_spec("target", "cpu-onnxruntime"))
    subject = verb.Subject(program, "fp32", noise(1, 1, 64, 64))
    verb._show(program, target, subject, MeasurementSet((found,)))
    assert "mJ" not in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "160")
    verb._show(program, target, subject, MeasurementSet((replace(found, energy_joules=0.0125), found)))
    output = capsys.readouterr().out
    assert "mJ" in output
    assert "12.5" in output


def test_each_kind_of_file_is_for_its_own_engine(
    tmp_path: Path, target: Target, make_model: Callable[..., Path]
) -> None:
    onnx, program = make_model(tmp_path / "m.onnx"), written(tmp_path / "p.safetensors", layers(1, 4, 3))
    by_torch = target.engines[0]
    other = replace(by_torch, name="onnxruntime", opset=17)
    assert gate.refuse_model(program, by_torch) is None
    assert gate.refuse_model(onnx, other) is None
    assert gate.refuse_model(onnx, by_torch) == "m.onnx is an ONNX file; torch runs exported programs alone"
    assert gate.refuse_model(program, other) == "p.safetensors is an exported program, which torch alone runs"
    (tmp_path / "noise").write_bytes(b"garbage")
    reason = gate.refuse_model(tmp_path / "noise", by_torch)
    assert reason is not None
    assert reason.startswith("noise is not an exported program")
    assert gate.refuse_model(tmp_path / "none", by_torch) == "none cannot be read: No such file or directory"


def test_memory_by_hand(tmp_path: Path, target: Target) -> None:
    path, engine = written(tmp_path / "p.safetensors", layers(1, 64, 3), side=256), target.engines[0]
    needed = 60 * 2**20 + 4 * (9 * 64 + 9 * 64 * 3) + 4 * 64 * 256 * 256  # a process, weights, the widest map
    assert gate.program_memory(read_exported_program(path)) == needed
    assert gate.refuse_model(path, engine, memory_bytes=needed) is None
    assert gate.refuse_model(path, engine, memory_bytes=needed - 1) == (
        "needs about 76 MiB of memory, the target has 76 MiB for it"
    )


def test_the_cache_knows_a_graph_whatever_its_weights(tmp_path: Path) -> None:
    def digest(name: str, network: nn.Module, side: int = 16) -> str:
        return graph_digest(written(tmp_path / name, network, side), sparsity=False)

    torch.manual_seed(1)
    first = digest("a", layers(1, 4, 3))
    assert digest("b", layers(1, 4, 3)) == first  # other random values
    others = [
        digest("c", layers(1, 8, 3)),
        digest("d", layers(1, 4, 3), side=32),
        digest("e", nn.Sequential(*layers(1, 4, 3), nn.ReLU())),
    ]
    assert len({first, *others}) == 4


def test_costs_are_those_of_the_network(tmp_path: Path) -> None:
    costs = graph_costs(written(tmp_path / "p", layers(1, 4, 3), side=10), "fp32")
    assert [node.kind for node in costs.nodes] == ["conv_dense", "conv_dense"]
    assert [node.macs for node in costs.nodes] == [100 * 4 * 9, 100 * 3 * 4 * 9]
    assert [node.activation_bytes for node in costs.nodes] == [4 * 100 * (1 + 4), 4 * 100 * (4 + 3)]
    assert costs.weight_bytes == 4 * 9 * (4 + 12)
    assert costs.peak_activation_bytes == 4 * 100 * 7
    assert graph_costs(tmp_path / "p", "bf16").activation_bytes == costs.activation_bytes // 2


def test_costs_of_a_whole_network_agree_with_other_counts(program: Path, tmp_path: Path) -> None:
    found = graph_costs(program, "fp32")
    network = build("dae-former", CONFIG, in_channels=1, num_classes=9)
    counts = complexity(network, 1, 64)
    assert found.weight_bytes == 4 * counts.parameters
    export_onnx(network, tmp_path / "m.onnx", in_channels=1, resolution=64, form="plain")
    other = graph_costs(tmp_path / "m.onnx", "fp32")
    assert found.macs == other.macs
    assert found.peak_activation_bytes == other.peak_activation_bytes
    kinds = {node.kind for node in found.nodes}
    assert {"conv_depthwise", "matmul_weights", "matmul_activations", "softmax", "norm", "gelu"} <= kinds
    assert "other" not in kinds


def test_a_gpu_that_is_elsewhere_is_predicted_and_still_gives_outputs(tmp_path: Path) -> None:
    gpu = predicted_target(load_spec("target", "gpu"), engines=["torch"])
    if not gpu.host["name"].endswith("(not at hand)"):
        pytest.skip("this machine has a GPU")
    config = CompressionConfig(32, 1, 0.25, precision="fp16")
    files = export_untrained(config, gpu.engines, tmp_path, family="dae-former")
    images = noise(1, 1, 32, 32)
    found = measure(files, gpu, inputs=images, config=config).best
    assert found is not None
    assert not found.measured
    here = resolve_target(load_spec("target", "cpu"), engines=["torch"])
    outputs = next(infer(files["torch"], "torch", gpu, [images], precision="fp16"))
    np.testing.assert_array_equal(outputs, next(infer(files["torch"], "torch", here, [images])))
