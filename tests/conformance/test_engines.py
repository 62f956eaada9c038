"""One exam for every engine: `EngineExam` is what an engine of your own has to pass too.

Subclass it, name the engine, and let pytest collect the subclass. An engine that is not installed is skipped.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from autocompress.config import CompressionConfig
from autocompress.hardware.candidates import export_untrained, noise
from autocompress.hardware.infer import EngineError, infer
from autocompress.hardware.measure import measure
from autocompress.hardware.records import Measurement
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Target, inspect_target
from autocompress.hardware.turnstile import Turnstile
from autocompress.specs.schemas import HardwareProfile

SIDE = 32
QUICK = MeasureSettings(min_seconds=0.0, max_seconds=0.05, warmup_seconds=0.05, foreign_limit=1e9, agreement=None)
ENDLESS = replace(QUICK, min_seconds=600.0, max_seconds=600.0)


def write_model(path: Path, operator: str = "Relu", *, shift: float = 0.0, channels: int = 16, layers: int = 1) -> Path:
    """Convolutions 1 -> channels (-> channels ...) -> 3 with an operator after the first, 1 x 1 x SIDE x SIDE."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    arrays = {
        "shift": np.full((1, 1, 1, 1), shift, dtype=np.float32),
        "first": random.normal(size=(channels, 1, 3, 3)).astype(np.float32),
        "last": random.normal(size=(3, channels, 1, 1)).astype(np.float32),
    }
    nodes: list[Any] = [
        helper.make_node("Conv", ["input", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Sub", ["a", "shift"], ["b"]),
        helper.make_node(operator, ["b"], ["x0"]),
    ]
    for index in range(layers - 1):
        arrays[f"w{index}"] = (random.normal(size=(channels, channels, 3, 3)) / (3 * channels**0.5)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [f"x{index}", f"w{index}"], [f"x{index + 1}"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Conv", [f"x{layers - 1}", "last"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "exam",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), str(path))
    return path


def by_onnxruntime(model: Path, inputs: Any) -> Any:
    """What ONNX Runtime answers in this process: the reference that every engine is held against."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": one[None]})[0] for one in inputs])


class EngineExam:
    """What every engine must do behind the agent.

    Attributes:
        engine: its name.
        device: ``cpu`` or ``cuda``.
        options: settings of the engine itself.
        tolerance: largest difference to ONNX Runtime, relative to the largest logit.
    """

    engine: ClassVar[str]
    device: ClassVar[str] = "cpu"
    options: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-3

    @pytest.fixture(scope="class")
    def target(self) -> Target:
        """The engine alone, with one thread."""
        target = inspect_target(
            HardwareProfile.from_dict(
                {
                    "name": "exam",
                    "device": self.device,
                    "engines": [{"name": self.engine, "threads": 1, "options": dict(self.options)}],
                }
            )
        )
        if not target.usable:
            pytest.skip(target.unusable[0].line)
        return target

    def write_model(self, path: Path, operator: str = "Relu", **sizes: Any) -> Path:
        """The exam's network (`write_model`) as a file that the engine reads."""
        return write_model(path, operator, **sizes)

    @pytest.fixture
    def inputs(self) -> Any:
        """Three samples."""
        return np.random.default_rng(1).random((3, 1, SIDE, SIDE), dtype=np.float32)

    @pytest.fixture
    def measured(self, target: Target, inputs: Any, tmp_path: Path) -> Callable[..., Measurement]:
        """Measure a file with the engine."""
        room = Turnstile(tmp_path / "turnstile")

        def run(model: Path, settings: MeasureSettings = QUICK, given: Any = None) -> Measurement:
            found = measure(
                model, target, inputs=inputs if given is None else given, settings=settings, turnstile=room
            ).measurements
            assert len(found) == 1
            return found[0]

        return run

    def test_loads_and_times(self, measured: Callable[..., Measurement], tmp_path: Path) -> None:
        result = measured(self.write_model(tmp_path / "m.onnx"))
        assert result.ok, result.message
        assert result.engine == self.engine
        assert result.engine_version
        assert result.latency is not None
        assert result.latency.runs >= 64
        assert 0 < result.latency.p50 <= result.latency.p90 <= result.latency.p99
        assert result.peak_memory_bytes is None or result.peak_memory_bytes > 10 * 2**20

    def test_agrees_with_onnxruntime(self, target: Target, inputs: Any, tmp_path: Path) -> None:
        model = self.write_model(tmp_path / "m.onnx", layers=2)
        expected = by_onnxruntime(write_model(tmp_path / "reference.onnx", layers=2), inputs)
        (found,) = infer(model, self.engine, target, [inputs])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=self.tolerance * float(np.abs(expected).max()))

    def test_each_sample_is_its_own(self, target: Target, inputs: Any, tmp_path: Path) -> None:
        model = self.write_model(tmp_path / "m.onnx")
        together, last = infer(model, self.engine, target, [inputs, inputs[2:]])
        np.testing.assert_allclose(together[2:], last, rtol=1e-5, atol=1e-5)
        assert np.abs(together[0] - together[1]).max() > 1e-3

    def test_nan_is_an_outcome(
        self, measured: Callable[..., Measurement], target: Target, inputs: Any, tmp_path: Path
    ) -> None:
        model = self.write_model(tmp_path / "m.onnx", "Sqrt", shift=1000.0)  # roots of negative numbers
        result = measured(model)
        assert result.outcome == "invalid_output"
        assert "NaN" in result.message
        assert result.latency is None
        with pytest.raises(EngineError) as error:
            list(infer(model, self.engine, target, [inputs]))
        assert error.value.outcome == "invalid_output"

    def test_garbage_is_refused(self, measured: Callable[..., Measurement], tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(os.urandom(4096))
        result = measured(tmp_path / "m.onnx")
        assert result.outcome == "unsupported"
        assert result.message.startswith(f"{self.engine}: ")
        assert "\n" not in result.message

    def test_garbage_that_passes_the_gate_is_refused_by_the_engine(
        self, target: Target, inputs: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "m.onnx").write_bytes(b"garbage")
        with pytest.raises(EngineError) as error:
            list(infer(tmp_path / "m.onnx", self.engine, target, [inputs]))
        assert error.value.outcome in ("unsupported", "crashed")
        assert "\n" not in str(error.value)

    def test_an_operator_that_does_not_exist(self, measured: Callable[..., Measurement], tmp_path: Path) -> None:
        result = measured(self.write_model(tmp_path / "m.onnx", "Frobnicate"))
        assert result.outcome == "unsupported"
        assert "Frobnicate" in result.message

    def test_an_input_of_another_size(self, measured: Callable[..., Measurement], tmp_path: Path) -> None:
        result = measured(
            self.write_model(tmp_path / "m.onnx"), given=np.zeros((1, 1, SIDE, SIDE * 2), dtype=np.float32)
        )
        assert result.outcome == "unsupported"
        assert result.message == (
            f"{self.engine}: the input is 1x1x{SIDE}x{SIDE * 2} but the model takes 1x1x{SIDE}x{SIDE}"
        )

    def test_a_time_out(self, measured: Callable[..., Measurement], tmp_path: Path) -> None:
        result = measured(self.write_model(tmp_path / "m.onnx"), replace(ENDLESS, timeout_seconds=2.0))
        assert result.outcome == "timeout"
        assert "no answer within 2 s" in result.message

    @pytest.mark.parametrize(
        ("number", "outcome"), [(signal.SIGKILL, "out_of_memory"), (signal.SIGSEGV, "crashed")], ids=str
    )
    def test_a_killed_process(
        self, measured: Callable[..., Measurement], tmp_path: Path, number: signal.Signals, outcome: str
    ) -> None:
        results: list[Measurement] = []
        model = self.write_model(tmp_path / "m.onnx")
        thread = threading.Thread(target=lambda: results.append(measured(model, ENDLESS)))
        thread.start()
        os.kill(timing_agent(), number)
        thread.join(60)
        (result,) = results
        assert result.outcome == outcome
        assert number.name in result.message

    def test_one_thread_is_one_thread(self, measured: Callable[..., Measurement], tmp_path: Path) -> None:
        # Heavy enough to be worth sharing out; a busy machine can only make the figure smaller.
        result = measured(self.write_model(tmp_path / "m.onnx", channels=96, layers=3))
        assert result.ok, result.message
        assert result.conditions["threads"] == 1
        assert result.conditions["cores_used"] <= 1.15


def timing_agent() -> int:
    """Process of the agent that this process started and that is timing now."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and (folder / "cwd/answer.json.phases").read_text().endswith("timing\n"):
                    return int(folder.name)
            except OSError:
                continue
        time.sleep(0.02)
    raise AssertionError("no agent came to its timing")


class TestOnnxRuntime(EngineExam):
    """ONNX Runtime on the CPU."""

    engine = "onnxruntime"


class TestOpenVino(EngineExam):
    """OpenVINO on the CPU."""

    engine = "openvino"

    def test_bf16_is_what_is_computed_where_the_cpu_has_it(self, target: Target, inputs: Any, tmp_path: Path) -> None:
        wide = replace(target.engines[0], precisions=("fp32", "bf16"))
        model = write_model(tmp_path / "m.onnx", layers=3)
        exact = next(infer(model, wide, target, [inputs], precision="fp32"))
        try:
            rounded = next(infer(model, wide, target, [inputs], precision="bf16"))
        except EngineError as error:
            assert "no bf16 arithmetic" in str(error)
            pytest.skip(str(error))
        difference = float(np.abs(rounded - exact).max() / np.abs(exact).max())
        # Eight bits of mantissa: some thousandths; float32 would be a thousand times closer.
        assert 1e-4 < difference < 0.1


class TestDeepSparse(EngineExam):
    """DeepSparse on the CPU."""

    engine = "deepsparse"

    # Slow to export and compile, for one more cause of a crash than `test_a_killed_process` has.
    @pytest.mark.slow
    def test_its_real_crash_is_a_result(self, target: Target, tmp_path: Path) -> None:
        """DeepSparse 1.8.0 ends its process by an assertion of its own on the 3-level DAE-Former at 224."""
        config = CompressionConfig(resolution=224, levels=3, width=0.25)
        engines = [replace(target.engines[0], opset=16)]
        files = export_untrained(config, engines, tmp_path, family="dae-former")
        result = measure(
            files,
            replace(target, engines=tuple(engines)),
            inputs=noise(1, 1, 224, 224),
            settings=QUICK,
            turnstile=Turnstile(tmp_path / "turnstile"),
        ).measurements[0]
        if result.ok:
            pytest.skip("this version or CPU does not crash")
        assert result.outcome == "crashed"
        assert result.message.startswith("deepsparse: ")
        assert "while compiling" in result.message
        assert result.latency is None
