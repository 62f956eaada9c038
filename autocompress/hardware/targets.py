"""From a hardware profile to a target: which of its engines can be used, and why the others cannot."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from autocompress.errors import TargetError
from autocompress.hardware.agent.facts import host_facts
from autocompress.hardware.engines import AGENT_ENGINES, PROGRAM_ENGINES, install_hint, licence_notice, remote_hint
from autocompress.hardware.hosts import AgentJob, AgentReport, Host, open_host
from autocompress.hardware.state import mode_remedy, wrong_power_mode

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
        host_kind: ``local`` or ``ssh``.
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
        where: how the host is reached, a `HostSpec` as plain values; empty for this machine.
        accuracy_slices: on another machine Dice is that of so many slices, evenly spread; None for all.
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
    where: Mapping[str, Any] = field(default_factory=dict)
    accuracy_slices: int | None = None

    @property
    def remote(self) -> bool:
        """Whether its engines run on another machine."""
        return self.host_kind != "local" and not self.predicted

    def open_host(self) -> Host:
        """What runs the agent for this target; this machine where its figures are predicted."""
        from autocompress.specs.schemas import HostSpec

        return open_host(HostSpec.from_dict(self.where) if self.remote else HostSpec())

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
    if not at_hand(profile):
        return _target(profile, (), [_away(spec) for spec in profile.engines], {})
    usable: list[Engine] = []
    unusable: list[Unusable] = []
    facts: Mapping[str, Any] = host_facts() if profile.host.kind == "local" else {}
    known = {} if probes is None else probes
    for spec in sorted(profile.engines, key=lambda each: each.fallback):
        reason = _unwanted(spec, engines, usable)
        if reason is not None:
            unusable.append(reason)
            continue
        report = _probe(profile, spec, known)
        if report.outcome == "lost":
            raise TargetError(f"target {profile.name}: {report.message.removeprefix(f'{spec.name}: ')}")
        facts = report.answer.get("host", facts)
        found = _found(profile, spec, report)
        if isinstance(found, Engine):
            usable.append(found)
        else:
            unusable.append(found)
    return _target(profile, usable, unusable, facts)


def at_hand(profile: HardwareProfile) -> bool:
    """Whether it is known where a profile's engines run: on this machine, or on a host with an address."""
    return profile.host.kind == "local" or bool(profile.host.address)


@dataclass(frozen=True)
class Hosts:
    """Where a target on another machine is reached.

    Attributes:
        addresses: ``[user@]name[:port]`` each; several share the work.
        key_file: private key; None for the profile's.
        jump_host: ``[user@]name[:port]`` to go through; None for the profile's.
    """

    addresses: tuple[str, ...] = ()
    key_file: str | None = None
    jump_host: str | None = None


def on_hosts(profile: HardwareProfile, hosts: Hosts) -> HardwareProfile:
    """A profile of boards on certain hosts; with none it is left as it is.

    Raises:
        TargetError: an address is none, or the engines of the profile run on this machine.
    """
    if not hosts.addresses:
        return profile
    from autocompress.hardware.hosts.address import addresses

    if profile.host.kind != "ssh":
        raise TargetError(
            f"--host {hosts.addresses[0]}: the engines of target {profile.name} run on this machine; "
            "a profile of a board has host: {kind: ssh}"
        )
    found = {"address": hosts.addresses, "key_file": hosts.key_file, "jump_host": hosts.jump_host}
    update = {name: value for name, value in found.items() if value is not None}
    changed = profile.model_copy(update={"host": profile.host.model_copy(update=update)})
    addresses(changed.host)
    return changed


def _away(spec: EngineSpec) -> Unusable:
    reason = "its host has no address"
    remedy = "name it with --host USER@BOARD, or let a search predict its figures"
    return Unusable(spec.name, reason, remedy, spec.notice or licence_notice(spec.name))


def _unwanted(spec: EngineSpec, engines: Sequence[str] | None, usable: Sequence[Engine]) -> Unusable | None:
    """Why an engine is not even asked; None where it is."""
    notice = spec.notice or licence_notice(spec.name)
    if engines is not None:
        return None if spec.name in engines else Unusable(spec.name, "not among the engines asked for", notice=notice)
    if spec.on_request:
        return Unusable(spec.name, "used only on request", f"--engines {spec.name}", notice)
    if spec.fallback and usable:
        reason = f"used only where {usable[0].name} cannot be"
        return Unusable(spec.name, reason, f"--engines {spec.name}", notice)
    return None


def _found(profile: HardwareProfile, spec: EngineSpec, report: AgentReport) -> Engine | Unusable:
    """An engine by what the agent says about it."""
    notice = spec.notice or licence_notice(spec.name)
    if report.outcome != "ok":
        local = profile.host.kind == "local"
        remedy = install_hint(spec.name, spec.device or profile.device) if local else remote_hint(spec.name)
        return Unusable(spec.name, report.message.removeprefix(f"{spec.name}: "), remedy, notice)
    facts = report.answer["host"]
    wrong_mode = wrong_power_mode(profile.power_mode, facts["power"]["mode"])
    if wrong_mode is not None and profile.power_mode is not None:
        return Unusable(spec.name, wrong_mode, mode_remedy(profile.power_mode, facts.get("board")), notice)
    engine = _engine(profile, spec, report, facts, notice)
    if engine.precisions:
        return engine
    none = f"computes in none of the profile's precisions ({', '.join(spec.precisions)}) here"
    return Unusable(spec.name, none, "name others in the profile", notice)


def _target(
    profile: HardwareProfile, usable: Sequence[Engine], unusable: Sequence[Unusable], facts: Mapping[str, Any]
) -> Target:
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
        where=profile.host.to_dict() if profile.host.kind != "local" else {},
        accuracy_slices=profile.accuracy_slices,
    )


def _probe(
    profile: HardwareProfile, spec: EngineSpec, known: dict[tuple[str, str | None, str], AgentReport]
) -> AgentReport:
    if profile.host.kind != "local" or spec.options:
        return _ask(profile, spec)
    key = (spec.name, spec.python, spec.device or profile.device)
    if key not in known:
        known[key] = _ask(profile, spec)
    return known[key]


def _ask(profile: HardwareProfile, spec: EngineSpec) -> AgentReport:
    """What the agent says about an engine on the profile's host."""

    def refused(text: str) -> AgentReport:
        return AgentReport("unsupported", f"{spec.name}: {text}", {}, "starting", 0.0)

    if spec.name not in AGENT_ENGINES:
        return refused(f"this version measures with {', '.join(AGENT_ENGINES)} only")
    packaged = spec.name not in PROGRAM_ENGINES and profile.host.kind == "local"
    if packaged and spec.python is None and importlib.util.find_spec(spec.name) is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return refused(f"not installed in this Python {version}")
    request = {
        "engine": spec.name,
        "probe": True,
        "device": spec.device or profile.device,
        "options": dict(spec.options),
    }
    return open_host(profile.host).run(AgentJob(request, python=spec.python, timeout_seconds=PROBE_SECONDS))


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
        device=spec.device or profile.device,
        notice=notice,
        options=dict(spec.options),
    )


def _names(target: Target) -> str:
    return ", ".join([each.name for each in target.engines] + [each.name for each in target.unusable])
