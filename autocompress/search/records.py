"""What the driver and its workers hand each other: plain values, JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from autocompress.config import CompressionConfig
from autocompress.hardware.records import Measurement
from autocompress.paths import read_json, write_json

TrialState = Literal["complete", "pruned", "failed"]

RESULT_FILE = "result.json"
CONFIRM_FILE = "confirmed.json"
FRONT_FILE = "front.json"
RECIPE_FILE = "recipe.yaml"
BUNDLES = "bundles"
MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"


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
        training: settings of the brief training, as `autocompress.training.TrainSettings` takes them.
        parent: folder of the parent network, or None to train from scratch.
        max_latency_ms: a slower model is not trained.
        max_memory_bytes, max_size_bytes: likewise.
        percentile: which latency is the objective: ``p50``, ``p90`` or ``p99``.
        threads: threads for training in this worker.
        recipe: text of the user's own pruning recipe, in place of one written from the prune ratio.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialRequest:
        """Build from what `to_dict` gave."""
        return cls(**{**values, "config": CompressionConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class TrialResult:
    """What became of one trial.

    Attributes:
        state: ``complete`` (judged by both objectives), ``pruned`` (refused before training) or ``failed``.
        reason: one line for people where the state is not ``complete``.
        dice: mean Dice in percent of the exported file on the validation volumes.
        per_class: Dice in percent of each class.
        measurements: one for every engine that was tried, the chosen one first.
        parameters, gmacs, size_bytes: of the network and of the exported file.
        seconds: of this trial, by phase: ``train``, ``measure``, ``evaluate``, ``export``, ``other``.
        steps: training steps taken.
        sparsity: share of zeros among the prunable weights of the exported file, where it was pruned.
        inherited: share of the weights that came from the parent.
        dice_float: of an INT8 model: mean Dice in percent of the same network in float32, before any repair.
        repair: what was done because rounding alone cost too much Dice; empty for nothing.
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

    @property
    def measurement(self) -> Measurement | None:
        """The measurement by the chosen engine."""
        return self.measurements[0] if self.measurements and self.measurements[0].ok else None

    def latency_ms(self, percentile: str) -> float | None:
        """The latency in milliseconds by the chosen engine."""
        chosen = self.measurement
        return None if chosen is None or chosen.latency is None else float(getattr(chosen.latency, percentile))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialResult:
        """Build from what `to_dict` gave."""
        plain = dict(values)
        plain["config"] = CompressionConfig.from_dict(plain["config"])
        plain["measurements"] = tuple(Measurement.from_dict(each) for each in plain["measurements"])
        return cls(**plain)

    def save(self, folder: Path) -> None:
        """Write ``result.json`` in one step; a worker's last act, after which the trial cannot be lost."""
        write_json(folder / RESULT_FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> TrialResult | None:
        """Read ``result.json``; None where the trial did not come to its end."""
        path = folder / RESULT_FILE
        return cls.from_dict(read_json(path)) if path.exists() else None
