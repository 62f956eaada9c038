"""A network as the files that engines run: in the form and precision that each of them wants."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autocompress.config import CompressionConfig
from autocompress.data.dataset import FloatArray
from autocompress.hardware.targets import Engine

if TYPE_CHECKING:
    from torch import nn


def export_for(
    network: nn.Module,
    config: CompressionConfig,
    engines: Sequence[Engine],
    folder: Path,
    *,
    in_channels: int,
    calibration: Callable[[], FloatArray],
    threads: int | None = None,
    keep_float: int = 0,
) -> dict[str, Path]:
    """Export a network once for each kind of file, form, opset and precision that the engines need.

    Args:
        network: with its final weights, or others: latency does not depend on their values.
        config: its configuration.
        engines: each gets a file of the newest opset that it reads, in the form that it runs fastest; torch gets an
            exported program in float32, which it runs in each of its precisions.
        folder: where the files go; it must exist.
        in_channels: of the network.
        calibration: gives N x channels x R x R slices; asked only where a quantization needs them.
        threads: for the calibration; None for all cores.
        keep_float: with INT8, so many of the most sensitive layers stay in float32.

    Returns:
        A file for each engine by its name.

    Raises:
        UserError: the precision cannot be made here, or the network cannot be exported.
    """
    from autocompress.bundles.export import FASTEST_FORM, FP16_FORM, export_onnx
    from autocompress.bundles.exported_program import SUFFIX, write_exported_program
    from autocompress.compression.precision import convert

    exported: set[Path] = set()
    files: dict[str, Path] = {}
    for engine in engines:
        if engine.name == "torch":
            files[engine.name] = folder / f"program{SUFFIX}"
            write_exported_program(network, files[engine.name], in_channels=in_channels, resolution=config.resolution)
            continue
        # An engine that is not at hand has no version: its predictor reads the number format from the file.
        by_flag = config.precision == "fp16" and engine.name in FP16_FORM and engine.version != ""
        # What the faster forms compute by way of sums of squares would leave the range of float16.
        form = "plain" if config.precision == "fp16" else FASTEST_FORM.get(engine.name, "plain")
        if by_flag:
            form = FP16_FORM[engine.name]
        path = folder / f"{form}-opset{engine.opset}.onnx"
        if path not in exported:
            export_onnx(
                network,
                path,
                in_channels=in_channels,
                resolution=config.resolution,
                opset=engine.opset,
                form=form,
            )
            exported.add(path)
        if config.precision in ("fp16", "int8") and not by_flag:  # bf16 is a way to compute and not to store
            converted = path.with_name(f"{path.stem}-{engine.name}-{config.precision}.onnx")
            samples = calibration() if config.precision == "int8" else None
            convert(
                path,
                converted,
                config.precision,
                calibration=samples,
                engine=engine.name,
                keep_float=keep_float,
                threads=threads,
            )
            path = converted
        files[engine.name] = path
    return files


def with_zeros(network: nn.Module, ratio: float) -> nn.Module:
    """A copy in which the smallest weights of each prunable layer are zero, as magnitude pruning would choose them."""
    import torch

    from autocompress.compression.pruning import prunable_weights

    pruned = copy.deepcopy(network)
    with torch.no_grad():
        for name in prunable_weights(pruned):
            weight = pruned.get_parameter(name)
            count = round(ratio * weight.numel())
            if count:
                weight[weight.abs() <= weight.abs().flatten().kthvalue(count).values] = 0
    return pruned


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

    from autocompress.models import build

    torch.manual_seed(0)
    network = build(family, config, in_channels=in_channels, num_classes=num_classes)
    if config.prune_pattern == "unstructured":
        network = with_zeros(network, config.prune_ratio)
    return export_for(
        network,
        config,
        engines,
        folder,
        in_channels=in_channels,
        calibration=lambda: noise(8, in_channels, config.resolution, config.resolution),
    )


def noise(*shape: int) -> FloatArray:
    """Reproducible values in 0..1 to stand for an image where there is none."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)
