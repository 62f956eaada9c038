"""Installing the stand-in for trtexec into a folder of a test, set up as a certain board."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from autocompress.hardware.targets import Target, inspect_target
from autocompress.specs.schemas import HardwareProfile

STANDIN = Path(__file__).with_name("trtexec")
"""Our own program; it is no TensorRT."""
BOARDS = {"8.2.1": "NVIDIA Tegra X1/5.3", "10.3.0": "Orin/8.7"}
"""GPU of a board with that TensorRT: Jetson Nano, Jetson Orin Nano."""


def install(folder: Path, *, version: str = "8.2.1", gpu: str | None = None, fail: str = "") -> Path:
    """Write a program ``trtexec`` that runs the stand-in with this interpreter; ``calls`` beside it gets its calls."""
    settings = {
        "STANDIN_TRT_VERSION": version,
        "STANDIN_TRT_GPU": BOARDS[version] if gpu is None else gpu,
        "STANDIN_TRT_FAIL": fail,
        "STANDIN_TRT_CALLS": str(folder / "calls"),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    # A test may hide NumPy from the agent, but the stand-in needs it.
    lines += ["unset PYTHONPATH", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(STANDIN))} "$@"']
    program = folder / "trtexec"
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    program.chmod(0o755)
    return program


def calls(program: Path, flag: str = "") -> list[list[str]]:
    """Arguments of all calls of an installed program, or of those that have a flag."""
    path = program.with_name("calls")
    made = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [call for call in made if not flag or any(argument.split("=")[0] == flag for argument in call)]


def target_of(program: Path, *, python: str | None = None, **options: Any) -> Target:
    """The target that a profile with this program would be; its engines are kept beside the program."""
    given = {"trtexec": str(program), "cache": str(program.parent / "engines"), **options}
    engine = {"name": "tensorrt", "precisions": ["fp32", "fp16", "int8"], "threads": 1, "options": given}
    if python is not None:
        engine["python"] = python
    return inspect_target(HardwareProfile.from_dict({"name": "board", "device": "tensorrt-gpu", "engines": [engine]}))
