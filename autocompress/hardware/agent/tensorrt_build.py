"""What both ways to TensorRT share: options, refusals, and the engines that are kept on the host."""

import hashlib
import json
import os
import time
from typing import Any, Dict, List, Optional, Tuple

from .arrays import shape_text
from .engine import Engine
from .errors import RefusedError
from .facts import host_facts
from .onnx_files import onnx_interface
from .phases import Phases
from .plain_arrays import PlainArrays
from .system import write_json
from .trtexec_output import trt_build_flags, trt_formats, trt_opset, trt_warnings
from .turnstile import wait_for

TRT_OPTIONS = ("api", "cache", "cache_mb", "trtexec", "workspace_mb")
"""What a profile may set: how TensorRT is called (``trtexec`` or ``python``), the folder of built engines and its size,
the program, and the memory in which the builder may try kernels."""


class TensorRt(Engine):
    """What both ways to TensorRT share: its facts, refusals, and engines that are built once and kept.

    An engine is kept under a digest of the model, TensorRT's version, the GPU and the flags, in ``engines`` of the
    user's cache, with a cache of kernel times for all of them.

    Attributes:
        number: TensorRT's version.
        gpu_name, compute: name and compute capability of the GPU, where known.
    """

    arrays = PlainArrays
    number: Tuple[int, ...] = ()
    gpu_name: Optional[str] = None
    compute: Optional[Tuple[int, int]] = None

    def __init__(self, request: Dict[str, Any], phases: Phases) -> None:
        Engine.__init__(self, request, phases)
        self.options = dict(request.get("options", {}))
        for name in sorted(self.options):
            if name not in TRT_OPTIONS:
                raise RefusedError("tensorrt takes no option %s, only %s" % (name, ", ".join(TRT_OPTIONS)))
        phases.begin("importing")
        self.start()
        self.version = ".".join(map(str, self.number))
        self.details["opset"] = trt_opset(self.number)
        if self.gpu_name is not None:
            self.details["gpu"] = self.gpu_name
        if self.compute is not None:
            self.details["compute_capability"] = "%d.%d" % self.compute
            self.details["capabilities"] = trt_formats(self.compute)
        if request.get("probe"):
            return
        self.precision = request.get("precision", "fp32")
        self._refuse_precision()
        phases.begin("loading")
        with open(request["model"], "rb") as stream:
            content = stream.read()
        self.name, self.shape, self.output = onnx_interface(content)
        if not all(self.shape):
            raise RefusedError(
                "the model takes %s: TensorRT is measured with fixed sizes only" % shape_text(self.shape)
            )
        self.plan = self._kept(request["model"], hashlib.sha256(content).hexdigest(), phases)
        phases.begin("loading")
        self.load()

    def start(self) -> None:
        """Set `number`, `gpu_name` and `compute`."""

    def flags(self) -> List[str]:
        """All that decides how an engine is built."""
        return trt_build_flags(self.number, self.precision, self.workspace_mb())

    def workspace_mb(self) -> int:
        """Memory in which the builder may try kernels, in MiB: never its default, which was 16 MiB up to 8.2."""
        total = host_facts()["memory_bytes"] or 2**34
        # A GPU that shares its memory with the processor cannot give more than a part of it.
        return int(self.options.get("workspace_mb", min(2048, total // 2**23)))

    def build(self, model: str, engine: str, timing: str) -> str:
        """Build an engine into a file, and return what was printed meanwhile."""
        raise RefusedError("TensorRT without build()")

    def load(self) -> None:
        """Make ready for `run` what the file `plan` holds."""

    def _refuse_precision(self) -> None:
        if self.precision not in ("fp32", "fp16", "int8"):
            raise RefusedError("tensorrt computes in fp32, fp16 or int8 here, not in %s" % self.precision)
        if self.compute is not None and self.precision.upper() not in trt_formats(self.compute):
            raise RefusedError(
                "the GPU %s (sm_%d%d) has no %s arithmetic: TensorRT would build it, slower than without"
                % (self.gpu_name or "here", self.compute[0], self.compute[1], self.precision.upper())
            )

    def _kept(self, model: str, digest: str, phases: Phases) -> str:
        """The file of the engine of a model, built if there is none yet."""
        home = os.environ.get("AUTOCOMPRESS_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "autocompress")
        folder = str(self.options.get("cache") or os.path.join(home, "engines"))
        os.makedirs(folder, exist_ok=True)
        gpu = [self.gpu_name, self.compute]
        seed = json.dumps([digest, self.version, gpu, self.flags(), self.details["api"]])
        path = os.path.join(folder, hashlib.sha256(seed.encode()).hexdigest()[:32] + ".engine")
        shared = hashlib.sha256(json.dumps([self.version, gpu, self.details["api"]]).encode()).hexdigest()[:12]
        phases.begin("waiting")
        # One at a time: builders would take each other's memory and falsify each other's times.
        with open(os.path.join(folder, "build.lock"), "a") as lock:
            wait_for(lock.fileno())
            phases.begin("compiling")
            kept = os.path.exists(path) and os.path.exists(path + ".json")
            if kept:
                os.utime(path, None)
            else:
                self._build(model, path, os.path.join(folder, "timing-%s.cache" % shared))
                tidy(folder, int(self.options.get("cache_mb", 2048)) * 2**20)
        with open(path + ".json") as stream:
            self.details.update(json.load(stream))
        self.details["engine_was_kept"] = kept
        self.details["engine_file"] = os.path.abspath(path)
        return path

    def _build(self, model: str, path: str, timing: str) -> None:
        temporary = "%s.part" % path  # of one who was killed: the lock lets no second one write it
        begin = time.time()
        try:
            told = self.build(model, temporary, timing)
            facts = {"build_seconds": round(time.time() - begin, 1), "engine_bytes": os.path.getsize(temporary)}
            write_json(path + ".json", dict(facts, **trt_warnings(told)))
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)


def tidy(folder: str, limit: int) -> None:
    """Remove the engines that were not used for longest, until the others fit; what was used in this hour stays."""
    found = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".engine")]
    total = sum(os.path.getsize(path) for path in found)
    for path in sorted(found, key=os.path.getmtime):
        if total <= limit or os.path.getmtime(path) > time.time() - 3600:
            return
        total -= os.path.getsize(path)
        for each in (path, path + ".json"):
            if os.path.exists(each):
                os.remove(each)
