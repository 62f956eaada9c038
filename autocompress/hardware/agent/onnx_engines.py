"""Engines for processors that read ONNX files: ONNX Runtime, OpenVINO, DeepSparse."""

import os
import sys
from typing import Any, Dict, List

from .engine import Engine, option_text
from .errors import RefusedError
from .phases import Phases


class OnnxRuntime(Engine):
    def __init__(self, request: Dict[str, Any], phases: Phases) -> None:
        Engine.__init__(self, request, phases)
        phases.begin("importing")
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        self.version = str(onnxruntime.__version__)
        wanted = "CUDAExecutionProvider" if request.get("device") == "cuda" else "CPUExecutionProvider"
        available = onnxruntime.get_available_providers()
        self.details.update({"providers": list(available)})
        if wanted not in available:
            raise RefusedError("this build of onnxruntime has no %s" % wanted)
        if request.get("probe"):
            return
        phases.begin("loading")
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = request["threads"]
        settings.inter_op_num_threads = 1
        for name, value in request.get("options", {}).items():
            settings.add_session_config_entry(name, option_text(value))
        self.session = onnxruntime.InferenceSession(request["model"], settings, providers=[wanted])
        if wanted not in self.session.get_providers():
            # It goes on with the CPU by itself where the GPU's libraries are missing: that would be another target.
            raise RefusedError("onnxruntime could not start %s" % wanted)
        self.name = self.session.get_inputs()[0].name
        self.shape = list(self.session.get_inputs()[0].shape)
        self.outputs = [self.session.get_outputs()[0].name]

    def run(self, array: Any) -> Any:
        return self.session.run(self.outputs, {self.name: array})[0]


OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""What openvino calls our number formats."""


OPENVINO_TYPES = {"f32": "'float32'", "bf16": "'bfloat16'", "f16": "'float16'"}
"""How it spells what it chose."""


def openvino_hint(precision: str, capabilities: List[str]) -> str:
    """The number format of all that a file does not quantize: bf16 beside integers where the CPU has it."""
    if precision == "int8":
        return "bf16" if "BF16" in capabilities else "f32"
    return OPENVINO_HINTS[precision]


class OpenVino(Engine):
    def __init__(self, request: Dict[str, Any], phases: Phases) -> None:
        Engine.__init__(self, request, phases)
        phases.begin("importing")
        import openvino

        core = openvino.Core()
        self.version = str(openvino.__version__).split("-")[0]
        capabilities = list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        self.details.update({"capabilities": capabilities})
        if request.get("probe"):
            return
        precision = request.get("precision", "fp32")
        if precision in ("bf16", "fp16") and precision.upper() not in capabilities:
            raise RefusedError("this CPU has no %s arithmetic that openvino uses" % precision)
        phases.begin("loading")
        model = core.read_model(request["model"])
        phases.begin("compiling")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(request["threads"]),
            # Said for float32 too: on CPUs with matrix units openvino would choose bfloat16 by itself.
            "INFERENCE_PRECISION_HINT": openvino_hint(precision, capabilities),
        }
        for name, value in request.get("options", {}).items():
            settings[name] = option_text(value)
        self.model = core.compile_model(model, "CPU", settings)
        wanted = settings["INFERENCE_PRECISION_HINT"]
        chosen = str(self.model.get_property("INFERENCE_PRECISION_HINT"))
        if OPENVINO_TYPES.get(wanted, wanted) not in chosen:
            raise RefusedError("openvino computes in %s where %s was asked for" % (chosen, wanted))
        self.details["computes_in"] = wanted
        self.request = self.model.create_infer_request()
        partial = self.model.input(0).get_partial_shape()
        self.shape = [each.get_length() if each.is_static else None for each in partial]

    def run(self, array: Any) -> Any:
        return self.request.infer([array], share_inputs=True, share_outputs=True)[0]


class DeepSparse(Engine):
    def __init__(self, request: Dict[str, Any], phases: Phases) -> None:
        Engine.__init__(self, request, phases)
        phases.begin("importing")
        os.environ["NM_DISABLE_ANALYTICS"] = "1"  # it would report its use over the network
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        # It imports torch for a comparison that is not used here: seconds, and memory that is not the engine's.
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        import deepsparse

        self.version = str(deepsparse.__version__)
        self.details.update({"isa": str(deepsparse.cpu_architecture().isa)})
        if request.get("probe"):
            return
        if request.get("options"):
            raise RefusedError("deepsparse takes no option %s" % sorted(request["options"])[0])
        phases.begin("compiling")
        self.engine = deepsparse.Engine(
            request["model"], batch_size=1, num_cores=request["threads"], scheduler="single_stream"
        )
        if self.engine.num_cores != request["threads"]:
            raise RefusedError(
                "deepsparse uses %d cores where %d were asked for" % (self.engine.num_cores, request["threads"])
            )
        self.details["supported_operators"] = float(self.engine.fraction_of_supported_ops)
        self.shape = list(self.engine.input_shapes[0])

    def run(self, array: Any) -> Any:
        return self.engine.run([array], val_inp=False)[0]
