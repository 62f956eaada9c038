"""Typed schemas of the four kinds of YAML: search spaces, objectives, hardware profiles, studies.

All of them are frozen and refuse unknown fields. `from_dict` builds one from plain values with an error of one line.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationError,
    model_validator,
)

from autocompress.config import (
    MAX_PRUNE_RATIO,
    MAX_RESOLUTION,
    MIN_RESOLUTION,
    PRECISIONS,
    PRUNE_PATTERNS,
    CompressionConfig,
    Grouping,
    Precision,
    PrunePattern,
)
from autocompress.errors import SpecError
from autocompress.specs.durations import parse_duration, parse_size
from autocompress.specs.problems import first_problem

Percentile = Literal["p50", "p90", "p99"]
EngineName = Literal["onnxruntime", "openvino", "deepsparse", "torch", "tensorrt"]
Device = Literal["cpu", "cuda", "tensorrt-gpu"]
SamplerName = Literal["auto", "gp", "tpe", "nsga2", "random"]

_Spec = TypeVar("_Spec", bound="Spec")
_Item = TypeVar("_Item")


def _one_or_many(value: object) -> object:
    """A single value stands for a list of one."""
    return [value] if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value


def _duration(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return value
    try:
        return parse_duration(value)
    except SpecError as error:
        raise ValueError(_reason(value, str(error))) from error


def _duration_or_auto(value: object) -> object:
    return value if value == "auto" else _duration(value)


def _size(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return value
    try:
        return parse_size(value)
    except SpecError as error:
        raise ValueError(_reason(value, str(error))) from error


def _reason(value: object, text: str) -> str:
    # The message of a field begins with its value anyway.
    return text.removeprefix(f"{value!r} ")


# YAML already knows the type of a number: 1 is not "1", and yes is not 1.
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
Seconds = Annotated[float, BeforeValidator(_duration), Strict(), Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(_size), Strict(), Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
Share = Annotated[float, Strict(), Field(ge=0, lt=1, allow_inf_nan=False)]


class Spec(BaseModel):
    """What all schemas have in common: frozen, nothing unknown, errors of one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def from_dict(cls: type[_Spec], values: Mapping[str, Any], source: str = "") -> _Spec:
        """Build from plain values.

        Args:
            values: as `to_dict` gives them, or as YAML holds them.
            source: where they come from (a path, ``command line``), for the error's text.

        Raises:
            SpecError: one line with the source, the field, its value and what is allowed.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SpecError(
                f"{source}: {first_problem(error, cls)}" if source else first_problem(error, cls)
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON and YAML; `from_dict` is the way back."""
        return self.model_dump(mode="json")


class _Named(Spec):
    name: str = ""
    """Name of the file without its ending; filled in by the library."""
    description: str = ""
    """One sentence for ``autocompress list``."""


# ---------------------------------------------------------------------------------------------------------------------
# Search spaces


class PruningAxis(Spec):
    """One prune pattern with the ratios to try."""

    pattern: PrunePattern
    """``none``, ``unstructured`` (single weights become zero) or ``channel`` (whole hidden channels leave)."""
    ratios: Annotated[tuple[Number, ...], BeforeValidator(_one_or_many)] = ()
    """Shares removed, above 0 and at most 0.99; none for the pattern ``none``."""

    @model_validator(mode="after")
    def _consistent(self) -> PruningAxis:
        if self.pattern == "none":
            if self.ratios:
                raise ValueError("takes no ratios with the pattern none")
            return self
        if not self.ratios:
            raise ValueError(f"needs ratios for the pattern {self.pattern}, such as [0.5]")
        for ratio in self.ratios:
            if not 0 < ratio <= MAX_PRUNE_RATIO:
                raise ValueError(f"has the ratio {ratio:g}, which must be above 0 and at most {MAX_PRUNE_RATIO}")
        _check_unique("ratios", self.ratios)
        return self

    def points(self) -> tuple[tuple[PrunePattern, float], ...]:
        """The (pattern, ratio) pairs of this axis."""
        return (("none", 0.0),) if self.pattern == "none" else tuple((self.pattern, ratio) for ratio in self.ratios)


