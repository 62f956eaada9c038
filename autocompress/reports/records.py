"""What the reports know about a study: plain values that whoever ran it fills in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from autocompress.config import CompressionConfig

State = Literal["complete", "pruned", "failed", "running"]
STATES: tuple[State, ...] = ("complete", "pruned", "failed", "running")
UNMEASURED: Mapping[str, Any] = MappingProxyType(
    {"latency_ms": {}, "engine": "", "engine_version": "", "host": "", "conditions": {}, "peak_memory_bytes": None}
)
"""What a trial shows on a target on which nothing was measured."""
PHASES = ("setup", "train", "measure", "evaluate", "export", "other")


@dataclass(frozen=True)
class TrialView:
    """One trial as a report shows it; what is not known is None or empty.

    Attributes:
        dice, per_class: Dice in percent on the validation cases, mean and by class.
        dice_test, per_class_test: on the test cases, for members of the front that were confirmed.
        hd95, hd95_per_class: 95th percentile Hausdorff distance on the same cases as ``dice_test``.
        latency_ms: ``p50``, ``p90`` and ``p99`` in milliseconds.
        measured: False where the latency is predicted.
        disturbed: True where the machine was busy with something else in every attempt to measure.
        engine, engine_version, host, conditions: of the measurement.
        sparsity: share of zeros among the prunable weights.
        reason: one line for people where the trial is not complete.
        bundle: folder of its bundle, relative to that of the study.
        seconds: wall time of the trial.
        elsewhere: what is different on the study's further targets, by target: values of the fields above.
    """

    number: int
    state: State
    config: CompressionConfig
    dice: float | None = None
    dice_test: float | None = None
    per_class: Mapping[str, float] = field(default_factory=dict)
    per_class_test: Mapping[str, float] = field(default_factory=dict)
    hd95: float | None = None
    hd95_per_class: Mapping[str, float | None] = field(default_factory=dict)
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    measured: bool = True
    disturbed: bool = False
    engine: str = ""
    engine_version: str = ""
    host: str = ""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    gmacs: float | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    sparsity: float | None = None
    reason: str = ""
    bundle: str | None = None
    seconds: float | None = None
    elsewhere: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def fps(self) -> float | None:
        """Images a second in a single stream: 1000 / p50."""
        p50 = self.latency_ms.get("p50")
        return 1000 / p50 if p50 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialView:
        """Build from what `to_dict` gave.

        Raises:
            ConfigError: the configuration is invalid.
        """
        return cls(**{**values, "config": CompressionConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class StudyView:
    """A study as a report shows it.

    Attributes:
        name: of the study.
        folder: where it lies; bundles are looked for below it.
        family: model family.
        dataset: name of the data set, for people.
        data: arguments of `autocompress.data.open_dataset`.
        classes: one name per class index; the first is the background.
        target: name of the hardware profile that the figures are for.
        targets: all of the study's, where there are several.
        constraints: those that were set, of ``min_dice``, ``max_latency_ms``, ``max_memory_bytes``, ``max_size_bytes``.
        percentile: the latency that is the objective.
        trials: all of them, in order.
        front: numbers of the trials on the Pareto front.
        seconds: wall time by phase, see `PHASES`.
        created: when the study began, ISO 8601.
        hd95_unit: unit of the distances.
        packages: versions of the packages that ran it.
        machine: what it ran on.
        notes: what people have to know, such as licences and decisions, one line each.
    """

    name: str
    folder: str
    family: str
    dataset: str
    target: str
    classes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    percentile: str = "p50"
    trials: tuple[TrialView, ...] = ()
    front: tuple[int, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    created: str = ""
    seed: int | None = None
    hd95_unit: str = "mm"
    packages: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def on(self, target: str) -> StudyView:
        """The same study with the figures of another of its targets.

        Raises:
            KeyError: the study has no such target.
        """
        if target == self.target:
            return self
        trials = tuple(replace(trial, **{**UNMEASURED, **trial.elsewhere.get(target, {})}) for trial in self.trials)
        if target not in self.targets:
            raise KeyError(target)
        return replace(self, target=target, trials=trials)

    @property
    def views(self) -> tuple[StudyView, ...]:
        """The study on each of its targets."""
        return tuple(self.on(target) for target in self.targets) or (self,)

    @property
    def front_trials(self) -> tuple[TrialView, ...]:
        """Members of the front, the fastest first."""
        members = [trial for trial in self.trials if trial.number in self.front]
        return tuple(sorted(members, key=lambda trial: (self.latency(trial) or math.inf, trial.number)))

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials in each state that occurs."""
        found = Counter(trial.state for trial in self.trials)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def predicted(self) -> bool:
        """Whether any latency of the front is predicted and not measured."""
        return any(not trial.measured for trial in self.front_trials)

    def latency(self, trial: TrialView) -> float | None:
        """The latency of a trial that is the objective, in milliseconds."""
        return trial.latency_ms.get(self.percentile)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudyView:
        """Build from what `to_dict` gave.

        Raises:
            ConfigError: a configuration is invalid.
        """
        plain = dict(values)
        plain["trials"] = tuple(TrialView.from_dict(trial) for trial in plain.get("trials", ()))
        for name in ("classes", "front", "notes", "targets"):
            plain[name] = tuple(plain.get(name, ()))
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in plain.items() if name in known})


def _plain(values: Any) -> Any:
    """Tuples as lists, so that values are the same before and after JSON."""
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_plain(value) for value in values]
    return values
