"""What is tried when INT8 costs too much Dice: mixed precision, then a short quantization-aware fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocompress.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from autocompress.search.variants import Variant
    from autocompress.training.metrics import DiceReport

TOLERATED_DROP = 0.5
"""Dice points that a lower precision may cost before something is done about it."""
FLOAT_LAYERS = 6
"""Layers that mixed precision keeps in float32: about a tenth of a two-level DAE-Former's."""
FINE_TUNE_SHARE = 0.2
"""Of a trial's training time, for the fine-tune."""
FINE_TUNE_RATE = 0.1
"""Of the peak learning rate."""
FURTHER_RATE = 0.3
"""Of the peak learning rate, for the further training of a member of the front: the first training ended at a rate of
nothing, and at the peak much of what it learnt would be lost."""


@dataclass(frozen=True)
class Judged:
    """An exported network with the Dice of its file for each target.

    Attributes:
        model: whose weights they hold.
        variants: the files, one for each target.
        reports: their Dice on the validation volumes.
        repair: what was done to them beyond rounding; empty for nothing.
    """

    model: nn.Module
    variants: Sequence[Variant]
    reports: Sequence[DiceReport]
    repair: str = ""

    @property
    def report(self) -> DiceReport:
        """That of the file with the lowest mean Dice."""
        return min(self.reports, key=lambda each: each.mean)


def repaired(rounded: Judged, float_dice: float, remedies: Sequence[Callable[[], Judged | None]]) -> Judged:
    """The first that loses at most `TOLERATED_DROP`, else the best of all.

    Args:
        rounded: the network as it was quantized after training.
        float_dice: Dice in percent of the same network in float32.
        remedies: cheapest first; each is tried only where those before it were not enough. None is one that failed.
    """
    tried = [rounded]
    for remedy in remedies:
        if float_dice - max(each.report.mean for each in tried) <= TOLERATED_DROP:
            break
        outcome = remedy()
        tried += [] if outcome is None else [outcome]
    return max(tried, key=lambda each: each.report.mean)


def fine_tuning(training: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the fine-tune from those of a trial's training (`autocompress.training.TrainSettings`)."""
    settings = {**training, "learning_rate": FINE_TUNE_RATE * training["learning_rate"]}
    if settings.get("steps") is not None:
        settings["steps"] = max(1, round(FINE_TUNE_SHARE * settings["steps"]))
    else:
        settings["seconds"] = FINE_TUNE_SHARE * settings["seconds"]
    return settings


def further_training(training: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Settings of a further training of so many seconds from those of a trial's.

    With another seed: else the slices would come in the same order again.
    """
    rate = FURTHER_RATE * training.get("learning_rate", TrainSettings.learning_rate)
    return {**training, "seconds": seconds, "steps": None, "seed": training["seed"] + 1, "learning_rate": rate}
