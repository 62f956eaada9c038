"""A task that a tiny network learns in a second: find the bright square."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.data.dataset import SliceSet


@pytest.fixture(scope="session")
def squares() -> SliceSet:
    rng = np.random.default_rng(0)
    images = rng.normal(0.3, 0.05, (48, 1, 16, 16)).astype(np.float32)
    labels = np.zeros((48, 16, 16), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = rng.integers(1, 9, 2)
        image[0, row : row + 6, column : column + 6] += 0.4
        label[row : row + 6, column : column + 6] = 1
    return SliceSet(images, labels)


@pytest.fixture
def network() -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1)
        )

    return build