class SearchSpace(_Named):
    """Which values a compression configuration may take; the space is the product of its axes."""

    family: str | None = None
    """Model family that the space is meant for; None for any."""
    resolution: Annotated[
        tuple[Annotated[Whole, Field(ge=MIN_RESOLUTION, le=MAX_RESOLUTION)], ...],
        BeforeValidator(_one_or_many),
        Field(min_length=1),
    ]
    """Sides of the network input in pixels, 32 to 512, multiples of the family's total stride (step A)."""
    levels: Annotated[
        tuple[Annotated[Whole, Field(ge=1, le=8)], ...], BeforeValidator(_one_or_many), Field(min_length=1)
    ] = (2,)
    """Levels of the U, from 1 (step B)."""
    width: Annotated[
        tuple[Annotated[Number, Field(gt=0, le=4)], ...], BeforeValidator(_one_or_many), Field(min_length=1)
    ] = (1.0,)
    """Channels relative to the family's published network, above 0 and at most 4."""
    grouping: Annotated[tuple[Grouping, ...], BeforeValidator(_one_or_many), Field(min_length=1)] = ("depthwise",)
    """``depthwise`` keeps the grouped convolutions, ``dense`` removes the grouping (step B)."""
    pruning: Annotated[tuple[PruningAxis, ...], Field(min_length=1)] = (PruningAxis(pattern="none"),)
    """Prune patterns with their ratios (step C)."""
    precision: Annotated[tuple[Precision, ...], BeforeValidator(_one_or_many), Field(min_length=1)] = ("fp32",)
    """Number formats of the exported model (step D)."""

    @model_validator(mode="after")
    def _unique(self) -> SearchSpace:
        for name in ("resolution", "levels", "width", "grouping", "precision"):
            _check_unique(name, getattr(self, name))
        _check_unique("pruning patterns", [axis.pattern for axis in self.pruning])
        return self

    def prune_points(self) -> tuple[tuple[PrunePattern, float], ...]:
        """All (pattern, ratio) pairs, in the order of the YAML."""
        return tuple(point for axis in self.pruning for point in axis.points())

    def configurations_upper_bound(self) -> int:
        """Number of combinations, before the model family and the target refuse some of them."""
        axes = (self.resolution, self.levels, self.width, self.grouping, self.prune_points(), self.precision)
        return math.prod(len(axis) for axis in axes)

    def configurations(self) -> Iterator[CompressionConfig]:
        """All combinations in a fixed order, `configurations_upper_bound` of them."""
        for resolution, levels, width, grouping, (pattern, ratio), precision in itertools.product(
            self.resolution, self.levels, self.width, self.grouping, self.prune_points(), self.precision
        ):
            yield CompressionConfig(
                resolution=resolution,
                levels=levels,
                width=width,
                grouping=grouping,
                prune_ratio=ratio,
                prune_pattern=pattern,
                precision=precision,
            )

    def contains(self, config: CompressionConfig) -> bool:
        """Whether a configuration is one of the combinations of this space."""
        return (
            config.resolution in self.resolution
            and config.levels in self.levels
            and config.width in self.width
            and config.grouping in self.grouping
            and (config.prune_pattern, config.prune_ratio) in self.prune_points()
            and config.precision in self.precision
        )

    def restrict(
        self, *, precisions: Collection[str], prune_patterns: Collection[str]
    ) -> tuple[SearchSpace, list[str]]:
        """The part of the space that a target can run.

        Args:
            precisions: number formats that some engine of the target executes.
            prune_patterns: patterns that some engine of the target can use; ``none`` is always possible.

        Returns:
            The smaller space, and one line for each value that was left out ("precision int8"); empty where all stay.

        Raises:
            SpecError: nothing of an axis would be left.
        """
        kept = tuple(value for value in self.precision if value in precisions)
        kept_pruning = tuple(axis for axis in self.pruning if axis.pattern == "none" or axis.pattern in prune_patterns)
        if not kept:
            raise SpecError(
                f"search space {self.name or 'inline'}: none of its precisions ({', '.join(self.precision)}) "
                f"runs on the target, which has {_listed(precisions, PRECISIONS)}"
            )
        if not kept_pruning:
            raise SpecError(
                f"search space {self.name or 'inline'}: none of its prune patterns "
                f"({', '.join(axis.pattern for axis in self.pruning)}) runs on the target, "
                f"which has {_listed({'none', *prune_patterns}, PRUNE_PATTERNS)}"
            )
        left_out = [f"precision {value}" for value in self.precision if value not in kept]
        left_out += [f"pruning {axis.pattern}" for axis in self.pruning if axis not in kept_pruning]
        return self.model_copy(update={"precision": kept, "pruning": kept_pruning}), left_out


