"""Augmentation of a batch: one affine resampling for geometry, a few elementwise steps for intensity.

The geometry of a batch is drawn once and applied to images, labels and soft targets alike, whatever their resolutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Outside = Literal["zeros", "border"]


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which a slice's changes are drawn, uniformly and each slice for itself.

    Attributes:
        rotation: largest angle in degrees, either way.
        scale: largest change of size, either way, as a share (0.15: from 1/1.15 to 1.15).
        shift: largest shift along each side as a share of the side.
        gamma: largest change of the exponent, either way, as a share.
        contrast: largest change of the contrast about the slice's mean, either way, as a share.
        brightness: largest addition to the intensities (images are 0..1), either way.
        noise: largest standard deviation of the Gaussian noise.
        flip_horizontal, flip_vertical: mirror half of the slices along that direction.
    """

    rotation: float = 15.0
    scale: float = 0.15
    shift: float = 0.06
    gamma: float = 0.3
    contrast: float = 0.15
    brightness: float = 0.05
    noise: float = 0.02
    flip_horizontal: bool = False
    flip_vertical: bool = False


def draw_geometry(rng: np.random.Generator, batch: int, settings: Augmentation) -> Tensor:
    """Affine matrices, batch x 2 x 3 float32, in `torch.nn.functional.affine_grid`'s normalised coordinates."""
    angle = np.deg2rad(rng.uniform(-settings.rotation, settings.rotation, batch))
    zoom = np.exp(rng.uniform(-1, 1, batch) * math.log1p(settings.scale))
    flip_x = _signs(rng, batch, settings.flip_horizontal)
    flip_y = _signs(rng, batch, settings.flip_vertical)
    matrices = np.empty((batch, 2, 3), np.float32)
    matrices[:, 0, 0] = np.cos(angle) * zoom * flip_x
    matrices[:, 0, 1] = -np.sin(angle) * zoom * flip_y
    matrices[:, 1, 0] = np.sin(angle) * zoom * flip_x
    matrices[:, 1, 1] = np.cos(angle) * zoom * flip_y
    # Normalised coordinates span -1..1, so a share of the side is twice as much.
    matrices[:, :, 2] = rng.uniform(-2 * settings.shift, 2 * settings.shift, (batch, 2))
    return torch.from_numpy(matrices)


def warp(maps: Tensor, matrices: Tensor, *, nearest: bool = False, outside: Outside = "zeros") -> Tensor:
    """Resample maps B x C x H x W by `draw_geometry`'s matrices.

    Args:
        maps: float32.
        matrices: B x 2 x 3.
        nearest: take the nearest value instead of mixing four.
        outside: ``zeros``, or ``border`` for logits: there a zero for every class would teach that nothing is known.
    """
    grid = F.affine_grid(matrices, list(maps.shape), align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(maps, grid, mode=mode, padding_mode=outside, align_corners=False)


def warp_labels(labels: Tensor, matrices: Tensor) -> Tensor:
    """Resample labels B x H x W uint8 without mixing classes; what comes from outside is background."""
    return warp(labels.float().unsqueeze(1), matrices, nearest=True).squeeze(1).long()


def change_intensity(images: Tensor, rng: np.random.Generator, settings: Augmentation) -> Tensor:
    """Gamma, contrast, brightness and noise on images B x C x H x W in 0..1; the result stays in 0..1."""
    batch = images.shape[0]
    gamma, contrast, brightness, noise = (
        torch.from_numpy(rng.uniform(-1, 1, (batch, 1, 1, 1)).astype(np.float32)).to(images.device) for _ in range(4)
    )
    changed = images.clamp(0, 1).pow((gamma * math.log1p(settings.gamma)).exp())
    mean = changed.mean(dim=(1, 2, 3), keepdim=True)
    changed = (changed - mean) * (1 + contrast * settings.contrast) + mean + brightness * settings.brightness
    grain = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32)).to(images.device)
    return (changed + grain * noise.abs() * settings.noise).clamp(0, 1)


def _signs(rng: np.random.Generator, batch: int, flip: bool) -> NDArray[np.float64]:
    return np.where(rng.random(batch) < 0.5, -1.0, 1.0) if flip else np.ones(batch)
