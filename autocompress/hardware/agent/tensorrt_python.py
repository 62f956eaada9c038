"""TensorRT in this process, by its Python package and the CUDA runtime."""

import glob
import os
import re
import sys
from typing import Any, List, Tuple

from .errors import CrashError, RefusedError
from .plain_arrays import Values, number_array, product
from .tensorrt_build import TensorRt
from .trtexec_output import trt_failure


class TrtPython(TensorRt):
    """TensorRT in this process, by its Python package and the CUDA runtime; timed as the other engines are."""

    def start(self) -> None:
        import tensorrt  # type: ignore[import-not-found]

        self.details["api"] = "python"
        self.trt = tensorrt
        self.number = tuple(int(part) for part in re.findall(r"\d+", str(tensorrt.__version__))[:3])
        self.cuda = Cuda()
        self.compute = self.cuda.compute_capability()
        self.said: List[str] = []
        self.logger = _trt_logger(tensorrt, self.said)
        tensorrt.init_libnvinfer_plugins(self.logger, "")

    def build(self, model: str, engine: str, timing: str) -> str:
        trt, flags = self.trt, self.trt.BuilderFlag
        builder = trt.Builder(self.logger)
        explicit = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) if self.number < (10, 0) else 0
        network = builder.create_network(explicit)
        parser = trt.OnnxParser(network, self.logger)
        with open(model, "rb") as stream:
            if not parser.parse(stream.read()):
                self.said += [str(parser.get_error(index)) for index in range(parser.num_errors)]
                raise trt_failure(1, "\n".join(["Failed to parse", *self.said]), self.version)
        config = builder.create_builder_config()
        workspace = self.workspace_mb() * 2**20
        if self.number >= (8, 4):
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        else:
            config.max_workspace_size = workspace
        if self.precision == "fp16":
            config.set_flag(flags.FP16)
        else:
            config.clear_flag(flags.TF32)
        if self.precision == "int8":
            config.set_flag(flags.INT8)
        known = b""
        if os.path.exists(timing):
            with open(timing, "rb") as stream:
                known = stream.read()
        config.set_timing_cache(config.create_timing_cache(known), False)
        plan = builder.build_serialized_network(network, config)
        told = "\n".join(self.said)
        if plan is None:
            raise trt_failure(1, told, self.version)
        write_bytes(engine, plan)
        write_bytes(timing, config.get_timing_cache().serialize())
        return told

    def load(self) -> None:
        self.runtime = self.trt.Runtime(self.logger)
        with open(self.plan, "rb") as stream:
            self.engine = self.runtime.deserialize_cuda_engine(stream.read())
        self.context: Any = None if self.engine is None else self.engine.create_execution_context()
        if self.context is None:
            raise trt_failure(1, "\n".join(self.said), self.version)
        self.stream = self.cuda.stream()
        self.named = hasattr(self.context, "execute_async_v3")  # from 8.5; bindings are gone in 10
        self.places: List[int] = []
        for name, shape in self._tensors():
            place = self.cuda.allocate(4 * product(shape))
            self.places.append(place)
            if self.named:
                self.context.set_tensor_address(name, place)
            if name == self.name:
                self.source = place
            elif name == self.output:
                # One buffer for all outputs: whoever keeps one copies it.
                self.result, self.answer = place, Values(list(shape), number_array([0.0]) * product(shape))

    def _tensors(self) -> List[Tuple[str, Tuple[int, ...]]]:
        """Names and shapes of all inputs and outputs, in the engine's order."""
        engine = self.engine
        if self.named:
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            return [(name, tuple(engine.get_tensor_shape(name))) for name in names]
        count = engine.num_bindings
        return [(engine.get_binding_name(index), tuple(engine.get_binding_shape(index))) for index in range(count)]

    def run(self, array: Any) -> Any:
        self.cuda.copy(self.source, array.numbers.buffer_info()[0], 4 * array.size, True, self.stream)
        if self.named:
            done = self.context.execute_async_v3(self.stream)
        else:
            done = self.context.execute_async_v2(self.places, self.stream)
        if not done:
            raise trt_failure(1, "\n".join(self.said), self.version)
        self.cuda.copy(self.answer.numbers.buffer_info()[0], self.result, 4 * self.answer.size, False, self.stream)
        self.cuda.wait(self.stream)
        return self.answer


def _trt_logger(trt: Any, said: List[str]) -> Any:
    """A logger that adds to a list what TensorRT says, marked as trtexec marks it."""
    marks = {"INTERNAL_ERROR": "[E]", "ERROR": "[E]", "WARNING": "[W]", "INFO": "[I]"}

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            mark = marks.get(str(severity).split(".")[-1])
            if mark is not None:
                said.append("%s [TRT] %s" % (mark, text))

    return Logger()


class Cuda:
    """The few calls of the CUDA runtime that an inference takes."""

    def __init__(self) -> None:
        import ctypes

        self.types = ctypes
        # Packages of NVIDIA for Python bring their own, in a folder for each.
        places = [
            found for folder in sys.path for found in glob.glob(os.path.join(folder, "nvidia/*/lib/libcudart.so.*"))
        ]
        for name in [*places, "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2"]:
            try:
                self.library = ctypes.CDLL(name)
                return
            except OSError:
                continue
        raise RefusedError("the CUDA runtime (libcudart.so) cannot be loaded")

    def _do(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code == 2:  # cudaErrorMemoryAllocation
            raise MemoryError("%s: out of GPU memory" % name)
        if code:
            text = self.library.cudaGetErrorString
            text.restype = self.types.c_char_p
            raise CrashError("%s: %s" % (name, (text(code) or b"").decode()))

    def compute_capability(self) -> Tuple[int, int]:
        found = []
        for attribute in (75, 76):  # cudaDevAttrComputeCapabilityMajor and Minor
            value = self.types.c_int()
            self._do("cudaDeviceGetAttribute", self.types.byref(value), attribute, 0)
            found.append(value.value)
        return found[0], found[1]

    def allocate(self, size: int) -> int:
        place = self.types.c_void_p()
        self._do("cudaMalloc", self.types.byref(place), self.types.c_size_t(size))
        return place.value or 0

    def stream(self) -> int:
        made = self.types.c_void_p()
        self._do("cudaStreamCreate", self.types.byref(made))
        return made.value or 0

    def copy(self, target: int, source: int, size: int, to_device: bool, stream: int) -> None:
        pointer = self.types.c_void_p
        kind = 1 if to_device else 2  # cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost
        self._do(
            "cudaMemcpyAsync",
            pointer(target),
            pointer(source),
            self.types.c_size_t(size),
            kind,
            pointer(stream),
        )

    def wait(self, stream: int) -> None:
        self._do("cudaStreamSynchronize", self.types.c_void_p(stream))


def write_bytes(path: str, content: Any) -> None:
    with open(path + ".new", "wb") as stream:
        stream.write(memoryview(content))
    os.replace(path + ".new", path)
