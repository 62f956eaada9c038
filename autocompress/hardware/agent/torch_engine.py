"""PyTorch as an engine."""

from typing import Any, Dict

from .engine import Engine
from .errors import RefusedError
from .narrowing import narrow_program
from .phases import Phases
from .programs import build_program, read_program


class Torch(Engine):
    """PyTorch with an exported program: operator by operator, or on a GPU as one CUDA graph (`cuda_graphs`)."""

    def __init__(self, request: Dict[str, Any], phases: Phases) -> None:
        Engine.__init__(self, request, phases)
        phases.begin("importing")
        import torch

        self.torch = torch
        self.version = str(torch.__version__)
        if self.device not in ("cpu", "cuda"):
            raise RefusedError("torch computes on cpu and cuda, not on %s" % self.device)
        self.cuda = self.device == "cuda"
        self.details.update(self._facts())
        if request.get("probe"):
            return
        precision = request.get("precision", "fp32")
        if precision.upper() not in self.details["capabilities"]:
            raise RefusedError("torch does not compute in %s on %s here" % (precision, self.device))
        graphs = self._graphs_wanted(request.get("options", {}))
        torch.set_num_threads(request["threads"])
        torch.set_num_interop_threads(1)
        # TensorFloat-32 has ten bits of mantissa: it would be another precision than the one asked for.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        phases.begin("loading")
        graph, tensors, writer = read_program(request["model"])
        device = torch.device("cuda", 0) if self.cuda else torch.device("cpu")
        self.shape = list(graph["input"]["shape"])
        self.narrow = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        self.staged = torch.zeros(self.shape, pin_memory=self.cuda)
        self.given = torch.zeros(self.shape, device=device) if self.cuda else self.staged
        self.program = build_program(graph, tensors, device)
        self.details.update(
            {
                "computes_in": precision,
                "cuda_graphs": graphs,
                "operators": len(graph["nodes"]),
                "exported_by": writer,
            }
        )
        del tensors
        phases.begin("compiling")
        self.recorded: Any = None
        with torch.inference_mode():
            if self.narrow is not None:
                narrow_program(self.program, self.given, self.narrow)
            # The first run shows what the device lacks, before anything is timed.
            self.output = self._compute()
            if self.cuda:
                torch.cuda.synchronize()
                # What loading and the choice of convolutions took is not what a run takes.
                torch.cuda.reset_peak_memory_stats()
            if graphs:
                self._capture()
        self.answer: Any = torch.zeros(self.output.shape, pin_memory=True) if self.cuda else None

    def _facts(self) -> Dict[str, Any]:
        torch = self.torch
        if not self.cuda:
            return {"capabilities": ["FP32", "BF16"]}
        if torch.version.cuda is None:
            raise RefusedError("this build of torch has no CUDA")
        if not torch.cuda.is_available():
            raise RefusedError("torch finds no NVIDIA GPU with a driver for its CUDA %s" % torch.version.cuda)
        narrow = ["FP16", "BF16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["FP16"]
        gpu = self.gpu
        return {
            "capabilities": ["FP32", *narrow],
            "gpu": torch.cuda.get_device_name(0),
            "compute_capability": "%d.%d" % torch.cuda.get_device_capability(0),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": None if gpu is None else gpu.driver(),
        }

    def _graphs_wanted(self, options: Dict[str, Any]) -> bool:
        for name, value in options.items():
            if name != "cuda_graphs" or not isinstance(value, bool):
                raise RefusedError("torch takes the option cuda_graphs, true or false, and not %s: %s" % (name, value))
            if not self.cuda:
                raise RefusedError("the option cuda_graphs is for the device cuda")
        return self.cuda and options.get("cuda_graphs", True)

    def _compute(self) -> Any:
        image = self.given if self.narrow is None else self.given.to(self.narrow)
        return self.program(image).float()

    def _capture(self) -> None:
        """Record a run. What is recorded may not be the first run of anything: libraries still set themselves up."""
        cuda = self.torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(3):
                self._compute()
        cuda.current_stream().wait_stream(side)
        self.recorded = cuda.CUDAGraph()
        with cuda.graph(self.recorded):
            self.output = self._compute()
        cuda.synchronize()

    def run(self, array: Any) -> Any:
        self.staged.numpy()[...] = array
        with self.torch.inference_mode():
            if not self.cuda:
                return self._compute().numpy()
            self.given.copy_(self.staged, non_blocking=True)
            if self.recorded is None:
                self.output = self._compute()
            else:
                self.recorded.replay()
            self.answer.copy_(self.output, non_blocking=True)
            self.torch.cuda.synchronize()
            return self.answer.numpy()

    def finish(self) -> None:
        if self.cuda:
            self.details["gpu_peak_memory_bytes"] = int(self.torch.cuda.max_memory_allocated())
