"""Dice of an exported file, run by an engine, on whole volumes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autocompress.data.dataset import Dataset, FloatArray, Split
from autocompress.data.preprocess import to_network
from autocompress.hardware.infer import infer
from autocompress.hardware.targets import Engine, Target
from autocompress.hardware.turnstile import Turnstile

if TYPE_CHECKING:
    from autocompress.training.metrics import DiceReport

BATCH = 16


def evaluate_file(
    model: Path,
    engine: Engine,
    target: Target,
    dataset: Dataset,
    split: Split,
    *,
    resolution: int,
    precision: str,
    threads: int | None = None,
    hd95: bool = False,
    turnstile: Turnstile | None = None,
) -> DiceReport:
    """Segment a split's volumes with the file that will be deployed, and score them at their own resolution.

    Args:
        model: ONNX file.
        engine: of the target, by which the file was measured.
        target: where it runs.
        dataset, split: whose volumes.
        resolution: side of the network input.
        precision: number format to compute in.
        threads: of the engine; its own number by default.
        hd95: also compute HD95.
        turnstile: see `autocompress.hardware.infer.infer`.

    Raises:
        EngineError: the engine failed.
        DataError: a volume cannot be read.
    """
    from autocompress.training.metrics import evaluate_volumes

    # The engine's process gets all inputs of a chunk of volumes at once: to start it for each would cost more than to
    # run it. The scoring below asks for the outputs in the very same order.
    outputs = infer(
        model,
        engine if threads is None else replace(engine, threads=threads),
        target,
        _inputs(dataset, split, resolution),
        precision=precision,
        turnstile=turnstile,
    )
    return evaluate_volumes(lambda _: next(outputs), dataset, split, resolution, hd95=hd95, batch=BATCH)


def _inputs(dataset: Dataset, split: Split, resolution: int) -> Iterator[FloatArray]:
    for volume in dataset.volumes(split):
        for start in range(0, len(volume.image), BATCH):
            yield to_network(volume.image[start : start + BATCH], resolution)
