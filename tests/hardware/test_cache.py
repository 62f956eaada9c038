"""The latency cache: what its key holds, what it keeps, and that it survives damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autocompress.hardware.cache import LatencyCache, graph_digest, measurement_key
from autocompress.hardware.records import Latency, Measurement
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Engine, Target

ENGINE = Engine("onnxruntime", "1.2", ("fp32",), ("none",), 17, 2)
TARGET = Target("cpu", "local", "cpu", (ENGINE,), (), {"id": "x", "power": {"governor": "performance"}})
GOOD = Measurement("onnxruntime", "1.2", "here", "ok", latency=Latency(1.0, 2.0, 3.0, 1.5, (1.9, 2.1), 64))


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], name: str = "first") -> Path:
    """A copy of a model with one weight changed."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    copy = path.with_name("changed.onnx")
    onnx.save(model, str(copy))
    return copy


def prune(array: np.ndarray) -> np.ndarray:
    array.reshape(-1)[::2] = 0
    return array


def shift(array: np.ndarray) -> np.ndarray:
    array.reshape(-1)[1::2] = 0
    return array


def test_values_of_weights_do_not_matter(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    one, two = make_model(tmp_path / "a.onnx", seed=1), make_model(tmp_path / "b.onnx", seed=2)
    assert one.read_bytes() != two.read_bytes()
    for sparsity in (False, True):
        assert graph_digest(one, sparsity=sparsity) == graph_digest(two, sparsity=sparsity)


def test_shapes_operators_and_opset_matter(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    models = [
        make_model(tmp_path / "a.onnx"),
        make_model(tmp_path / "b.onnx", channels=16),
        make_model(tmp_path / "c.onnx", side=32),
        make_model(tmp_path / "d.onnx", operator="Tanh"),
        make_model(tmp_path / "e.onnx", opset=15),
    ]
    assert len({graph_digest(model, sparsity=False) for model in models}) == len(models)


def test_places_of_zeros_matter_only_to_an_engine_that_skips_them(
    tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    dense = make_model(tmp_path / "a.onnx")
    plain = [graph_digest(dense, sparsity=each) for each in (False, True)]
    pruned = rewrite(dense, prune)
    assert graph_digest(pruned, sparsity=False) == plain[0]
    with_zeros = graph_digest(pruned, sparsity=True)
    assert with_zeros != plain[1]
    assert graph_digest(rewrite(dense, shift), sparsity=True) != with_zeros
    assert graph_digest(rewrite(dense, lambda array: 3 * prune(array)), sparsity=True) == with_zeros


def test_whole_numbers_that_decide_the_computation_matter(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    digests = set()
    for axes in ([0, 1, 2, 3], [0, 1, 3, 2]):
        graph = helper.make_graph(
            [helper.make_node("Gather", ["input", "index"], ["logits"], axis=3)],
            "gather",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, 4, 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, 4, 4])],
            [numpy_helper.from_array(np.array(axes, dtype=np.int64), "index")],
        )
        path = tmp_path / "g.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)]), str(path))
        digests.add(graph_digest(path, sparsity=False))
    assert len(digests) == 2


def test_key_holds_everything_that_a_latency_depends_on(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model, settings = make_model(tmp_path / "a.onnx"), MeasureSettings()
    battery = {"id": "x", "power": {"governor": "powersave"}}

    def key(
        engine: Engine = ENGINE,
        target: Target = TARGET,
        precision: str = "fp32",
        settings: MeasureSettings = settings,
    ) -> str:
        return measurement_key(model, engine, target, precision, (1, 16, 16), settings)

    keys = [
        key(),
        key(engine=replace(ENGINE, version="1.3")),
        key(engine=replace(ENGINE, threads=1)),
        key(engine=replace(ENGINE, name="openvino")),
        key(engine=replace(ENGINE, options={"a": 1})),
        key(target=replace(TARGET, host={**TARGET.host, "id": "y"})),
        key(target=replace(TARGET, host=battery)),
        key(target=replace(TARGET, power_mode="5W")),
        key(precision="bf16"),
        key(settings=MeasureSettings(max_seconds=60)),
    ]
    assert len(set(keys)) == len(keys)
    assert key(target=replace(TARGET, name="another name")) == keys[0]
    assert key(settings=MeasureSettings(timeout_seconds=5)) == keys[0]


def test_kept_and_found(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path)
    assert cache.get("abcd") is None
    cache.put("abcd", GOOD)
    found = LatencyCache(tmp_path).get("abcd")
    assert found is not None
    assert found.latency == GOOD.latency
    assert found.conditions["from_cache"] is True


@pytest.mark.parametrize(
    ("measurement", "kept"),
    [
        (replace(GOOD, disturbed=True), False),
        (replace(GOOD, outcome="timeout", latency=None), False),
        (replace(GOOD, outcome="out_of_memory", latency=None), False),
        (replace(GOOD, outcome="lost", latency=None), False),
        (replace(GOOD, outcome="invalid_output", latency=None), False),  # depends on the weights' values
        (replace(GOOD, outcome="crashed", latency=None, message="x: SIGTERM while timing"), False),
        (replace(GOOD, outcome="crashed", latency=None, message="x: SIGSEGV while compiling"), True),
        (replace(GOOD, outcome="unsupported", latency=None, message="x: no such operator"), True),
    ],
)
def test_only_what_would_come_again_is_kept(tmp_path: Path, measurement: Measurement, kept: bool) -> None:
    cache = LatencyCache(tmp_path)
    cache.put("abcd", measurement)
    assert (cache.get("abcd") is not None) is kept


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"engine": 1}', '{"engine": "x", "latency": 3}'])
def test_a_damaged_entry_is_measured_again(tmp_path: Path, content: str) -> None:
    cache = LatencyCache(tmp_path)
    cache.put("abcd", GOOD)
    (entry,) = tmp_path.rglob("*.json")
    entry.write_text(content)
    assert cache.get("abcd") is None


def test_a_file_that_is_not_onnx_has_a_digest_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"garbage")
    (tmp_path / "b").write_bytes(b"other garbage")
    assert graph_digest(tmp_path / "a", sparsity=True) != graph_digest(tmp_path / "b", sparsity=True)
