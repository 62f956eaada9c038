"""What is refused without running anything, and that nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.config import CompressionConfig
from autocompress.hardware import gate
from autocompress.hardware.targets import Engine, Target

DENSE = Engine("onnxruntime", "1", ("fp32", "int8"), ("none", "channel"), 17, 1)
SPARSE = Engine("deepsparse", "1", ("fp32",), ("none", "unstructured", "channel"), 16, 1)
TARGET = Target("cpu", "local", "cpu", (DENSE, SPARSE), (), {"id": "x"})


def test_precision_and_prune_pattern_choose_the_engines() -> None:
    def names(**fields: object) -> list[str]:
        able, _ = gate.engines_for(CompressionConfig.from_dict({"resolution": 64, **fields}), TARGET)
        return [engine.name for engine in able]

    assert names() == ["onnxruntime", "deepsparse"]
    assert names(precision="int8") == ["onnxruntime"]
    assert names(prune_pattern="unstructured", prune_ratio=0.8) == ["deepsparse"]
    assert names(prune_pattern="channel", prune_ratio=0.5) == ["onnxruntime", "deepsparse"]
    assert names(prune_pattern="unstructured", prune_ratio=0.8, precision="int8") == []


def test_reasons_name_the_engine_and_what_it_can() -> None:
    _, reasons = gate.engines_for(CompressionConfig(64, precision="bf16"), TARGET)
    assert reasons == (
        "onnxruntime: does not compute in bf16 here, only in fp32, int8",
        "deepsparse: does not compute in bf16 here, only in fp32",
    )


def test_a_good_model_passes(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    assert gate.refuse_model(make_model(tmp_path / "m.onnx"), SPARSE, memory_bytes=2**30) is None


def test_opset(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = make_model(tmp_path / "m.onnx", opset=17)
    assert gate.refuse_model(model, DENSE) is None
    assert gate.refuse_model(model, SPARSE) == "reads ONNX opset 16 at most, the model has 17"


def test_an_operator_that_onnx_does_not_have(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = make_model(tmp_path / "m.onnx", operator="Frobnicate")
    assert gate.refuse_model(model, DENSE) == "the model has the operator Frobnicate, which ONNX opset 16 does not know"


def test_an_operator_of_a_later_opset(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = make_model(tmp_path / "m.onnx", operator="Mish", opset=17)  # Mish came with 18
    assert gate.refuse_model(model, DENSE) == "the model has the operator Mish, which ONNX opset 17 does not know"


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x07" * 50])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert gate.refuse_model(tmp_path / "m.onnx", DENSE) == "m.onnx is not an ONNX file"


def test_a_missing_file(tmp_path: Path) -> None:
    assert gate.refuse_model(tmp_path / "m.onnx", DENSE) == "m.onnx cannot be read: No such file or directory"


def test_weights_in_another_file(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    import onnx

    path = make_model(tmp_path / "m.onnx")
    onnx.save(
        onnx.load(str(path)), str(tmp_path / "e.onnx"), save_as_external_data=True, location="weights", size_threshold=0
    )
    reason = gate.refuse_model(tmp_path / "e.onnx", DENSE)
    assert reason is not None
    assert "in another file" in reason


def test_memory_by_hand(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    import onnx

    side, channels = 64, 8
    model = onnx.load(str(make_model(tmp_path / "m.onnx", side=side, channels=channels)))
    weights = 4 * (channels * 9 + 3 * channels)
    # At the middle node its input and its output are alive; the network's input is no longer.
    activations = 4 * side * side * 2 * channels
    assert gate.estimate_memory(model) == gate.PROCESS_BYTES + weights + activations


def test_too_little_memory(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = make_model(tmp_path / "m.onnx", side=512, channels=64)  # two maps of 64 MiB are alive
    assert gate.refuse_model(model, DENSE, memory_bytes=256 * 2**20) is None
    reason = gate.refuse_model(model, DENSE, memory_bytes=128 * 2**20)
    assert reason == "needs about 188 MiB of memory, the target has 128 MiB for it"


def test_what_a_model_takes_and_stores(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = gate.parse(make_model(tmp_path / "m.onnx", side=24).read_bytes())
    assert gate.declared_input(model) == (1, 1, 24, 24)
    assert gate.stored_precision(model) == "fp32"
