"""The engines by their names."""

import importlib.util
from typing import Any, Callable, Dict

from .engine import Engine
from .errors import RefusedError
from .onnx_engines import DeepSparse, OnnxRuntime, OpenVino
from .phases import Phases
from .tensorrt_python import TrtPython
from .torch_engine import Torch
from .trtexec import TrtExec


def tensor_rt(request: Dict[str, Any], phases: Phases) -> Engine:
    """TensorRT by its Python package where that is installed, else by trtexec; the option ``api`` forces one."""
    api = request.get("options", {}).get("api")
    if api not in (None, "python", "trtexec"):
        raise RefusedError("the option api is %r, but must be python or trtexec" % api)
    if api is None:
        api = "trtexec" if importlib.util.find_spec("tensorrt") is None else "python"
    return (TrtPython if api == "python" else TrtExec)(request, phases)


ENGINES: Dict[str, Callable[[Dict[str, Any], Phases], Engine]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "deepsparse": DeepSparse,
    "torch": Torch,
    "tensorrt": tensor_rt,
}
