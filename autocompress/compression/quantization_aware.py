"""Fine-tuning that sees the rounding of INT8: what is left to do where INT8 after training costs too much Dice.

The forward pass rounds weights and activations as the exported file will (`autocompress.compression.quantization`); the
backward pass takes the rounding for the identity (straight-through estimator: Bengio et al., arXiv 1308.3432; Jacob et
al., CVPR 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.05
"""Weight of the newest batch in the range of an activation."""
_TINY = 1e-8


@contextmanager
def quantization_aware(model: nn.Module) -> Iterator[None]:
    """Round weights and inputs of the layers that INT8 rounds, while the block runs.

    All linear layers and convolutions but the first and the last are rounded: weights to int8 with a scale for each
    output channel, inputs (and what convolutions give) to uint8 over a range that follows the batches. The network's
    own weights stay float32 and are what an optimiser trains; afterwards nothing of the rounding is left in it.

    Args:
        model: a network whose layers are called as modules.
    """
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][1:-1]
    try:
        for layer in layers:
            layer.forward = _Rounded(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


class _Range:
    """The extremes of an activation, each averaged over the samples as the calibration does."""

    def __init__(self) -> None:
        self.limits: Tensor | None = None

    def round(self, x: Tensor, follow: bool) -> Tensor:
        """The activation, rounded; with ``follow`` the range moves on with it."""
        if follow or self.limits is None:
            flat = x.detach().float().flatten(1)
            found = torch.stack((flat.amin(dim=1).mean().clamp(max=0), flat.amax(dim=1).mean().clamp(min=0)))
            self.limits = found if self.limits is None else torch.lerp(self.limits, found, MOMENTUM)
        return round_activation(x, self.limits)


class _Rounded:
    """The forward pass of one layer with rounding."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        self.layer = layer
        self.input, self.output = _Range(), _Range()

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        x = self.input.round(x, layer.training)
        weight = round_weight(layer.weight)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        x = F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        return self.output.round(x, layer.training)  # the file rounds what convolutions give as well


def round_weight(weight: Tensor) -> Tensor:
    """A weight as int8 represents it: symmetric, one scale for each output channel (the first axis)."""
    scale = weight.detach().abs().flatten(1).amax(dim=1).clamp(min=_TINY) / 127
    scale = scale.view(-1, *[1] * (weight.dim() - 1))
    return weight + ((weight / scale).round().clamp(-127, 127) * scale - weight).detach()


def round_activation(x: Tensor, limits: Tensor) -> Tensor:
    """An activation as uint8 represents it.

    Args:
        x: any shape.
        limits: its lowest value, at most 0, and its highest, at least 0.
    """
    scale = ((limits[1] - limits[0]) / 255).clamp(min=_TINY)
    zero = (-limits[0] / scale).round()
    inside = x.clamp((0 - zero) * scale, (255 - zero) * scale)  # beyond the range there is no gradient
    return inside + ((inside.detach() / scale).round() * scale - inside.detach()).to(x.dtype)