# ---------------------------------------------------------------------------------------------------------------------
# Objectives


class MetricSpec(Spec):
    """One quantity to optimise."""

    metric: Literal["dice", "latency"]
    """``dice``: mean over classes and validation cases, in percent; ``latency``: milliseconds for one image."""
    direction: Literal["maximize", "minimize"]
    """Which way is better."""

    @model_validator(mode="after")
    def _sensible(self) -> MetricSpec:
        right = "maximize" if self.metric == "dice" else "minimize"
        if self.direction != right:
            raise ValueError(f"is wrong: {self.metric} must have the direction {right}")
        return self


class Constraints(Spec):
    """What a model must keep to be feasible; None means no limit."""

    min_dice: Annotated[Number, Field(ge=0, le=100)] | None = None
    """Least mean Dice on the validation cases, in percent, 0 to 100."""
    max_latency_ms: Annotated[Number, Field(gt=0)] | None = None
    """Longest latency in milliseconds, at the objective's percentile; above 0."""
    max_memory_bytes: Bytes | None = None
    """Largest peak memory of the engine's process: bytes, or text such as ``512MB``."""
    max_size_bytes: Bytes | None = None
    """Largest model file: bytes, or text such as ``10MB``."""


class Objective(_Named):
    """What is optimised, in which direction, with which constraints."""

    metrics: Annotated[tuple[MetricSpec, ...], Field(min_length=1)] = (
        MetricSpec(metric="dice", direction="maximize"),
        MetricSpec(metric="latency", direction="minimize"),
    )
    """Dice up and latency down; with several targets, one latency for each of them."""
    constraints: Constraints = Constraints()
    """Limits of feasible models."""
    latency_percentile: Percentile = "p50"
    """Which latency of the timed runs counts: ``p50``, ``p90`` or ``p99``."""

    @model_validator(mode="after")
    def _both(self) -> Objective:
        if sorted(metric.metric for metric in self.metrics) != ["dice", "latency"]:
            raise ValueError("must have the metrics dice and latency, each once")
        return self


# ---------------------------------------------------------------------------------------------------------------------
# Hardware profiles


class HostSpec(Spec):
    """Where an engine runs."""

    kind: Literal["local", "ssh"] = "local"
    """``local``: this machine; ``ssh``: another one."""
    address: Annotated[tuple[Text, ...], BeforeValidator(_one_or_many)] = ()
    """For ``ssh``: ``[user@]name[:port]``, or several of one kind that share the work; the name may be an alias of the
    SSH configuration. May be left to the command line (``--host user@board``)."""
    user: Text | None = None
    """User where an address names none; None takes what the SSH configuration says."""
    port: Annotated[Whole, Field(ge=1, le=65535)] | None = None
    """SSH port where an address names none, 1 to 65535."""
    key_file: Text | None = None
    """Private key; ``~`` is the home folder."""
    jump_host: Text | None = None
    """``user@host:port`` to go through."""

    @model_validator(mode="after")
    def _local_has_no_address(self) -> HostSpec:
        if self.kind == "local":
            for name in ("address", "user", "port", "key_file", "jump_host"):
                if getattr(self, name) not in (None, ()):
                    raise ValueError(f"has {name}, which only a host of kind ssh can have")
        return self


class EngineSpec(Spec):
    """One engine of a target, and what it can do there."""

    name: EngineName
    """What executes the exported model."""
    precisions: Annotated[tuple[Precision, ...], BeforeValidator(_one_or_many), Field(min_length=1)] = ("fp32",)
    """Number formats that the engine executes on this device."""
    prune_patterns: Annotated[tuple[PrunePattern, ...], BeforeValidator(_one_or_many), Field(min_length=1)] = (
        "none",
        "channel",
    )
    """Prune patterns that can make it faster; ``unstructured`` only for engines that skip zeros."""
    opset: Annotated[Whole, Field(ge=9, le=24)] = 17
    """Highest ONNX opset that it reads, 9 to 24."""
    python: Text | None = None
    """Interpreter that has the engine; None for the one that runs autocompress (``python3`` over SSH)."""
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """Threads for one inference, 1 to 1024; None for all cores."""
    on_request: Flag = False
    """Used only when named with ``--engines``, as for a licence that users must choose knowingly."""
    device: Device | None = None
    """What computes, where it is not what the profile says."""
    fallback: Flag = False
    """Used only where no engine of the profile that is not a fallback can be used."""
    notice: str = ""
    """One line shown wherever a model for this engine is shown, such as a limit in its licence."""
    options: dict[str, str | Whole | Number | Flag] = {}
    """Settings of the engine itself."""

    @model_validator(mode="after")
    def _unique(self) -> EngineSpec:
        _check_unique("precisions", self.precisions)
        _check_unique("prune_patterns", self.prune_patterns)
        return self


