"""Export to ONNX: static shapes, folded constants, one input and one output."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from autocompress.bundles.half_norm import with_half_norms
from autocompress.errors import ConfigError
from autocompress.models.registry import EXPORT_FORMS, ExportForm
from autocompress.paths import write_bytes

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
# The form in which each engine ran DAE-Former fastest (benchmarks/export_form.py). OpenVINO 2026.4 crashes when it
# compiles ``tokens``; DeepSparse 1.8 fails on ``plain``. TensorRT orders products and layouts by itself.
FASTEST_FORM: Mapping[str, ExportForm] = MappingProxyType(
    {
        "onnxruntime": "tokens",
        "openvino": "channels_first",
        "deepsparse": "channels_first",
        "tensorrt": "plain",
        "torch": "plain",
    }
)
# Engines that compute a float32 file in float16 themselves, all of it, and the form that bears that.
FP16_FORM: Mapping[str, ExportForm] = MappingProxyType({"tensorrt": "half"})
# From here on LayerNorm is one operator, which TensorRT computes in float32.
LAYER_NORM_OPSET = 17
# The legacy exporter writes 7 to 20; the networks need ops of 11.
MIN_OPSET, MAX_OPSET = 11, 20


def export_onnx(
    model: nn.Module,
    path: Path,
    *,
    in_channels: int,
    resolution: int,
    opset: int = 17,
    form: ExportForm = "plain",
) -> None:
    """Write a network as ONNX.

    The file has the input ``input`` (1 x in_channels x R x R, float32) and the output ``logits``
    (1 x classes x R x R, float32). The model is exported in evaluation mode and keeps its training mode.

    Args:
        model: a network on the CPU.
        path: file to write, in one step.
        in_channels: channels of the input.
        resolution: side R of the input in pixels.
        opset: ONNX operator set, 11 to 20. 17 has LayerNormalization as one operator; 13 is the newest that
            TensorRT 8.2 reads, 16 the newest that DeepSparse reads.
        form: in which operators to write the network. ``plain`` as it is trained; ``tokens`` for engines with fused
            LayerNorm and fast matrix products; ``channels_first`` for engines that prefer convolutions or skip the
            zeros in them (see `FASTEST_FORM`); ``half`` as it is trained, but such that no intermediate value leaves
            the range of float16 where the activations do not (see `FP16_FORM`). The function is the same, up to 1e-4
            relative to the largest logit. A family without forms of its own is written as it is trained, in each.

    Raises:
        ConfigError: the opset or the form is out of range.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ConfigError(f"opset {opset} is outside {MIN_OPSET} to {MAX_OPSET}")
    if form not in EXPORT_FORMS:
        raise ConfigError(f"export form {form!r} is not one of {', '.join(EXPORT_FORMS)}")
    buffer = io.BytesIO()
    with evaluating(model):
        written = model.export_form(form, resolution).eval() if hasattr(model, "export_form") else model
        if form == "half" and opset < LAYER_NORM_OPSET:
            written = with_half_norms(written)
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                written,
                (torch.zeros(1, in_channels, resolution, resolution),),
                buffer,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                opset_version=opset,
                do_constant_folding=True,
                dynamo=False,
            )
    write_bytes(path, buffer.getvalue())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards each part of the model is in its own mode again."""
    # One by one: a user may have set parts of the model to evaluation mode.
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns that it is the older one, and at each shape that it fixes, which is what is wanted here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
