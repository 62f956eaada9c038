"""LayerNorm in operators that stay inside the range of float16, for engines that have no LayerNorm of their own.

A LayerNorm is usually decomposed into a difference to the mean, its square, a mean and a root. In float16 the square
overflows above 255, and a ViT-B/16 fell to 19 % top-1 on a Jetson Nano by it. Here the difference d is divided by its
largest magnitude s first:

    d / sqrt(mean(d^2) + eps) = (d / s) / sqrt(mean((d / s)^2) + eps / s^2)

is the same for any s > 0. With s at least sqrt(eps) nothing is divided by zero: either d / s has an element of 1, or
eps / s^2 is 1.
"""

from __future__ import annotations

import copy
import math

from torch import Tensor, nn


class HalfLayerNorm(nn.Module):
    """The function of an `nn.LayerNorm`, for inputs up to 65504 and differences to their mean as large.

    Args:
        norm: its gain, bias and epsilon are taken.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.axes = tuple(range(-len(norm.normalized_shape), 0))
        self.share = 1.0 / math.prod(norm.normalized_shape)
        self.root_eps = math.sqrt(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        # Not `mean`: the sum that it begins with may leave the range.
        difference = x - (x * self.share).sum(dim=self.axes, keepdim=True)
        scale = difference.abs().amax(dim=self.axes, keepdim=True).clamp_min(self.root_eps)
        scaled = difference / scale
        small = self.root_eps / scale
        variance = (scaled * scaled).mean(dim=self.axes, keepdim=True)
        y = scaled / (variance + small * small).sqrt()
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


def with_half_norms(model: nn.Module) -> nn.Module:
    """A copy of a network, for export, with a `HalfLayerNorm` in place of each LayerNorm; the mode is kept."""
    changed = copy.deepcopy(model)
    for parent in list(changed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm):
                setattr(parent, name, HalfLayerNorm(child).train(child.training))
    return changed
