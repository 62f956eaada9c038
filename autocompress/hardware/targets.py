"""From a hardware profile to a target: which of its engines can be used, and why the others cannot."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from autocompress.errors import TargetError
from autocompress.hardware.agent.facts import host_facts
from autocompress.hardware.engines import AGENT_ENGINES, PROGRAM_ENGINES, install_hint, licence_notice
from autocompress.hardware.hosts import AgentJob, AgentReport, open_host
from autocompress.hardware.state import wrong_power_mode

if TYPE_CHECKING:
    from autocompress.specs.schemas import EngineSpec, HardwareProfile

PROBE_SECONDS = 120.0


@dataclass(frozen=True)
class Engine:
    """An engine that can be used, as plain values.

    Attributes:
        name, version: as the profile and the engine itself say.
        precisions: number formats that it executes on this host; those of the profile, less what the CPU lacks.
        prune_patterns: patterns that can make it faster.
        opset: highest ONNX opset that it reads.
        threads: for one inference.
        python: interpreter that has it; None for the one that runs autocompress.
        device: ``cpu`` or ``cuda``.
        notice: one line to show wherever a model for this engine is shown; empty for most.
        options: settings of the engine itself.
    """

    name: str
    version: str
    precisions: tuple[str, ...]
    prune_patterns: tuple[str, ...]
    opset: int
    threads: int
    python: str | None = None
    device: str = "cpu"
    notice: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Engine:
        """Build from plain values, as `Target.to_dict` gives them."""
        lists = {name: tuple(values[name]) for name in ("precisions", "prune_patterns")}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class Unusable:
    """An engine of a profile that cannot be used.

    Attributes:
        name: of the engine.
        reason: why, for people.
        remedy: what to type; empty where nothing helps.
        notice: as in `Engine`.
    """

    name: str
    reason: str
    remedy: str = ""
    notice: str = ""

    @property
    def line(self) -> str:
        """Reason and remedy on one line."""
        return f"{self.name}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Target:
    """A hardware profile, resolved on its host: plain values that a worker can be handed as JSON.

    Attributes:
        name: of the profile.
        host_kind: ``local``.
        device: ``cpu`` or ``cuda``.
        engines: those that can be used, in the order of the profile.
        unusable: the others, with their reasons.
        host: facts about the host: ``id``, ``name``, ``cpu_model``, ``cores``, ``physical_cores``, ``memory_bytes``,
            ``power``, ...
        memory_bytes: memory for model and engine; None for no limit.
        power_mode: that the profile demands; None for any.
        latency_metric: percentile by which the best of several engines is chosen.
        predicted: whether figures are predicted and not measured (`autocompress.hardware.predicted`).
        predictors: `autocompress.hardware.prediction.Predictor` as plain values, by engine name.
    """

    name: str
    host_kind: str
    device: str
    engines: tuple[Engine, ...]
    unusable: tuple[Unusable, ...]
    host: Mapping[str, Any]
    memory_bytes: int | None = None
    power_mode: str | None = None
    latency_metric: str = "p50"
    predicted: bool = False
    predictors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether at least one engine can be used."""
        return bool(self.engines)

    @property
    def precisions(self) -> frozenset[str]:
        """Number formats that at least one usable engine executes."""
        return frozenset(value for engine in self.engines for value in engine.precisions)

    @property
    def prune_patterns(self) -> frozenset[str]:
        """Prune patterns that at least one usable engine can use, with ``none``."""
        return frozenset({"none"}.union(*(engine.prune_patterns for engine in self.engines)))

    def engine(self, name: str) -> Engine:
        """The usable engine of that name.

        Raises:
            TargetError: it is not usable here, or not an engine of this target.
        """
        for engine in self.engines:
            if engine.name == name:
                return engine
        for other in self.unusable:
            if other.name == name:
                raise TargetError(f"target {self.name} cannot use {other.line}")
        raise TargetError(f"target {self.name} has no engine {name!r}; it has {_names(self)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Target:
        """Build from what `to_dict` gave."""
        engines = tuple(Engine.from_dict(each) for each in values["engines"])
        return cls(**{**values, "engines": engines, "unusable": tuple(Unusable(**each) for each in values["unusable"])})


def resolve_target(profile: HardwareProfile, *, engines: Sequence[str] | None = None) -> Target:
    """Find out what can be used of a profile.

    Args:
        profile: see `autocompress.specs.schemas.HardwareProfile`.
        engines: names of the engines to use; by default all that are not used ``on_request`` only.

    Raises:
        TargetError: one line, when no engine can be used, when one was asked for by name and cannot be used, or when
            the profile asks for more threads than the host has cores.
    """
    target = inspect_target(profile, engines=engines)
    wanted = [each for each in target.unusable if engines is not None and each.name in engines]
    if wanted or not target.engines:
        reasons = "; ".join(each.line for each in wanted or target.unusable)
        raise TargetError(f"target {profile.name} cannot be used here: {reasons}")
    return target


def inspect_target(
    profile: HardwareProfile,
    *,
    engines: Sequence[str] | None = None,
    probes: dict[tuple[str, str | None, str], AgentReport] | None = None,
) -> Target:
    """As `resolve_target`, but a target without a usable engine is an answer too.

    Args:
        profile: the profile.
        engines: as in `resolve_target`.
        probes: what earlier calls found out about (engine, interpreter, device); filled and used, so that several
            profiles with the same engines ask each of them once.

    Raises:
        TargetError: an engine is asked for that the profile does not have, or too many threads.
    """
    named = [spec.name for spec in profile.engines]
    for name in engines or ():
        if name not in named:
            raise TargetError(f"target {profile.name} has no engine {name!r}; it has {', '.join(named)}")
    if profile.batch_size != 1:
        raise TargetError(f"target {profile.name}: batch_size {profile.batch_size} is not measured; only 1 is")
    usable: list[Engine] = []
    unusable: list[Unusable] = []
    facts: Mapping[str, Any] = host_facts() if profile.host.kind == "local" else {}
    known = {} if probes is None else probes
    for spec in profile.engines:
        notice = spec.notice or licence_notice(spec.name)
        if engines is not None and spec.name not in engines:
            unusable.append(Unusable(spec.name, "not among the engines asked for", notice=notice))
        elif engines is None and spec.on_request:
            unusable.append(Unusable(spec.name, "used only on request", f"--engines {spec.name}", notice))
        else:
            report = _probe(profile, spec, known)
            if report.outcome != "ok":
                reason = report.message.removeprefix(f"{spec.name}: ")
                local = profile.host.kind == "local"
                remedy = install_hint(spec.name, profile.device) if local else "a search predicts its figures"
                unusable.append(Unusable(spec.name, reason, remedy, notice))
                continue
            facts = report.answer["host"]
            wrong_mode = wrong_power_mode(profile.power_mode, facts["power"]["mode"])
            if wrong_mode is not None:
                unusable.append(Unusable(spec.name, wrong_mode, f"set {profile.power_mode}", notice))
                continue
            engine = _engine(profile, spec, report, facts, notice)
            if engine.precisions:
                usable.append(engine)
            else:
                none = f"computes in none of the profile's precisions ({', '.join(spec.precisions)}) here"
                unusable.append(Unusable(spec.name, none, "name others in the profile", notice))
    return Target(
        name=profile.name,
        host_kind=profile.host.kind,
        device=profile.device,
        engines=tuple(usable),
        unusable=tuple(unusable),
        host=dict(facts),
        memory_bytes=profile.memory_bytes,
        power_mode=profile.power_mode,
        latency_metric=profile.latency_metric,
    )


def _probe(
    profile: HardwareProfile, spec: EngineSpec, known: dict[tuple[str, str | None, str], AgentReport]
) -> AgentReport:
    if profile.host.kind != "local" or spec.options:
        return _ask(profile, spec)
    key = (spec.name, spec.python, profile.device)
    if key not in known:
        known[key] = _ask(profile, spec)
    return known[key]


def _ask(profile: HardwareProfile, spec: EngineSpec) -> AgentReport:
    """What the agent says about an engine on the profile's host."""

    def refused(text: str) -> AgentReport:
        return AgentReport("unsupported", f"{spec.name}: {text}", {}, "starting", 0.0)

    if profile.host.kind != "local":
        return refused("its host is not this machine, and this version measures on this machine only")
    if spec.name not in AGENT_ENGINES:
        return refused(f"this version measures with {', '.join(AGENT_ENGINES)} only")
    packaged = spec.name not in PROGRAM_ENGINES
    if packaged and spec.python is None and importlib.util.find_spec(spec.name) is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return refused(f"not installed in this Python {version}")
    request = {"engine": spec.name, "probe": True, "device": profile.device, "options": dict(spec.options)}
    return open_host(profile.host.kind).run(AgentJob(request, python=spec.python, timeout_seconds=PROBE_SECONDS))


def _engine(
    profile: HardwareProfile, spec: EngineSpec, report: AgentReport, facts: Mapping[str, Any], notice: str
) -> Engine:
    if spec.threads is not None and spec.threads > facts["cores"]:
        raise TargetError(
            f"target {profile.name}: {spec.name} asks for {spec.threads} threads, but {facts['name']} has "
            f"{facts['cores']} cores for it; lower threads in the profile"
        )
    details = report.answer.get("details", {})
    capabilities = details.get("capabilities")
    # openvino lists what its CPU has beyond whole numbers, TensorRT all that its GPU is fast in.
    reduced = ("bf16", "fp16", "int8") if spec.name == "tensorrt" else ("bf16", "fp16")
    precisions = tuple(
        value
        for value in spec.precisions
        if capabilities is None or value not in reduced or value.upper() in capabilities
    )
    return Engine(
        name=spec.name,
        version=report.answer["engine_version"],
        precisions=precisions,
        prune_patterns=tuple(spec.prune_patterns),
        opset=min(spec.opset, details.get("opset", spec.opset)),
        threads=spec.threads or facts["physical_cores"],
        python=spec.python,
        device=profile.device,
        notice=notice,
        options=dict(spec.options),
    )


def _names(target: Target) -> str:
    return ", ".join([each.name for each in target.engines] + [each.name for each in target.unusable])
