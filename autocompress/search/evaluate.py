"""Dice of an exported file, run by an engine, on whole volumes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.data.dataset import Dataset, FloatArray, Split, Volume
from autocompress.data.preprocess import to_network
from autocompress.errors import HeldBackError
from autocompress.hardware.infer import EngineError, infer, stand_in_for
from autocompress.hardware.targets import Engine, Target
from autocompress.hardware.turnstile import Turnstile

if TYPE_CHECKING:
    from autocompress.training.metrics import DiceReport

BATCH = 16


@dataclass(frozen=True)
class Parity:
    """A file on another machine against the same file here, on the same slices.

    Attributes:
        slices, of: slices that were judged there, and slices of the split.
        dice, dice_here: mean Dice in percent there and here.
        same_pixels: share of the network's output pixels that have the same class.
        engine_here: what ran it here.
    """

    slices: int
    of: int
    dice: float
    dice_here: float
    same_pixels: float
    engine_here: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


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
        target: where it runs; on another machine the volumes are those of `sample_of`.
        dataset, split: whose volumes.
        resolution: side of the network input.
        precision: number format to compute in.
        threads: of the engine where it runs here; its own number by default.
        hd95: also compute HD95.
        turnstile: see `autocompress.hardware.infer.infer`.

    Raises:
        EngineError: the engine failed.
        HeldBackError: the target's host cannot be reached.
        DataError: a volume cannot be read.
    """
    from autocompress.training.metrics import evaluate_volumes

    part = sample_of(dataset, split, target)
    # The engine's process gets all inputs of a chunk of volumes at once: to start it for each would cost more than to
    # run it. The scoring below asks for the outputs in the very same order.
    outputs = infer(
        model,
        engine if threads is None or target.remote else replace(engine, threads=threads),
        target,
        _inputs(part, split, resolution),
        precision=precision,
        turnstile=turnstile,
    )
    with _holding_back(target):
        return evaluate_volumes(lambda _: next(outputs), part, split, resolution, hd95=hd95, batch=BATCH)


def evaluate_there(
    model: Path,
    engine: Engine,
    target: Target,
    dataset: Dataset,
    split: Split,
    *,
    resolution: int,
    precision: str,
    threads: int,
    hd95: bool = False,
    turnstile: Turnstile | None = None,
) -> tuple[DiceReport, Parity]:
    """As `evaluate_file` for a target on another machine, and the same on this one beside it.

    ONNX Runtime (torch for an exported program) runs the file here; of the reduced precisions it knows what the file
    holds, so a network that TensorRT computes in FP16 is computed in FP32 here where its file holds FP32.

    Args:
        threads: of the engine here. The others are those of `evaluate_file`.

    Raises:
        EngineError: an engine failed, there or here.
        HeldBackError: the target's host cannot be reached.
        DataError: a volume cannot be read.
    """
    from autocompress.training.metrics import evaluate_volumes

    part = sample_of(dataset, split, target)
    here, local = replace(stand_in_for(engine), threads=threads), replace(target, predicted=True)

    def run(by: Engine, where: Target) -> Iterator[FloatArray]:
        inputs = _inputs(part, split, resolution)
        return infer(model, by, where, inputs, precision=precision, turnstile=turnstile)

    outputs, beside = run(engine, target), run(here, local)
    same = pixels = 0

    def there(_: FloatArray) -> FloatArray:
        nonlocal same, pixels
        logits = next(outputs)
        agree = logits.argmax(1) == next(beside).argmax(1)
        same, pixels = same + int(agree.sum()), pixels + agree.size
        return logits

    with _holding_back(target):
        report = evaluate_volumes(there, part, split, resolution, hd95=hd95, batch=BATCH)
    # Computed once more and not kept: the logits of a data set may not fit into memory.
    again = run(here, local)
    report_here = evaluate_volumes(lambda _: next(again), part, split, resolution, batch=BATCH)
    judged, total = (sum(len(volume.label) for volume in each.volumes(split)) for each in (part, dataset))
    return report, Parity(
        slices=judged,
        of=total,
        dice=report.mean,
        dice_here=report_here.mean,
        same_pixels=same / max(pixels, 1),
        engine_here=here.name,
    )


@contextmanager
def _holding_back(target: Target) -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        if target.remote and error.outcome == "lost":
            raise HeldBackError(str(error)) from error
        raise


def sample_of(dataset: Dataset, split: Split, target: Target) -> Dataset:
    """The slices on which a target is judged: all, or for a slow one on another machine some of each volume.

    With ``target.accuracy_slices`` every n-th slice of each volume is taken, so that about so many are left.
    """
    limit = target.accuracy_slices if target.remote else None
    if limit is None:
        return dataset
    total = sum(len(volume.label) for volume in dataset.volumes(split))
    step = math.ceil(total / limit)
    return dataset if step <= 1 else _EveryNth(dataset, step)


class _EveryNth:
    """A data set with every n-th slice of its volumes, from the middle of the first n on."""

    def __init__(self, dataset: Dataset, step: int) -> None:
        self.name = dataset.name
        self.class_names = dataset.class_names
        self.in_channels = dataset.in_channels
        self.fingerprint = f"{dataset.fingerprint}/{step}"
        self._dataset = dataset
        self._step = step
        self.cases, self.slices = dataset.cases, dataset.slices

    def volumes(self, split: Split) -> Iterator[Volume]:
        """As `Dataset.volumes`; the distance between slices is that of those that are left."""
        for volume in self._dataset.volumes(split):
            chosen = slice(min(self._step // 2, len(volume.label) - 1), None, self._step)
            first, *rest = volume.spacing
            spacing = (first * self._step, rest[0], rest[1])
            yield replace(volume, image=volume.image[chosen], label=volume.label[chosen], spacing=spacing)


def _inputs(dataset: Dataset, split: Split, resolution: int) -> Iterator[FloatArray]:
    for volume in dataset.volumes(split):
        for start in range(0, len(volume.image), BATCH):
            yield to_network(volume.image[start : start + BATCH], resolution)
