"""Which network becomes the parent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autocompress.models
from autocompress.config import CompressionConfig
from autocompress.search import parent
from autocompress.training.settings import TrainSettings

CANDIDATES = [CompressionConfig(resolution=pixels, levels=2, width=0.25) for pixels in (128, 96, 64)]
SHAPE = {"in_channels": 1, "num_classes": 4}


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time passes in networks alone: 0.1 s for a call, whatever the batch, and for each image by its pixels."""
    clock = Clock()

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images: Tensor) -> Tensor:
            clock.now += 0.1 + len(images) * (images.shape[-1] / 128) ** 2 / 16
            return images * self.weight

    monkeypatch.setattr(autocompress.models, "build", lambda *_args, **_shape: Slow())
    monkeypatch.setattr(parent, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("a_step", "pixels"),
    [
        (1.2, 128),  # takes 0.1 + 1 s
        (0.7, 96),  # 0.1 + 0.5625; four calls with a quarter of the batch would take 0.96
        (0.4, 64),  # 0.1 + 0.25; four calls 0.65
        (0.1, 64),  # none is fast enough: the cheapest
    ],
)
def test_the_first_that_can_take_enough_steps_becomes_the_parent(clock: Clock, a_step: float, pixels: int) -> None:
    settings = TrainSettings(seconds=a_step * parent.MIN_PARENT_STEPS, batch_size=16)
    assert parent._affordable("dae-former", CANDIDATES, SHAPE, settings).resolution == pixels
