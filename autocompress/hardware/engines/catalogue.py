"""What is known of each engine without asking it: how it is installed, and what its licence forbids."""

from __future__ import annotations

AGENT_ENGINES = ("onnxruntime", "openvino", "deepsparse")
"""Engines that the agent has."""

_INSTALL = {
    ("onnxruntime", "cpu"): "pip install onnxruntime",
    ("onnxruntime", "cuda"): "pip install onnxruntime-gpu in place of onnxruntime, on a machine with an NVIDIA GPU",
    ("openvino", "cpu"): "pip install 'autocompress[openvino]'",
    ("deepsparse", "cpu"): "pip install 'autocompress[deepsparse]' with Python 3.11 or older",
}


def install_hint(engine: str, device: str) -> str:
    """What to type to have an engine; empty where nothing is known to help."""
    return _INSTALL.get((engine, device), "")


def licence_notice(engine: str) -> str:
    """What the licence of an engine forbids, on one line; empty where nothing."""
    if engine == "deepsparse":
        # Neural Magic DeepSparse Community License, in the wheel of version 1.8.0.
        return "DeepSparse's licence allows evaluation in development and testing, not production use"
    return ""
