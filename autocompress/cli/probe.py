"""Reach a target and tell what it can do, in which state it is, and whether it can be measured right now."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from autocompress.cli.arguments import add_host_argument, engine_names, with_hosts
from autocompress.errors import ExitCode, TargetError

if TYPE_CHECKING:
    from rich.console import Console

    from autocompress.hardware.state import HostState, Problem
    from autocompress.hardware.targets import Target
    from autocompress.specs.schemas import HardwareProfile

NAME = "probe"
HELP = "reach a target: what it can do, its state, and whether it can be measured now"


@dataclass(frozen=True)
class Finding:
    """What was found on one host.

    Attributes:
        place: its name, as its address or ``local``.
        target: what can be used there.
        state: of the host.
        problems: what is wrong with it.
        refusal: why the target cannot be used there; None where it can.
    """

    place: str
    target: Target
    state: HostState
    problems: tuple[Problem, ...]
    refusal: str | None

    @property
    def measurable(self) -> bool:
        """Whether figures from there would be right now."""
        return self.refusal is None and not any(each.spoils for each in self.problems)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress probe``."""
    parser.add_argument("target", metavar="TARGET", help="hardware profile by name or path")
    add_host_argument(parser)
    parser.add_argument("--engines", metavar="A,B", help="only these engines of the target")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Look at one target, on each of its hosts.

    Raises:
        TargetError: it cannot be used on one of them; what was found out is printed before.
    """
    from autocompress.specs.library import load_spec

    profiles = _on_each_host(with_hosts(load_spec("target", args.target), args))
    engines = engine_names(args.engines)
    refusals: list[str] = []
    plain: list[dict[str, Any]] = []
    for profile in profiles:
        try:
            found = _look(profile, engines)
        except TargetError as error:
            if len(profiles) == 1:
                raise
            # The other boards are looked at all the same.
            refusals.append(str(error))
            plain.append({"target": profile.name, "place": profile.host.address[0], "error": str(error)})
            continue
        if found.refusal is not None:
            refusals.append(found.refusal)
        if args.json:
            plain.append(_plain(found))
        else:
            _show(found, several=len(profiles) > 1)
    if args.json:
        print(json.dumps(plain[0] if len(profiles) == 1 else {"hosts": plain}))
    sys.stdout.flush()
    if refusals:
        raise TargetError("; ".join(dict.fromkeys(refusals)))
    return ExitCode.DONE


def _on_each_host(profile: HardwareProfile) -> list[HardwareProfile]:
    """The profile, or one for each of several hosts."""
    if len(profile.host.address) < 2:
        return [profile]
    hosts = [profile.host.model_copy(update={"address": (address,)}) for address in profile.host.address]
    return [profile.model_copy(update={"host": host}) for host in hosts]


def _look(profile: HardwareProfile, engines: Sequence[str] | None) -> Finding:
    from autocompress.hardware.hosts import open_host
    from autocompress.hardware.state import host_state, problems
    from autocompress.hardware.targets import inspect_target

    host = open_host(profile.host)
    # The state first: asking the engines is work, which heats and fills a board.
    state = host_state(host, gpu=profile.device != "cpu")
    target = inspect_target(profile, engines=engines)
    wanted = [each for each in target.unusable if engines is not None and each.name in engines]
    refusal = None
    if wanted or not target.engines:
        reasons = "; ".join(each.line for each in wanted or target.unusable)
        where = "here" if profile.host.kind == "local" else f"on {host.name}"
        refusal = f"target {profile.name} cannot be used {where}: {reasons}"
    found = problems(state, profile.power_mode, profile.memory_bytes)
    return Finding(host.name, target, state, found, refusal)


def _plain(found: Finding) -> dict[str, Any]:
    values = found.target.to_dict()
    return {
        "target": found.target.name,
        "place": found.place,
        **{name: values[name] for name in ("device", "engines", "unusable", "host", "memory_bytes", "power_mode")},
        "state": found.state.to_dict(),
        "measurable": found.measurable,
        "problems": [asdict(each) for each in found.problems],
    }


def _show(found: Finding, *, several: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    target, state, place = found.target, found.state, found.place
    console = Console()
    table = Table(title=f"target {target.name}" + ("" if place == "local" else f" on {place}"))
    for name in ("engine", "version", "precisions", "prune patterns", "opset", "threads"):
        table.add_column(name, justify="right" if name in ("opset", "threads") else "left", overflow="fold")
    for engine in target.engines:
        patterns = ", ".join(engine.prune_patterns)
        table.add_row(
            engine.name,
            engine.version,
            ", ".join(engine.precisions),
            patterns,
            str(engine.opset),
            str(engine.threads),
        )
    if target.engines:
        console.print(table)
    else:
        _line(console, str(table.title))
    for other in target.unusable:
        _line(console, f"not used: {other.line}")
    for name, text in _facts(target, state):
        _line(console, f"{name + ':':<13} {text}")
    for engine in target.engines:
        if engine.notice:
            _line(console, f"note: {engine.notice}")
    _line(console, f"verdict: {target.name} {_verdict(found)}")
    for each in found.problems:
        _line(console, f"  {each.what}: {each.remedy}")
    if several:
        _line(console, "")


def _verdict(found: Finding) -> str:
    if found.refusal is not None:
        return "cannot be used"
    if not found.measurable:
        return "is not in a state to be measured"
    return "can be measured now, but" if found.problems else "can be measured now"


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _facts(target: Target, state: HostState) -> list[tuple[str, str]]:
    facts = [
        ("machine", f"{target.host.get('name')}, {target.host.get('system')}"),
        ("processor", f"{state.cpu_model}, {state.cores} cores ({state.physical_cores} physical)"),
        ("memory", _memory(state, target)),
        ("clocks", _clocks(state)),
        ("governor", f"{state.governor or 'not told'}, boost {_yes(state.boost)}, mains {_yes(state.mains)}"),
        ("temperatures", _temperatures(state)),
        ("load", _load(state)),
    ]
    if target.power_mode is not None:
        facts.append(("power mode", f"{state.power_mode or 'not told'}; the profile demands {target.power_mode}"))
    elif state.board is not None:
        facts.append(("power mode", state.power_mode or "not told"))
    if state.board is not None:
        facts += _board(state.board)
    facts += [("gpu", _gpu(each)) for each in state.gpus]
    return facts


def _board(board: Mapping[str, Any]) -> list[tuple[str, str]]:
    watched = board.get("watched") or {}
    release = f"JetPack {board['jetpack'] or 'not known'} (L4T {board['l4t'] or 'not told'})"
    now, most = board["gpu_clock_mhz"], board["gpu_max_clock_mhz"]
    if now is None and watched.get("gpu_clock_mhz"):
        now = watched["gpu_clock_mhz"]["median"]
    gpu = "not told" if now is None else f"{now:.0f} MHz now" + ("" if most is None else f", {most:.0f} MHz at most")
    locked = {
        None: "whether the clocks are locked is not told",
        True: "the clocks are locked",
        False: "the clocks follow the load",
    }[board["clocks_locked"]]
    power = "not told" if watched.get("power_w") is None else f"{watched['power_w']:.1f} W now, by {watched['rail']}"
    alarms = "not told" if board["overcurrent"] is None else str(board["overcurrent"] + board.get("new_overcurrent", 0))
    desktop = {None: "not told", True: "runs", False: "none"}[board["desktop"]]
    return [
        ("board", f"{board['model'] or 'not told'}, {release}"),
        ("gpu", f"{gpu}; {locked}"),
        ("power", f"{power}; over-current alarms: {alarms}"),
        ("swap", f"{_gb(board['swap_bytes'])}, {_gb(board['swap_disk_bytes'])} of it on disk; desktop: {desktop}"),
    ]


def _memory(state: HostState, target: Target) -> str:
    text = f"{_gb(state.memory_bytes)}, {_gb(state.memory_free_bytes)} free"
    return text if target.memory_bytes is None else f"{text}; {_gb(target.memory_bytes)} for a model"


def _clocks(state: HostState) -> str:
    if not state.clocks_mhz:
        return "not told"
    low, high = min(state.clocks_mhz), max(state.clocks_mhz)
    now = f"{high:.0f} MHz" if round(low) == round(high) else f"{low:.0f} to {high:.0f} MHz"
    return now if state.max_clock_mhz is None else f"{now} now, {state.max_clock_mhz:.0f} MHz at most"


def _temperatures(state: HostState) -> str:
    limits = state.temperature_limits_c or {}
    zones = [
        f"{zone} {degrees:.0f} °C" + (f" of {limits[zone]:.0f}" if zone in limits else "")
        for zone, degrees in (state.temperatures_c or {}).items()
    ]
    return ", ".join(zones) or "not told"


def _load(state: HostState) -> str:
    if state.foreign_load is None:
        return "not told"
    text = f"{100 * state.foreign_load:.1f} % of a core by others, during one second"
    return f"{text}; {100 * state.stolen:.1f} % by the hypervisor" if state.stolen else text


def _gpu(values: Any) -> str:
    parts = [str(values["name"])]
    if values["clock_mhz"] is not None:
        parts.append(f"{values['clock_mhz']} of {values['max_clock_mhz'] or '?'} MHz")
    if values["temperature_c"] is not None:
        parts.append(f"{values['temperature_c']} °C")
    return ", ".join([*parts, f"{_gb(values['memory_bytes'])}, {_gb(values['memory_free_bytes'])} free"])


def _gb(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"


def _yes(value: bool | None) -> str:
    return "not told" if value is None else "on" if value else "off"