class HardwareProfile(_Named):
    """A target: its engines, where they run, and what they can do."""

    host: HostSpec = HostSpec()
    """Where the engines run."""
    device: Device = "cpu"
    """What computes: ``cpu``, ``cuda`` (an NVIDIA GPU) or ``tensorrt-gpu`` (an NVIDIA GPU by TensorRT alone)."""
    engines: Annotated[tuple[EngineSpec, ...], Field(min_length=1)]
    """Engines to try; each configuration is measured on all that can run it, and the best is kept."""
    memory_bytes: Bytes | None = None
    """Memory for model and engine: bytes, or text such as ``4GB``; None where unknown or without limit."""
    power_mode: Text | None = None
    """Power mode that the device must be in to be measured, as its own tool names it."""
    peak_gflops: dict[Precision, Annotated[Number, Field(gt=0)]] | None = None
    """Peak arithmetic rate for each precision in 10^9 operations per second, for predictions."""
    bandwidth_gbs: Annotated[Number, Field(gt=0)] | None = None
    """Memory bandwidth in 10^9 bytes per second, for predictions."""
    launch_us: Annotated[Number, Field(ge=0)] | None = None
    """Fixed time for one operator in microseconds, for predictions."""
    batch_size: Annotated[Whole, Field(ge=1, le=1024)] = 1
    """Images for one inference, 1 to 1024."""
    latency_metric: Percentile = "p50"
    """Percentile by which the best of several engines is chosen."""
    accuracy_slices: Annotated[Whole, Field(ge=1)] | None = None
    """On a host of kind ssh, Dice is that of about so many slices, evenly spread over all volumes; None for all of
    them. For engines that take seconds a slice (trtexec)."""
    notes: Annotated[tuple[Text, ...], BeforeValidator(_one_or_many)] = ()
    """Lines that ``autocompress show target`` adds for people."""

    @model_validator(mode="after")
    def _consistent(self) -> HardwareProfile:
        _check_unique("engines", [engine.name for engine in self.engines])
        for engine in self.engines:
            device = engine.device or self.device
            if engine.name in ("deepsparse", "openvino") and device != "cpu":
                raise ValueError(f"has the device {device}, but {engine.name} runs only on the device cpu here")
            if engine.name == "tensorrt" and device == "cpu":
                raise ValueError("has the device cpu, but tensorrt needs the device cuda or tensorrt-gpu")
        return self

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Number formats that at least one engine executes."""
        return tuple(value for value in PRECISIONS if any(value in engine.precisions for engine in self.engines))

    @property
    def prune_patterns(self) -> tuple[PrunePattern, ...]:
        """Prune patterns that at least one engine can use; ``none`` always."""
        return tuple(
            value
            for value in PRUNE_PATTERNS
            if value == "none" or any(value in engine.prune_patterns for engine in self.engines)
        )


# ---------------------------------------------------------------------------------------------------------------------
# Studies


class Budget(Spec):
    """When a search ends: whatever comes first."""

    seconds: Seconds | None = None
    """Wall time of the whole search: seconds, or text such as ``15m`` or ``1h30m``."""
    trials: Annotated[Whole, Field(ge=1)] | None = None
    """Configurations to begin, at least 1; those that are refused or stopped early count too."""


class ParentSpec(Spec):
    """The parent network, trained once or named, from which every trial inherits its weights."""

    enabled: Flag = True
    """False trains every trial from scratch."""
    share: Share = 0.25
    """Part of the budget for its training, 0 to below 1."""
    config: Annotated[
        Annotated[Literal["auto"], Tag("<auto>")] | Annotated[dict[str, Any], Tag("<values>")],
        Discriminator(lambda value: "<values>" if isinstance(value, Mapping) else "<auto>"),
    ] = "auto"
    """``auto`` takes the widest, deepest network of the space that the budget affords; or fields of a configuration."""
    source: Text | None = None
    """Folder of a bundle or of a trained parent, relative to the working directory, to use in place of training one."""

    @model_validator(mode="after")
    def _source_stands_alone(self) -> ParentSpec:
        if self.source is not None and not self.enabled:
            raise ValueError("has a source and enabled: false; keep one of them")
        if self.source is not None and self.config != "auto":
            raise ValueError("has a source, which has its own configuration; leave config out")
        return self

    @model_validator(mode="after")
    def _config_exists(self) -> ParentSpec:
        if isinstance(self.config, dict):
            # ConfigError is not a ValueError; pydantic would let it through without the field's name.
            try:
                CompressionConfig.from_dict(self.config)
            except Exception as error:
                raise ValueError(f"has a wrong config: {error}") from error
        return self

    @property
    def compression_config(self) -> CompressionConfig | None:
        """The configuration asked for, or None for ``auto``."""
        return CompressionConfig.from_dict(self.config) if isinstance(self.config, dict) else None


class TrainingSpec(Spec):
    """Brief training of a trial."""

    trial_seconds: Annotated[
        Annotated[Literal["auto"], Tag("<auto>")] | Annotated[Seconds, Tag("<seconds>")],
        Discriminator(lambda value: "<auto>" if value == "auto" else "<seconds>"),
    ] = "auto"
    """Training time of one trial: seconds, text such as ``45s``, or ``auto`` to fit the budget."""
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 16
    """Slices in one step, 1 to 4096."""
    lr: Annotated[Number, Field(gt=0, le=1)] = 2e-3
    """Peak learning rate of AdamW, above 0 and at most 1."""
    weight_decay: Annotated[Number, Field(ge=0, le=1)] = 1e-2
    """Weight decay of AdamW, 0 to 1."""
    distill_weight: Annotated[Number, Field(ge=0, le=1)] = 0.5
    """Share of the parent's softened outputs in the loss, 0 to 1; 0 switches distillation off."""
    feature_weight: Annotated[Number, Field(ge=0, le=10)] = 0.0
    """Weight of the distance between maps of the student's and the parent's encoder stages, 0 (not compared) to 10."""
    recipe: Text | None = None
    """SparseML recipe for trials with unstructured pruning, relative to the working directory; None writes one."""
    augment: Flag = True
    """Small random rotations, scalings, shifts and changes of contrast."""
    autocast: Literal["auto", "on", "off"] = "auto"
    """Matrix products in bfloat16: ``on``, ``off``, or ``auto`` for where it is faster; the rest stays in float32."""


