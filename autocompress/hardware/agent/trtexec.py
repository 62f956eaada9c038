"""TensorRT by its program trtexec."""

import math
import os
import shutil
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

from .errors import CrashError, RefusedError
from .plain_arrays import Values
from .protocol import Load, summary
from .system import die_with
from .tensorrt_build import TensorRt
from .trtexec_output import TRT_NO_GPU, trt_device, trt_failure, trt_output, trt_times, trt_version

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
"""Where JetPack and NVIDIA's packages put the program, which is on no PATH there."""


TRT_RUNS = 3
"""Timed runs of trtexec; the one with the median p50 is kept."""


class TrtExec(TensorRt):
    """TensorRT by its program: one process builds an engine, one runs a sample, and one times many runs."""

    fed = 1  # each sample is a process that loads the engine anew
    repeats_itself = True

    def start(self) -> None:
        self.details["api"] = "trtexec"
        self.peak = 0
        self.program = self._find()
        self.details["trtexec"] = self.program
        # It fails for want of the file, but tells its version and the GPU first.
        code, told = self._call(["--loadEngine=none.engine"])
        number = trt_version(told)
        self.gpu_name, self.compute = trt_device(told)
        if number is None and "error while loading shared libraries" not in told:
            raise RefusedError("%s is not trtexec: it does not tell its TensorRT version" % self.program)
        if number is None or any(sign in told for sign in TRT_NO_GPU):
            raise trt_failure(code, told, ".".join(map(str, number or ())))
        self.number = number

    def _find(self) -> str:
        wanted = self.options.get("trtexec")
        if wanted is not None:
            path = os.path.expanduser(str(wanted))
            if not os.path.isabs(path) or not os.access(path, os.X_OK):
                raise RefusedError("there is no program %s, which the option trtexec names" % wanted)
            return path
        found = shutil.which("trtexec") or (TRTEXEC if os.access(TRTEXEC, os.X_OK) else None)
        if found is None:
            raise RefusedError(
                "trtexec is not on PATH and not in %s, and this Python %d.%d has no package tensorrt"
                % (os.path.dirname(TRTEXEC), sys.version_info[0], sys.version_info[1])
            )
        return found

    def _call(self, arguments: List[str], inference: bool = False) -> Tuple[int, str]:
        """Exit code and output of one run of the program; the peak memory of inferences is kept."""
        parent = os.getpid()
        with open("trtexec.log", "wb") as log:
            try:
                process = subprocess.Popen(
                    [self.program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # It dies with the agent, as the agent does with whom it works for.
                    preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 (the agent has no threads)
                )
            except OSError as error:
                raise RefusedError("cannot start %s: %s" % (self.program, error.strerror))
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if inference:
            self.peak = max(self.peak, usage.ru_maxrss * 1024)
        with open("trtexec.log", errors="replace") as stream:
            return process.returncode, stream.read()

    def _succeed(self, arguments: List[str], inference: bool = False) -> str:
        """The output of a run that must succeed."""
        code, told = self._call(arguments, inference)
        if code or "&&&& FAILED" in told:
            sys.stderr.write(told[-8000:])
            raise trt_failure(code, told, self.version)
        return told

    def build(self, model: str, engine: str, timing: str) -> str:
        files = ["--onnx=" + model, "--saveEngine=" + engine, "--timingCacheFile=" + timing]
        told = self._succeed(files + self.flags())
        if not os.path.exists(engine):
            raise CrashError("trtexec built no engine, although it says that it did")
        return told

    def load(self) -> None:
        if any(sign in self.name for sign in ":,"):
            raise RefusedError("trtexec cannot be told the input %r, for its ':' or ','" % self.name)

    def _inference(self, sample: Values, arguments: List[str]) -> str:
        with open("sample.bin", "wb") as stream:
            sample.numbers.tofile(stream)
        # One query at a time: by default a second one is on its way while the first one computes.
        flags = ["--loadEngine=" + self.plan, "--loadInputs=%s:sample.bin" % self.name, "--exposeDMA"]
        return self._succeed(flags + arguments, inference=True)

    def run(self, array: Any) -> Any:
        self._inference(array, ["--iterations=1", "--warmUp=0", "--duration=0", "--exportOutput=output.json"])
        with open("output.json") as stream:
            return trt_output(stream.read(), self.output)

    def warm_up(self, samples: List[Any], settings: Dict[str, Any]) -> int:
        """None here: every timed run of trtexec has its own."""
        return 0

    def attempt(self, samples: List[Any], settings: Dict[str, Any]) -> Dict[str, Any]:
        load, begin = Load(programs=True), time.perf_counter()
        runs = [self._timed(samples[0], settings) for _ in range(TRT_RUNS)]
        seconds = time.perf_counter() - begin
        ordered = sorted(runs, key=lambda each: float(each[0]["p50"]))
        chosen = ordered[len(ordered) // 2]
        return {
            "latency": chosen[0],
            "seconds": seconds,
            "load": load.since(),
            "conditions": {
                "compute_ms": chosen[1],
                "p50_of_runs": [each[0]["p50"] for each in runs],
                "spread": round((ordered[-1][0]["p50"] - ordered[0][0]["p50"]) / chosen[0]["p50"], 4),
            },
        }

    def _timed(self, sample: Values, settings: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Latency, and computation alone, of one timed run."""
        warm_up_ms = math.ceil(1000 * settings["warmup_seconds"])
        self._inference(
            sample,
            [
                "--warmUp=%d" % warm_up_ms,
                "--duration=%g" % settings["max_seconds"],
                "--iterations=%d" % settings["min_runs"],
                "--exportTimes=times.json",
            ],
        )
        with open("times.json") as stream:
            latencies, computes = trt_times(stream.read(), warm_up_ms)
        if len(latencies) < settings["min_runs"]:
            raise CrashError("trtexec wrote %d times, %d were asked for" % (len(latencies), settings["min_runs"]))
        return summary(latencies), summary(computes)

    def peak_memory(self) -> Optional[int]:
        return self.peak or None
