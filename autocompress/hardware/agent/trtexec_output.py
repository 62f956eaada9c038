"""What trtexec says, and how it is asked, by its version."""

import json
import re
import signal
from typing import Any, Dict, List, Optional, Tuple

from .errors import CrashError, RefusedError
from .plain_arrays import Values, number_array, product


def trt_version(text: str) -> Optional[Tuple[int, int, int]]:
    """The version in what trtexec prints: ``[TensorRT v8201]`` is 8.2.1, ``[TensorRT v100300]`` is 10.3.0."""
    found = re.search(r"\[TensorRT v(\d+)\]", text)
    if not found:
        return None
    number = int(found.group(1))
    step = 100 if number >= 10000 else 10
    return number // (100 * step), number // 100 % step, number % 100


def trt_device(text: str) -> Tuple[Optional[str], Optional[Tuple[int, int]]]:
    """Name and compute capability of the GPU in what trtexec prints; None where it tells none."""
    name = re.search(r"Selected Device: (.+)", text)
    compute = re.search(r"Compute Capability: (\d+)\.(\d+)", text)
    return (
        name.group(1).strip() if name else None,
        (int(compute.group(1)), int(compute.group(2))) if compute else None,
    )


def trt_formats(compute: Tuple[int, int]) -> List[str]:
    """Number formats in which TensorRT is faster on a GPU of that compute capability (NVIDIA's support matrix)."""
    formats = ["FP32"]
    if compute in ((5, 3), (6, 0), (6, 2)) or compute >= (7, 0):
        formats.append("FP16")
    if compute == (6, 1) or compute >= (7, 0):
        formats.append("INT8")
    return formats


def trt_opset(version: Tuple[int, ...]) -> int:
    """Newest opset of which TensorRT has all operators that networks are exported with: LayerNormalization is of 17."""
    return 20 if version >= (10, 0) else 17 if version >= (8, 6) else 13


def trt_build_flags(version: Tuple[int, ...], precision: str, workspace_mb: int) -> List[str]:
    """Flags of trtexec that decide how an engine is built, without the names of files."""
    pool = "--memPoolSize=workspace:%d" if version >= (8, 4) else "--workspace=%d"
    formats = {"fp32": ["--noTF32"], "fp16": ["--fp16"], "int8": ["--int8", "--noTF32"]}
    return [*formats[precision], pool % workspace_mb, "--skipInference" if version >= (8, 6) else "--buildOnly"]


def trt_times(text: str, warm_up_ms: float) -> Tuple[List[float], List[float]]:
    """Latencies and times of computation alone, in ms, of a file of ``--exportTimes``, without the warm-up.

    TensorRT 8.2 writes the warm-up too; newer versions leave it out.
    """
    runs = [each for each in json.loads(text) if each["startComputeMs"] >= warm_up_ms]
    return [float(each["latencyMs"]) for each in runs], [float(each["computeMs"]) for each in runs]


def trt_output(text: str, name: str) -> Values:
    """One tensor of a file of ``--exportOutput``; it is no JSON where values are ``nan`` or ``inf``.

    Raises:
        CrashError: it is not in the file, or not complete.
    """
    pattern = r'"name"\s*:\s*"([^"]*)"\s*,\s*"dimensions"\s*:\s*"([^"]*)"\s*,\s*"values"\s*:\s*\[([^\]]*)\]'
    for found in re.finditer(pattern, text):
        if found.group(1) == name:
            shape = [int(size) for size in found.group(2).split("x")]
            numbers = number_array(float(value.strip(' "')) for value in found.group(3).split(","))
            if len(numbers) == product(shape):
                return Values(shape, numbers)
    raise CrashError("trtexec did not write the output %s" % name)


def trt_warnings(text: str) -> Dict[str, Any]:
    """Tactics for which there was too little memory: the build goes on without them, and the engine may be slower."""
    lines = [_plain_line(line) for line in text.split("\n") if "Tactic Device request" in line]
    return {"tactic_memory_warnings": {"count": len(lines), "first": lines[0]}} if lines else {}


