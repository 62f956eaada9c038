"""Files to measure for a configuration that nobody has trained: latency does not depend on the weights' values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autocompress.config import CompressionConfig
from autocompress.data.dataset import FloatArray
from autocompress.hardware.targets import Engine

if TYPE_CHECKING:
    from torch import nn


def export_untrained(
    config: CompressionConfig,
    engines: Sequence[Engine],
    folder: Path,
    *,
    family: str,
    in_channels: int = 1,
    num_classes: int = 9,
) -> dict[str, Path]:
    """Export a network with random weights, in the real precision and sparsity, as each engine wants it.

    Args:
        config: the configuration.
        engines: each gets a file of the newest opset that it reads.
        folder: where the files go; it must exist.
        family: name of the model family.
        in_channels, num_classes: of the network.

    Returns:
        A file for each engine by its name.

    Raises:
        UserError: the family cannot build the configuration, or the precision cannot be made here.
    """
    import torch

    from autocompress.bundles.export import export_onnx
    from autocompress.models import build

    torch.manual_seed(0)
    network = build(family, config, in_channels=in_channels, num_classes=num_classes)
    if config.prune_pattern == "unstructured":
        _zero_smallest(network, config.prune_ratio)
    plain: dict[int, Path] = {}
    files: dict[str, Path] = {}
    for engine in engines:
        if engine.opset not in plain:
            plain[engine.opset] = folder / f"opset{engine.opset}.onnx"
            export_onnx(
                network,
                plain[engine.opset],
                in_channels=in_channels,
                resolution=config.resolution,
                opset=engine.opset,
            )
        files[engine.name] = plain[engine.opset]
        if config.precision in ("fp16", "int8"):  # bf16 is a way to compute and not to store
            files[engine.name] = _converted(files[engine.name], config, in_channels)
    return files


def noise(*shape: int) -> FloatArray:
    """Reproducible values in 0..1 to stand for an image where there is none."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def _converted(path: Path, config: CompressionConfig, in_channels: int) -> Path:
    from autocompress.compression.precision import convert

    converted = path.with_name(f"{path.stem}-{config.precision}.onnx")
    if not converted.exists():
        samples = noise(8, in_channels, config.resolution, config.resolution)
        convert(path, converted, config.precision, calibration=samples if config.precision == "int8" else None)
    return converted


def _zero_smallest(network: nn.Module, ratio: float) -> None:
    """Put zeros where magnitude pruning would put them."""
    import torch

    from autocompress.compression.pruning import prunable_weights

    with torch.no_grad():
        for name in prunable_weights(network):
            weight = network.get_parameter(name)
            count = round(ratio * weight.numel())
            if count:
                weight[weight.abs() <= weight.abs().flatten().kthvalue(count).values] = 0
