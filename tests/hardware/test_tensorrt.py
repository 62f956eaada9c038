"""TensorRT by trtexec: what it prints is understood, engines are built once, and failures are outcomes.

Nothing here is TensorRT: what it would print is written down from its sources and from published logs, and the program
that is run is the stand-in in ``tests/standins``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.errors import TargetError
from autocompress.hardware.agent import errors, onnx_files, plain_arrays, tensorrt_build, trtexec, trtexec_output
from autocompress.hardware.infer import EngineError, infer
from autocompress.hardware.measure import measure
from autocompress.hardware.records import Measurement
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.targets import Target, inspect_target, resolve_target
from autocompress.hardware.turnstile import Turnstile
from autocompress.specs.library import load_spec
from autocompress.specs.schemas import HardwareProfile
from tests.standins.launching import calls, install, target_of


@pytest.fixture
def model(tmp_path: Path, make_model: Callable[..., Path]) -> Path:
    return make_model(tmp_path / "m.onnx", opset=13)


@pytest.fixture
def measured(
    tmp_path: Path, model: Path, image: Callable[..., Any], quick: MeasureSettings
) -> Callable[..., Measurement]:
    def run(target: Target, precision: str = "fp32", path: Path = model, settings: MeasureSettings = quick) -> Any:
        assert target.usable, target.unusable[0].line
        room = Turnstile(tmp_path / "turnstile")
        found = measure(path, target, inputs=image(2), precision=precision, settings=settings, turnstile=room)
        return found.measurements[0]

    return run


# ---------------------------------------------------------------------------------------------------------------------
# What it prints and writes


@pytest.mark.parametrize(
    ("mark", "version"),
    [("8001", (8, 0, 1)), ("8201", (8, 2, 1)), ("8601", (8, 6, 1)), ("100300", (10, 3, 0)), ("101501", (10, 15, 1))],
)
def test_the_version_is_in_the_first_line(mark: str, version: tuple[int, ...]) -> None:
    assert (
        trtexec_output.trt_version(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{mark}] [b17] # trtexec --help\n")
        == version
    )
    assert trtexec_output.trt_version("Usage: trtexec") is None


def test_the_gpu_is_in_its_list_of_facts() -> None:
    said = (
        "[11/20/2025-10:12:01] [I] === Device Information ===\n"
        "[11/20/2025-10:12:01] [I] Selected Device: NVIDIA Tegra X1\n"
        "[11/20/2025-10:12:01] [I] Compute Capability: 5.3\n"
    )
    assert trtexec_output.trt_device(said) == ("NVIDIA Tegra X1", (5, 3))
    assert trtexec_output.trt_device("") == (None, None)


def test_flags_are_those_of_the_version() -> None:
    def flags(*version: int, precision: str = "fp16") -> set[str]:
        return set(trtexec_output.trt_build_flags(version, precision, 512))

    # --memPoolSize came with 8.4, --skipInference with 8.6; an unknown flag fails the run.
    assert flags(8, 0, 1) == flags(8, 2, 1) == {"--fp16", "--workspace=512", "--buildOnly"}
    assert flags(8, 4, 1) == {"--fp16", "--memPoolSize=workspace:512", "--buildOnly"}
    assert flags(8, 6, 1) == flags(10, 3, 0) == {"--fp16", "--memPoolSize=workspace:512", "--skipInference"}
    # Without the flag an Ampere GPU would compute float32 with ten bits of mantissa.
    assert "--noTF32" in flags(10, 3, 0, precision="fp32")
    assert "--int8" in flags(10, 3, 0, precision="int8")


def test_formats_are_those_of_nvidias_matrix() -> None:
    assert trtexec_output.trt_formats((5, 3)) == ["FP32", "FP16"]  # Jetson Nano
    assert trtexec_output.trt_formats((6, 2)) == ["FP32", "FP16"]  # Jetson TX2
    assert trtexec_output.trt_formats((6, 1)) == ["FP32", "INT8"]  # GeForce GTX 10xx
    assert trtexec_output.trt_formats((7, 2)) == trtexec_output.trt_formats((8, 7)) == ["FP32", "FP16", "INT8"]
    assert trtexec_output.trt_formats((5, 0)) == ["FP32"]


TIMES = """[
  { "startEnqMs" : 0.1, "endEnqMs" : 0.3, "startH2dMs" : 0.2, "endH2dMs" : 0.4, "startComputeMs" : 0.5
, "endComputeMs" : 99, "startD2hMs" : 99, "endD2hMs" : 99.5, "h2dMs" : 0.2, "computeMs" : 98.5, "d2hMs" : 0.5
, "latencyMs" : 99.2, "endToEndMs" : 99.4 }
, { "startEnqMs" : 198.9, "startComputeMs" : 199.9, "computeMs" : 41, "latencyMs" : 42 }
, { "startEnqMs" : 199, "startComputeMs" : 200, "computeMs" : 11, "latencyMs" : 12.5 }
, { "startEnqMs" : 213, "startComputeMs" : 213.25, "computeMs" : 10, "latencyMs" : 11.5 }
]
"""


def test_the_warm_up_is_dropped() -> None:
    assert trtexec_output.trt_times(TIMES, 200.0) == ([12.5, 11.5], [11.0, 10.0])


OUTPUT = """[
  { "name" : "features"
  , "dimensions" : "1x2"
  , "values" : [ 9, 9 ]
  }
, { "name" : "logits"
  , "dimensions" : "1x2x1x2"
  , "values" : [ 0.25, -1.5e-05, nan, -inf ]
  }
]
"""


def test_an_output_is_found_by_its_name() -> None:
    found = trtexec_output.trt_output(OUTPUT, "logits")
    assert found.shape == [1, 2, 1, 2]
    np.testing.assert_array_equal(np.array(found.numbers), np.float32([0.25, -1.5e-05, np.nan, -np.inf]))
    assert plain_arrays.PlainArrays.bad(found) == 2


@pytest.mark.parametrize("text", ["", OUTPUT.replace("1x2x1x2", "1x3x1x2"), OUTPUT.replace("logits", "others")])
def test_an_output_that_is_not_all_there(text: str) -> None:
    with pytest.raises(errors.CrashError, match="did not write the output logits"):
        trtexec_output.trt_output(text, "logits")


HEAD = "&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # trtexec --onnx=m.onnx\n"
STAMP = "[11/20/2025-10:12:01] "


@pytest.mark.parametrize(
    ("code", "said", "kind", "message"),
    [
        (-9, "", MemoryError, "was killed (SIGKILL), most likely by the system for want of memory"),
        (137, "Killed\n", MemoryError, "was killed (SIGKILL)"),
        (
            1,
            f"{STAMP}[W] [TRT] Requested amount of GPU memory (57662592 bytes) could not be allocated.\n"
            f"{STAMP}[E] Error[2]: [virtualMemoryBuffer.cpp::145] Error Code 2: OutOfMemory (no further information)\n",
            MemoryError,
            "Requested amount of GPU memory (57662592 bytes) could not be allocated.",
        ),
        (
            1,
            f"{STAMP}[W] [TRT] Tactic Device request: 538MB Available: 166MB. Device memory is insufficient.\n"
            f"{STAMP}[E] Error[10]: Error Code 10: Internal Error (Could not find any implementation for node A.)\n",
            MemoryError,
            "Tactic Device request: 538MB Available: 166MB. Device memory is insufficient.",
        ),
        (
            1,
            f"{STAMP}[I] [TRT] No importer registered for op: ScatterND. Attempting to import as plugin.\n"
            f"{STAMP}[I] [TRT] Successfully created plugin: ScatterND\n"
            f"{STAMP}[I] [TRT] No importer registered for op: GridSample. Attempting to import as plugin.\n"
            f"{STAMP}[E] Failed to parse onnx file\n",
            errors.RefusedError,
            "TensorRT 8.2.1 has no importer for the operator GridSample",
        ),
        (
            1,
            f"{STAMP}[E] Unknown option: --skipInference \n",
            errors.RefusedError,
            "trtexec of TensorRT 8.2.1: Unknown option: --skipInference",
        ),
        (
            1,
            f"{STAMP}[E] [TRT] ModelImporter.cpp:776: ERROR: builtin_op_importers.cpp:3609 In function importResize:\n"
            '[8] Assertion failed: (mode != "cubic") && "no cubic"\n'
            f"{STAMP}[E] Failed to parse onnx file\n{STAMP}[E] Engine set up failed\n",
            errors.RefusedError,
            'TensorRT 8.2.1 cannot read the model: Assertion failed: (mode != "cubic") && "no cubic"',
        ),
        (
            127,
            "trtexec: error while loading shared libraries: libnvinfer.so.8: cannot open shared object file\n",
            errors.RefusedError,
            "error while loading shared libraries: libnvinfer.so.8",
        ),
        (
            -6,
            "Cuda failure: no CUDA-capable device is detected\n",
            errors.RefusedError,
            "TensorRT 8.2.1 finds no GPU: Cuda failure: no CUDA-capable device is detected",
        ),
        (-11, "", errors.CrashError, "trtexec: SIGSEGV"),
        (
            1,
            f"{STAMP}[E] Error[1]: [cudaDriverHelpers.cpp::29] Error Code 1: Cuda Driver (invalid handle)\n"
            f"{STAMP}[E] Engine set up failed\n&&&& FAILED TensorRT.trtexec [TensorRT v8201] # trtexec\n",
            errors.CrashError,
            "trtexec: Error[1]: [cudaDriverHelpers.cpp::29] Error Code 1: Cuda Driver (invalid handle)",
        ),
        (1, f"{STAMP}[E] Engine set up failed\n", errors.CrashError, "trtexec: Engine set up failed"),
        (3, "", errors.CrashError, "trtexec: exit code 3"),
    ],
)
def test_a_failure_is_understood(code: int, said: str, kind: type[Exception], message: str) -> None:
    found = trtexec_output.trt_failure(code, HEAD + said, "8.2.1")
    assert type(found) is kind
    assert message in str(found)


# ---------------------------------------------------------------------------------------------------------------------
# Without NumPy and without onnx, as on a board


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_files_are_read_without_numpy(tmp_path: Path, version: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random((3, 2, 4, 5), dtype=np.float32)
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array(stream, values, version=version)
    found = plain_arrays.PlainArrays.load(str(tmp_path / "x.npy"))
    assert (found.shape, found.dtype) == (values.shape, "float32")
    sample = plain_arrays.PlainArrays.sample(found, 2)
    assert sample.shape == [1, 2, 4, 5]
    np.testing.assert_array_equal(np.array(sample.numbers, np.float32), values[2].ravel())


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 9), (5,), (2, 3, 224, 224)])
def test_npy_files_are_written_without_numpy(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    plain = plain_arrays.PlainArrays
    written = plain.create(str(tmp_path / "y.npy"), shape)
    for index in range(shape[0]):
        plain.put(
            written,
            index,
            plain_arrays.Values([1, *shape[1:]], plain_arrays.number_array(values[index].ravel().tolist())),
        )
    plain.finish(written)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy", allow_pickle=False), values)


def test_what_is_no_float32_in_c_order_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(np.zeros((2, 3), np.float32)))
    with pytest.raises(errors.RefusedError, match="not in C order"):
        plain_arrays.PlainArrays.load(str(tmp_path / "f.npy"))
    np.save(tmp_path / "d.npy", np.zeros((2, 3)))
    assert plain_arrays.PlainArrays.load(str(tmp_path / "d.npy")).dtype == "<f8"
    (tmp_path / "n.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(errors.RefusedError, match=r"n\.npy is not a \.npy file"):
        plain_arrays.PlainArrays.load(str(tmp_path / "n.npy"))


def test_input_and_output_are_read_from_the_bytes_of_the_file(make_model: Callable[..., Path], tmp_path: Path) -> None:
    import onnx

    path = make_model(tmp_path / "m.onnx", side=24, opset=13)
    assert onnx_files.onnx_interface(path.read_bytes()) == ("input", [1, 1, 24, 24], "logits")
    proto = onnx.load(str(path))
    # Older exporters list the weights among the inputs too, and an axis may have a name instead of a size.
    weight = onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, [8, 1, 3, 3])
    image = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", 1, 24, 24])
    del proto.graph.input[:]
    proto.graph.input.extend([weight, image])
    assert onnx_files.onnx_interface(proto.SerializeToString()) == ("input", [None, 1, 24, 24], "logits")
    image.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del proto.graph.input[:]
    proto.graph.input.extend([image])
    with pytest.raises(errors.RefusedError, match="must be float32"):
        onnx_files.onnx_interface(proto.SerializeToString())


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", random.Random(0).randbytes(999), b"\x08\x07" * 50, b"\x3a\xff\xff\xff"],
    ids=["nothing", "words", "noise", "no graph", "no end"],
)
def test_a_file_that_is_not_onnx(content: bytes) -> None:
    with pytest.raises(errors.RefusedError, match="not an ONNX model"):
        onnx_files.onnx_interface(content)


def test_no_numpy_is_needed(
    tmp_path: Path, model: Path, image: Callable[..., Any], measured: Callable[..., Measurement]
) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/numpy.py").write_text("raise ImportError('Illegal instruction')\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/hidden exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    target = target_of(install(tmp_path), python=str(python))
    result = measured(target)
    assert result.ok, result.message
    (found,) = infer(model, "tensorrt", target, [image(2)])
    (expected,) = infer(model, "onnxruntime", resolve_target(load_spec("target", "cpu-onnxruntime")), [image(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Engines are built once


def test_an_engine_is_built_once(
    tmp_path: Path, image: Callable[..., Any], model: Path, measured: Callable[..., Measurement]
) -> None:
    program = install(tmp_path)
    target = target_of(program)
    first, second = measured(target), measured(target)
    list(infer(model, "tensorrt", target, [image()]))
    assert len(calls(program, "--saveEngine")) == 1
    details = [each.conditions["engine_details"] for each in (first, second)]
    assert [each["engine_was_kept"] for each in details] == [False, True]
    assert details[0]["build_seconds"] == details[1]["build_seconds"] >= 0
    # Built under another name, then renamed: nobody reads a half of one.
    kept = {path.suffix for path in (tmp_path / "engines").iterdir()}
    assert kept == {".engine", ".json", ".cache", ".lock"}


def test_another_model_precision_version_or_workspace_is_another_engine(
    tmp_path: Path, make_model: Callable[..., Path], measured: Callable[..., Measurement]
) -> None:
    program = install(tmp_path)
    other = make_model(tmp_path / "other.onnx", opset=13, seed=1)
    for count, (target, precision, path) in enumerate(
        [
            (target_of(program), "fp32", {}),
            (target_of(program), "fp16", {}),
            (target_of(program), "fp32", {"path": other}),
            (target_of(program, workspace_mb=64), "fp32", {}),
        ],
        1,
    ):
        result = measured(target, precision, **path)
        assert result.ok, result.message
        assert len(calls(program, "--saveEngine")) == count
    assert any("--workspace=64" in call for call in calls(program))
    newer = install(tmp_path, version="10.3.0", gpu="NVIDIA Tegra X1/5.3")  # an update of the same board
    assert measured(target_of(newer)).ok
    assert len(calls(program, "--saveEngine")) == 5


def test_two_at_a_time_build_one_engine(tmp_path: Path, model: Path, image: Callable[..., Any]) -> None:
    program = install(tmp_path)
    target = target_of(program)
    threads = [threading.Thread(target=lambda: list(infer(model, "tensorrt", target, [image()]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls(program, "--exportOutput")) == 3
    assert len(calls(program, "--saveEngine")) == 1


def test_a_build_that_was_killed_leaves_no_engine(tmp_path: Path, measured: Callable[..., Measurement]) -> None:
    assert measured(target_of(install(tmp_path, fail="killed"))).outcome == "out_of_memory"
    assert not list((tmp_path / "engines").glob("*.engine*"))
    assert measured(target_of(install(tmp_path))).ok


def test_engines_that_were_not_used_for_long_make_room(tmp_path: Path) -> None:
    for index in range(4):
        path = tmp_path / f"{index}.engine"
        path.write_bytes(bytes(1000))
        (tmp_path / f"{index}.engine.json").write_text("{}")
        hours = (5, 9, 7, 0.5)[index]
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    tensorrt_build.tidy(str(tmp_path), 2500)
    assert {path.name for path in tmp_path.iterdir()} == {"0.engine", "3.engine", "0.engine.json", "3.engine.json"}
    tensorrt_build.tidy(str(tmp_path), 0)
    assert {path.name for path in tmp_path.glob("*.engine")} == {"3.engine"}  # used within the hour


# ---------------------------------------------------------------------------------------------------------------------
# Timing


def test_three_runs_of_one_query_at_a_time(tmp_path: Path, measured: Callable[..., Measurement]) -> None:
    program = install(tmp_path)
    result = measured(target_of(program))
    timed = calls(program, "--exportTimes")
    assert len(timed) == 3
    for call in timed:
        assert {"--exposeDMA", "--iterations=64", "--warmUp=50", "--duration=0.05"} <= set(call)
        assert any(argument.startswith("--loadInputs=input:") for argument in call)
    conditions = result.conditions
    assert result.latency is not None
    assert result.latency.p50 == sorted(conditions["p50_of_runs"])[1]
    low, _, high = sorted(conditions["p50_of_runs"])
    assert conditions["spread"] == pytest.approx((high - low) / result.latency.p50, abs=1e-4)
    # The stand-in tells a fifth of each time as copies; the latency has them, the computation has not.
    assert conditions["compute_ms"]["p50"] == pytest.approx(0.8 * result.latency.p50, rel=1e-3)
    assert conditions["warmup_runs"] == 0


def test_too_few_times_are_no_measurement(tmp_path: Path, measured: Callable[..., Measurement]) -> None:
    result = measured(target_of(install(tmp_path, fail="run:short")))
    assert result.outcome == "crashed"
    assert result.message == "tensorrt: trtexec wrote 3 times, 64 were asked for while timing"


@pytest.mark.parametrize(
    ("fail", "outcome", "message"),
    [
        ("killed", "out_of_memory", "out of memory while compiling: trtexec was killed (SIGKILL)"),
        ("gpu-memory", "out_of_memory", "Requested amount of GPU memory (1073741824 bytes) could not be allocated"),
        ("no-tactic", "out_of_memory", "Tactic Device request: 538MB Available: 166MB"),
        ("parser", "unsupported", "TensorRT 8.2.1 cannot read the model: Assertion failed"),
        ("flag", "unsupported", "trtexec of TensorRT 8.2.1: Unknown option: --timingCacheFile"),
        ("cuda", "crashed", "Error Code 1: Cuda Driver (invalid handle) while compiling"),
        ("plain", "crashed", "trtexec: Engine set up failed while compiling"),
        ("segfault", "crashed", "trtexec: SIGSEGV while compiling"),
        ("run:killed", "out_of_memory", "out of memory while running: trtexec was killed (SIGKILL)"),
        ("run:segfault", "crashed", "trtexec: SIGSEGV while running"),
    ],
)
def test_every_failure_is_an_outcome(
    tmp_path: Path, measured: Callable[..., Measurement], fail: str, outcome: str, message: str
) -> None:
    result = measured(target_of(install(tmp_path, fail=fail)))
    assert result.outcome == outcome
    assert result.message.startswith("tensorrt: ")
    assert message in result.message
    assert "\n" not in result.message


def test_a_hang_is_a_timeout_and_nothing_stays_behind(
    tmp_path: Path, measured: Callable[..., Measurement], quick: MeasureSettings
) -> None:
    result = measured(
        target_of(install(tmp_path, fail="hang")), settings=replace(quick, timeout_seconds=3.0, build_seconds=0)
    )
    assert result.outcome == "timeout"
    assert "killed while compiling" in result.message
    mine = str(tmp_path)
    assert not [
        path
        for path in Path("/proc").glob("[0-9]*/environ")
        if path.parent.name != str(os.getpid()) and _mentions(path, mine)
    ]


def _mentions(path: Path, text: str) -> bool:
    try:
        return f"STANDIN_TRT_CALLS={text}".encode() in path.read_bytes()
    except OSError:
        return False


def test_an_operator_without_importer_is_named_when_the_gate_did_not_know(
    tmp_path: Path, make_model: Callable[..., Path], image: Callable[..., Any]
) -> None:
    target = target_of(install(tmp_path))
    with pytest.raises(EngineError) as error:
        list(infer(make_model(tmp_path / "i.onnx", operator="Mish", opset=18), "tensorrt", target, [image()]))
    assert error.value.outcome == "unsupported"
    assert str(error.value) == "tensorrt: TensorRT 8.2.1 has no importer for the operator Mish"


def test_tactics_without_memory_stay_with_the_engine(tmp_path: Path, measured: Callable[..., Measurement]) -> None:
    program = install(tmp_path, fail="tactics")
    target = target_of(program)
    for _ in range(2):  # also when the engine was kept
        told = measured(target).conditions["engine_details"]["tactic_memory_warnings"]
        assert told["count"] == 2
        assert told["first"].startswith("Tactic Device request: 538MB Available: 166MB.")
    assert len(calls(program, "--saveEngine")) == 1


# ---------------------------------------------------------------------------------------------------------------------
# What a target is told to be able to do


def test_a_jetson_nano_has_fp16_and_no_int8(
    tmp_path: Path, measured: Callable[..., Measurement], model: Path, image: Callable[..., Any]
) -> None:
    target = target_of(install(tmp_path))
    (engine,) = target.engines
    assert (engine.version, engine.precisions, engine.opset) == ("8.2.1", ("fp32", "fp16"), 13)
    assert measured(target, "fp16").ok
    # Whoever asks all the same hears why.
    result = measured(target, "int8")
    assert result.outcome == "unsupported"
    assert "NVIDIA Tegra X1 (sm_53) has no INT8 arithmetic" in result.message


def test_an_orin_nano_has_all_and_reads_layer_normalization(
    tmp_path: Path, measured: Callable[..., Measurement]
) -> None:
    program = install(tmp_path, version="10.3.0")
    target = target_of(program)
    (engine,) = target.engines
    assert (engine.version, engine.precisions, engine.opset) == ("10.3.0", ("fp32", "fp16", "int8"), 17)
    assert measured(target, "int8").ok
    (build,) = calls(program, "--saveEngine")
    assert {"--int8", "--skipInference"} <= set(build)


def test_a_profile_of_int8_alone_on_a_gpu_without_it(tmp_path: Path) -> None:
    options = {"trtexec": str(install(tmp_path)), "cache": str(tmp_path)}
    engine = {"name": "tensorrt", "precisions": ["int8"], "options": options}
    profile = HardwareProfile.from_dict({"name": "mine", "device": "tensorrt-gpu", "engines": [engine]})
    with pytest.raises(TargetError, match=r"computes in none of the profile's precisions \(int8\) here"):
        resolve_target(profile)


def reason(**options: Any) -> str:
    engine = {"name": "tensorrt", "options": options}
    target = inspect_target(HardwareProfile.from_dict({"name": "mine", "device": "tensorrt-gpu", "engines": [engine]}))
    assert not target.usable
    assert "\n" not in target.unusable[0].line
    return target.unusable[0].line


def test_why_tensorrt_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    if shutil.which("trtexec") or Path(trtexec.TRTEXEC).exists():
        pytest.skip("this machine has trtexec")
    with pytest.raises(TargetError) as error:
        resolve_target(load_spec("target", "gpu-tensorrt"))
    assert str(error.value).startswith(
        "target gpu-tensorrt cannot be used here: tensorrt: trtexec is not on PATH and not in /usr/src/tensorrt/bin"
    )
    assert "JetPack" in str(error.value) and "options: {trtexec: /path/to/trtexec}" in str(error.value)
    program = install(tmp_path)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert resolve_target(load_spec("target", "gpu-tensorrt")).engines[0].version == "8.2.1"


def test_a_wrong_option_is_told(tmp_path: Path) -> None:
    assert "there is no program /nowhere/trtexec, which the option trtexec names" in reason(trtexec="/nowhere/trtexec")
    assert "tensorrt takes no option workspace, only api, cache" in reason(workspace=3)
    assert "the option api is 'rpc', but must be python or trtexec" in reason(api="rpc")
    (tmp_path / "other").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "other").chmod(0o755)
    assert "other is not trtexec: it does not tell its TensorRT version" in reason(trtexec=str(tmp_path / "other"))


def test_without_a_gpu(tmp_path: Path) -> None:
    line = reason(trtexec=str(install(tmp_path, gpu="none")))
    assert "TensorRT 8.2.1 finds no GPU: Cuda failure: no CUDA-capable device is detected" in line


def test_the_python_package_is_asked_for_and_missing() -> None:
    import importlib.util

    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("this Python has tensorrt")
    assert "cannot be imported: No module named 'tensorrt'" in reason(api="python")


def test_the_program_dies_with_the_agent(
    tmp_path: Path, measured: Callable[..., Measurement], quick: MeasureSettings
) -> None:
    """The kernel ends trtexec when the agent is killed; the host's kill of the process group is not needed for it."""
    from tests.conformance.test_engines import timing_agent

    target = target_of(install(tmp_path))
    endless = replace(quick, min_seconds=600.0, max_seconds=600.0)
    results: list[Measurement] = []
    thread = threading.Thread(target=lambda: results.append(measured(target, settings=endless)))
    thread.start()
    os.kill(timing_agent(), signal.SIGKILL)
    thread.join(60)
    assert results[0].outcome == "out_of_memory"
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if _mentions(path, str(tmp_path))]


def test_the_stand_in_fails_as_trtexec_does_on_an_unknown_flag(tmp_path: Path) -> None:
    import subprocess

    program = install(tmp_path, version="10.3.0")
    told = subprocess.run([program, "--buildOnly"], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "Unknown option: --buildOnly" in told.stderr
    assert told.stdout.rstrip().endswith("&&&& FAILED TensorRT.trtexec [TensorRT v100300] # trtexec --buildOnly")
    assert json.loads(program.with_name("calls").read_text()) == ["--buildOnly"]