_TRT_MEMORY = ("Requested amount of GPU memory", "OutOfMemory", "out of memory", "std::bad_alloc")


TRT_NO_GPU = ("no CUDA-capable device", "CUDA driver version is insufficient", "CUDA initialization failure")


_TRT_UNREAD = ("Failed to parse", "Parsing model failed", "UNSUPPORTED_NODE", "Invalid Node")


_TRT_HOLLOW = re.compile(
    r"^(Failed to (parse|create)|Parsing model failed|Engine (set ?up|could not)|Building engine failed|Network And)"
)
"""Lines that only say that something failed."""


def trt_failure(code: int, text: str, version: str) -> Exception:
    """What a failure of TensorRT means.

    Args:
        code: exit code of trtexec; negative for a signal.
        text: all that was printed.
        version: of TensorRT, for the message.
    """
    memory = _trt_memory(code, text)
    if memory is not None:
        return MemoryError(memory)
    refusal = _trt_refusal(text, version)
    if refusal is not None:
        return RefusedError(refusal)
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return CrashError("trtexec: %s" % names.get(-code, "signal %d" % -code))
    return CrashError("trtexec: %s" % (_trt_reason(text) or "exit code %d" % code))


def _line_with(text: str, signs: Tuple[str, ...]) -> Optional[str]:
    """The first line that has one of these."""
    return next((_plain_line(line) for line in text.split("\n") if any(sign in line for sign in signs)), None)


def _trt_memory(code: int, text: str) -> Optional[str]:
    """What was said of too little memory: nothing at all, that a request failed, or that no kernel was left."""
    if code in (-signal.SIGKILL, 137):
        return "trtexec was killed (SIGKILL), most likely by the system for want of memory"
    tactics = trt_warnings(text).get("tactic_memory_warnings")
    if tactics is not None and "Could not find any implementation" in text:
        return str(tactics["first"])
    return _line_with(text, _TRT_MEMORY)


def _trt_refusal(text: str, version: str) -> Optional[str]:
    """Why TensorRT does not take the model, the flags or the machine."""
    # The line about importers is also there for operators that a plugin knows.
    unknown = [
        name
        for name in re.findall(r"No importer registered for op: ([^\s.]+)", text)
        if "Successfully created plugin: %s" % name not in text
    ]
    gpu, library = _line_with(text, TRT_NO_GPU), _line_with(text, ("error while loading shared libraries",))
    option = _line_with(text, ("Unknown option",))
    if gpu is not None:
        return "TensorRT %s finds no GPU: %s" % (version, gpu)
    if library is not None:
        return library
    if unknown:
        return "TensorRT %s has no importer for the operator %s" % (version, unknown[0])
    if option is not None:
        return "trtexec of TensorRT %s: %s" % (version, option)
    if any(sign in text for sign in _TRT_UNREAD):
        return "TensorRT %s cannot read the model: %s" % (version, _trt_reason(text))
    return None


def _trt_reason(text: str) -> str:
    """The last line of an error that says more than that there was one."""
    lines = text.split("\n")
    # The parser writes its reason in a line of its own, behind its place in its source: "[8] Assertion failed: ...".
    for line in lines:
        if re.match(r"\[\d+\] ", line):
            return line.split(" ", 1)[1].strip()[:200]
    errors = [_plain_line(line) for line in lines if "[E]" in line]
    telling = [line for line in errors if line and not _TRT_HOLLOW.match(line)]
    return ((telling or errors or [""])[-1])[:200]


def _plain_line(line: str) -> str:
    """A line without its time and its marks: ``[11/21/2026-10:00:00] [E] [TRT] text`` is ``text``."""
    return re.sub(r"^(\[[\d/:-]+\] )?(\[[VIWEF]\] )?(\[TRT\] )?", "", line.strip()).strip()
