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
    """Count one forward pass of one image.

    The model keeps its training mode and its device. Do not run other networks in other threads meanwhile: their
    operations would be counted too.

    Args:
        model: a network from B x in_channels x R x R.
        in_channels: channels of the input.
        resolution: side R of the input in pixels.

    Raises:
        RuntimeError: the network cannot process such an input.
    """
    was_training = model.training
    output = io.StringIO()
    with _counting, torch.no_grad(), contextlib.redirect_stdout(output):
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
            model.train(was_training)
    if macs is None or parameters is None:
        raise RuntimeError(f"ptflops could not count the network: {output.getvalue().strip()[:500]}")
    return Complexity(int(parameters), macs / 1e9)
