"""Parameters and multiply-accumulates of a network, counted by ptflops."""

from __future__ import annotations

import contextlib
import io
import threading
from dataclasses import dataclass

import torch
from ptflops import get_model_complexity_info
from torch import nn

# ptflops replaces functions of torch for the time of a count, for all threads.
_counting = threading.Lock()


@dataclass(frozen=True)
class Complexity:
    """Size and work of a network.

    Attributes:
        parameters: trainable parameters.
        gmacs: 10^9 multiply-accumulates for one image, as ptflops counts them.
    """

    parameters: int
    gmacs: float


def complexity(model: nn.Module, in_channels: int, resolution: int) -> Complexity:
    """Count one forward pass of one image, which is really computed.

    The model keeps its training mode and its device. Do not run other networks in other threads meanwhile: their
    operations would be counted too.

    Args:
        model: a network from B x in_channels x R x R.
        in_channels: channels of the input.
        resolution: side R of the input in pixels.

    Raises:
        RuntimeError: the network cannot process such an input.
    """
    modes = [(module, module.training) for module in model.modules()]
    output = io.StringIO()
    with _counting, torch.no_grad(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            macs, parameters = get_model_complexity_info(
                model,
                (in_channels, resolution, resolution),
                as_strings=False,
                print_per_layer_stat=False,
                verbose=False,
                backend="pytorch",
            )
        finally:
            for module, mode in modes:
                module.training = mode
    if macs is None or parameters is None:
        lines = output.getvalue().strip().splitlines()
        raise RuntimeError(f"ptflops could not count the network: {lines[-1] if lines else 'no reason given'}")
    return Complexity(int(parameters), macs / 1e9)