class SamplerSpec(Spec):
    """How the next configuration is chosen."""

    name: SamplerName = "auto"
    """``auto``, ``gp`` (Gaussian process), ``tpe``, ``nsga2`` or ``random``."""
    startup_trials: Annotated[Whole, Field(ge=1, le=1000)] = 8
    """Trials before the sampler's model takes over, 1 to 1000."""


class StoppingSpec(Spec):
    """Early stopping: at a rung a trial is compared with all others that reached it, and the best ones go on."""

    enabled: Flag = True
    """False trains every trial to its end."""
    eta: Annotated[Whole, Field(ge=2, le=10)] = 3
    """One in so many goes on at each rung, 2 to 10."""
    rungs: Annotated[
        tuple[Annotated[Number, Field(gt=0, lt=1)], ...], BeforeValidator(_one_or_many), Field(min_length=1)
    ] = (1 / 9, 1 / 3)
    """Shares of a trial's training, ascending, above 0 and below 1; those in its first three seconds are left out."""

    @model_validator(mode="after")
    def _ascending(self) -> StoppingSpec:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError("has rungs that do not ascend; write each once, the smallest first")
        return self


class ConfirmSpec(Spec):
    """The last stage: front members are measured again on a quiet machine and evaluated on the test volumes."""

    share: Share = 0.06
    """Part of the budget for it at least, 0 to below 1; what it does not need trains its members longer."""


