"""What is known of each engine without asking it: how it is installed, and what its licence forbids."""

from __future__ import annotations

AGENT_ENGINES = ("onnxruntime", "openvino", "deepsparse", "torch", "tensorrt")
"""Engines that the agent has."""

PROGRAM_ENGINES = ("tensorrt",)
"""Those that are a program as well as a Python package: the agent looks for both."""

_BUILD_SECONDS = {"tensorrt": 1800.0}
_TENSORRT = (
    "on a Jetson it comes with JetPack; elsewhere install NVIDIA's TensorRT, or name the program in a profile: "
    "options: {trtexec: /path/to/trtexec}"
)
_INSTALL = {
    ("onnxruntime", "cpu"): "pip install onnxruntime",
    ("onnxruntime", "cuda"): "pip install onnxruntime-gpu in place of onnxruntime, on a machine with an NVIDIA GPU",
    ("openvino", "cpu"): "pip install 'autocompress[openvino]'",
    ("torch", "cpu"): "pip install torch",
    ("torch", "cuda"): "install a torch that is built for CUDA (see pytorch.org), on a machine with an NVIDIA GPU",
    ("deepsparse", "cpu"): "pip install 'autocompress[deepsparse]' with Python 3.11 or older",
    ("tensorrt", "tensorrt-gpu"): _TENSORRT,
    ("tensorrt", "cuda"): _TENSORRT,
}


def install_hint(engine: str, device: str) -> str:
    """What to type to have an engine; empty where nothing is known to help."""
    return _INSTALL.get((engine, device), "")


def remote_hint(engine: str) -> str:
    """What to do to have an engine on a host that is reached over SSH."""
    if engine == "tensorrt":
        return "on a Jetson it comes with JetPack (sudo apt install tensorrt there)"
    return f"install it there (python3 -m pip install {engine}), or name its interpreter in the profile"


def build_seconds(engine: str) -> float:
    """How long an engine may take to build a model before anything runs, beyond the time-outs of all engines.

    TensorRT tries its kernels one by one, which takes minutes on a Jetson Nano; what it built is kept on the host.
    """
    return _BUILD_SECONDS.get(engine, 0.0)


def licence_notice(engine: str) -> str:
    """What the licence of an engine forbids, on one line; empty where nothing."""
    if engine == "deepsparse":
        # Neural Magic DeepSparse Community License, in the wheel of version 1.8.0.
        return "DeepSparse's licence allows evaluation in development and testing, not production use"
    return ""
