"""What the driver and its workers hand each other: plain values, JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from autocompress.config import CompressionConfig
from autocompress.hardware.records import Measurement
from autocompress.paths import read_json, write_json
from autocompress.specs.schemas import Constraints

TrialState = Literal["complete", "pruned", "failed"]
Part = Literal["gate", "training", "judgement"]
"""Of a trial, by what it needs: its target, processors or GPUs alone, its target again."""

TRAINING_PART: Part = "training"

RESULT_FILE = "result.json"
CONFIRM_FILE = "confirmed.json"
FRONT_FILE = "front.json"
RECIPE_FILE = "recipe.yaml"
BUNDLES = "bundles"
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Rung:
    """What a trial had reached on its way.

    Attributes:
        share: of its training, above 0 and below 1.
        dice: mean Dice in percent on the validation volumes of the network as it was, in PyTorch and float32: a
            diagnostic that ranks trials, not what the exported file would reach.
        seconds: of training so far.
    """

    share: float
    dice: float
    seconds: float


@dataclass(frozen=True)
class TrialRequest:
    """All that a worker needs for one trial.

    Attributes:
        folder: folder of the trial; the only place that the worker writes to, caches apart.
        number: number of the trial in the study.
        config: the configuration to try.
        family: name of the model family.
        data: ``{"source", "seed", "validation_fraction"}``, as `autocompress.data.open_dataset` takes them.
        target: the resolved hardware profile as plain values, with the engines to use.
        others: the study's further targets, likewise; the network is trained once and measured on each.
        training: settings of the brief training, as `autocompress.training.TrainSettings` takes them.
        parent: folder of the parent network, or None to train from scratch.
        max_latency_ms: a slower model is not trained.
        max_memory_bytes, max_size_bytes: likewise.
        percentile: which latency is the objective: ``p50``, ``p90`` or ``p99``.
        threads: threads for training in this worker.
        recipe: text of the user's own pruning recipe, in place of one written from the prune ratio.
        pause_at: share of the training at which the trial comes back for a decision; None goes on to the end.
        training_places: so many trials of the study train at once on a machine, where more are on their way because a
            board measures; None for no limit.
        measure_later: while a target's host cannot be reached the trial goes on by predicted latency, and is held back
            only when it is trained.
        part: do this part of the trial alone, because the others run on another machine; None for all that is left.
    """

    folder: str
    number: int
    config: CompressionConfig
    family: str
    data: Mapping[str, Any]
    target: Mapping[str, Any]
    training: Mapping[str, Any]
    parent: str | None
    percentile: str
    threads: int
    max_latency_ms: float | None = None
    max_memory_bytes: int | None = None
    max_size_bytes: int | None = None
    recipe: str | None = None
    others: tuple[Mapping[str, Any], ...] = ()
    pause_at: float | None = None
    training_places: int | None = None
    measure_later: bool = False
    part: Part | None = None

    @property
    def limits(self) -> Constraints:
        """What a model must keep to before it is trained."""
        return Constraints(
            max_latency_ms=self.max_latency_ms,
            max_memory_bytes=self.max_memory_bytes,
            max_size_bytes=self.max_size_bytes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialRequest:
        """Build from what `to_dict` gave."""
        plain = {**values, "others": tuple(values.get("others", ()))}
        return cls(**{**plain, "config": CompressionConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class Placement:
    """A trial's network on one of the study's further targets.

    Attributes:
        target: name of the hardware profile.
        measurements: one for every engine that was tried, the chosen one first.
        dice: mean Dice in percent of this target's file on the validation volumes.
        file: name of the exported file in the trial's folder.
        size_bytes: of that file.
    """

    target: str
    measurements: tuple[Measurement, ...]
    dice: float | None = None
    file: str = ""
    size_bytes: int | None = None

    @property
    def measurement(self) -> Measurement | None:
        """The measurement by the chosen engine."""
        return _chosen(self.measurements)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Placement:
        """Build from plain values."""
        measurements = tuple(Measurement.from_dict(each) for each in values["measurements"])
        return cls(**{**values, "measurements": measurements})


@dataclass(frozen=True)
class TrialResult:
    """What became of one trial.

    Attributes:
        state: ``complete`` (judged by all objectives), ``pruned`` (refused before training, or stopped at a rung) or
            ``failed``.
        reason: one line for people where the state is not ``complete``.
        dice: mean Dice in percent of the exported file on the validation volumes; with several targets, of the one
            whose file has the lowest.
        per_class: Dice in percent of each class, of the same file.
        measurements: one for every engine that was tried on the first target, the chosen one first.
        parameters, gmacs, size_bytes: of the network and of the first target's file.
        seconds: of this trial, by phase: ``train``, ``measure``, ``evaluate``, ``export``, ``other``.
        steps: training steps taken.
        sparsity: share of zeros among the prunable weights of the exported file, where it was pruned.
        inherited: share of the weights that came from the parent.
        dice_float: of an INT8 model: mean Dice in percent of the same network in float32, before any repair.
        repair: what was done because rounding alone cost too much Dice; empty for nothing.
        file: name of the first target's exported file in the trial's folder.
        others: the network on the study's further targets.
        rungs: what was reached on the way, in its order.
        refused_under: the limits that it was refused for before training, by name; it is asked again when they are
            loosened.
    """

    number: int
    config: CompressionConfig
    state: TrialState
    reason: str = ""
    dice: float | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    parameters: int | None = None
    gmacs: float | None = None
    size_bytes: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    sparsity: float | None = None
    inherited: float = 0.0
    dice_float: float | None = None
    repair: str = ""
    file: str = MODEL_FILE
    others: tuple[Placement, ...] = ()
    rungs: tuple[Rung, ...] = ()
    refused_under: Mapping[str, float] = field(default_factory=dict)

    @property
    def stopped(self) -> bool:
        """Whether it was stopped at a rung, and can be taken up again."""
        return self.state == "pruned" and bool(self.rungs)

    @property
    def measurement(self) -> Measurement | None:
        """The measurement by the chosen engine of the first target."""
        return _chosen(self.measurements)

    @property
    def tried(self) -> tuple[tuple[Measurement, ...], ...]:
        """The measurements on each target, in the study's order."""
        return (self.measurements, *(each.measurements for each in self.others))

    @property
    def chosen(self) -> tuple[Measurement | None, ...]:
        """The measurement by the chosen engine of each target, in the study's order."""
        return tuple(_chosen(each) for each in self.tried)

    def latency_ms(self, percentile: str) -> float | None:
        """The latency in milliseconds by the chosen engine of the first target."""
        return self.latencies_ms(percentile)[0]

    def latencies_ms(self, percentile: str) -> tuple[float | None, ...]:
        """The latency in milliseconds by the chosen engine of each target, in the study's order."""
        return tuple(
            None if each is None or each.latency is None else float(getattr(each.latency, percentile))
            for each in self.chosen
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialResult:
        """Build from what `to_dict` gave."""
        plain = dict(values)
        plain["config"] = CompressionConfig.from_dict(plain["config"])
        plain["measurements"] = tuple(Measurement.from_dict(each) for each in plain["measurements"])
        plain["others"] = tuple(Placement.from_dict(each) for each in plain.get("others", ()))
        plain["rungs"] = tuple(Rung(**each) for each in plain.get("rungs", ()))
        return cls(**plain)

    def save(self, folder: Path) -> None:
        """Write ``result.json`` in one step; a worker's last act, after which the trial cannot be lost."""
        write_json(folder / RESULT_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> TrialResult | None:
        """Read ``result.json``; None where the trial did not come to its end."""
        path = folder / RESULT_FILE
        return cls.from_dict(read_json(path)) if path.exists() else None


def _chosen(measurements: tuple[Measurement, ...]) -> Measurement | None:
    return measurements[0] if measurements and measurements[0].ok else None