class StudySpec(_Named):
    """Search space, objective, target, data, model family and budget of a search."""

    family: Text = "dae-former"
    """Model family, as ``autocompress list models`` names it."""
    space: Annotated[
        Annotated[Text, Tag("<name>")] | Annotated[SearchSpace, Tag("<inline>")],
        Discriminator(lambda value: "<inline>" if isinstance(value, (Mapping, SearchSpace)) else "<name>"),
    ] = "compact"
    """Search space: a name, a path, or the space itself."""
    objective: Annotated[
        Annotated[Text, Tag("<name>")] | Annotated[Objective, Tag("<inline>")],
        Discriminator(lambda value: "<inline>" if isinstance(value, (Mapping, Objective)) else "<name>"),
    ] = "dice-latency"
    """Objective: a name, a path, or the objective itself."""
    targets: Names = ("cpu",)
    """Names or paths of hardware profiles; a model is measured on each. ``target`` is accepted for one of them."""
    data: Text | None = None
    """Data set: ``phantoms`` or a folder, relative to the working directory; None leaves it to the command line."""
    class_names: tuple[Text, ...] | None = None
    """Names of the classes with the background first; None takes them from the data set."""
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0
    """Seed of splits, sampler and training, 0 to 2^32 - 1."""
    validation_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.2
    """Share of the training patients kept apart to judge trials, above 0 and below 1."""
    workers: Annotated[Whole, Field(ge=1, le=4096)] | None = None
    """Trials that run at the same time, 1 to 4096; None takes what the machine's cores allow."""
    budget: Budget = Budget(seconds=900.0)
    """Wall time and number of trials."""
    parent: ParentSpec = ParentSpec()
    """The network that trials inherit from."""
    training: TrainingSpec = TrainingSpec()
    """Brief training."""
    sampler: SamplerSpec = SamplerSpec()
    """How configurations are chosen."""
    warm_start: Text | None = None
    """Another study, by name or folder, whose front is tried first; its target and data may be others."""
    stopping: StoppingSpec = StoppingSpec()
    """Early stopping of trials."""
    confirm: ConfirmSpec = ConfirmSpec()
    """Confirmation of the front."""

    @model_validator(mode="before")
    @classmethod
    def _target_is_targets(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "target" in values:
            if "targets" in values:
                raise ValueError("has both target and targets; keep one of them")
            return {("targets" if key == "target" else key): value for key, value in values.items()}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        _check_unique("targets", self.targets)
        if self.budget.seconds is None and self.budget.trials is None:
            raise ValueError("must limit the budget: give budget.seconds, budget.trials or both")
        trains_parent = self.parent.enabled and self.parent.source is None
        if (self.parent.share if trains_parent else 0.0) + self.confirm.share >= 1:
            raise ValueError("leaves nothing for the trials: parent.share and confirm.share together must be below 1")
        return self

    @property
    def target(self) -> str:
        """The first target."""
        return self.targets[0]

    @property
    def search_space(self) -> SearchSpace:
        """The space itself; `autocompress.specs.library.load_study` puts it in place of its name."""
        if isinstance(self.space, SearchSpace):
            return self.space
        raise SpecError(f"study {self.name}: its space {self.space!r} is still a name; load it with load_study")

    @property
    def goal(self) -> Objective:
        """The objective itself; `autocompress.specs.library.load_study` puts it in place of its name."""
        if isinstance(self.objective, Objective):
            return self.objective
        raise SpecError(f"study {self.name}: its objective {self.objective!r} is still a name; load it with load_study")

    def with_overrides(self, changes: Mapping[str, Any], source: str = "command line") -> StudySpec:
        """A study with some fields changed, checked like a file.

        Args:
            changes: dotted field paths and their values, such as ``{"budget.seconds": "15m",
                "objective.constraints.min_dice": 75}``. Fields of a space or an objective can be changed
                where the study holds it itself (see `load_study`), not where it only names one.
            source: where the changes come from, for the error's text.

        Raises:
            SpecError: a field is unknown or a value is not allowed.
        """
        values = self.to_dict()
        for path, value in changes.items():
            *parents, last = path.split(".")
            place = values
            for position, part in enumerate(parents):
                inner = place.setdefault(part, {})  # an unknown one is refused by the schema below
                if not isinstance(inner, dict):
                    where = ".".join(parents[: position + 1])
                    raise SpecError(f"{source}: field {path}: {where} is {inner!r} and has no fields to change")
                place = inner
            place[last] = value.to_dict() if isinstance(value, Spec) else value
        return StudySpec.from_dict(values, source)


def _check_unique(name: str, values: Collection[object]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"has {value!r} twice in its {name}")
        seen.add(value)


def _listed(values: Collection[str], order: Collection[str]) -> str:
    return ", ".join(value for value in order if value in values)
