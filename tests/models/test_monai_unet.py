"""MONAI's U-Net through the same interface."""

import pytest
import torch

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError
from autocompress.models import build, get_family
from autocompress.models.complexity import complexity


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_builds_every_level(levels: int) -> None:
    model = build("unet", CompressionConfig(32, levels, 0.25, "dense"), in_channels=2, num_classes=5).eval()
    assert model(torch.rand(1, 2, 32, 32)).shape == (1, 5, 32, 32)


def test_width_multiplies_the_reference_channels() -> None:
    half = build("unet", CompressionConfig(32, 2, 0.5, "dense"), in_channels=1, num_classes=2)
    full = build("unet", CompressionConfig(32, 2, 1.0, "dense"), in_channels=1, num_classes=2)
    assert tuple(half.channels) == (16, 32, 64)
    # Almost all work is quadratic in the channels.
    assert complexity(full, 1, 32).gmacs / complexity(half, 1, 32).gmacs == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (CompressionConfig(32, 2, 0.5), "grouping 'depthwise'; it offers dense"),
        (CompressionConfig(32, 1, 0.5, "dense"), "levels 1"),
        (CompressionConfig(36, 3, 0.5, "dense"), "no multiple of 8"),
        (CompressionConfig(32, 2, 0.5, "dense", 0.5, "channel"), "prune_pattern 'channel'"),
    ],
)
def test_declares_its_capabilities_honestly(config: CompressionConfig, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        get_family("unet").build(config, 1, 2)


def test_prunable_weights_exist() -> None:
    family = get_family("unet")
    model = family.build(CompressionConfig(32, 2, 0.25, "dense"), 1, 2)
    parameters = dict(model.named_parameters())
    assert all(parameters[name].dim() == 4 for name in family.prunable(model))
