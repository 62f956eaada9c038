"""Reach a target and tell what it can do, in which state it is, and whether it can be measured right now."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from autocompress.cli.arguments import engine_names
from autocompress.errors import ExitCode, TargetError

if TYPE_CHECKING:
    from rich.console import Console

    from autocompress.hardware.state import HostState, Problem
    from autocompress.hardware.targets import Target
    from autocompress.specs.schemas import HardwareProfile

NAME = "probe"
HELP = "reach a target: what it can do, its state, and whether it can be measured now"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress probe``."""
    parser.add_argument("target", metavar="TARGET", help="hardware profile by name or path")
    parser.add_argument("--engines", metavar="A,B", help="only these engines of the target")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Look at one target."""
    from autocompress.hardware.state import host_state, problems
    from autocompress.hardware.targets import resolve_target
    from autocompress.specs.library import load_spec

    profile = load_spec("target", args.target)
    check_reachable(profile)
    target = resolve_target(profile, engines=engine_names(args.engines))
    state = host_state(gpu=profile.device != "cpu")
    found = problems(state, profile.power_mode)
    if args.json:
        print(json.dumps(_plain(target, state, found)))
    else:
        _show(target, state, found)
    return ExitCode.DONE


def check_reachable(profile: HardwareProfile) -> None:
    """Refuse a target on another machine.

    Raises:
        TargetError: its host is not this machine.
    """
    if profile.host.kind != "local":
        where = profile.host.address or "another machine"
        raise TargetError(
            f"target {profile.name} is on {where} (host {profile.host.kind}), which this version cannot reach; "
            "run autocompress there, with a profile whose host is local"
        )


def _plain(target: Target, state: HostState, found: tuple[Problem, ...]) -> dict[str, Any]:
    values = target.to_dict()
    return {
        "target": target.name,
        **{name: values[name] for name in ("device", "engines", "unusable", "host", "memory_bytes", "power_mode")},
        "state": state.to_dict(),
        "measurable": not found,
        "problems": [vars(each) for each in found],
    }


def _show(target: Target, state: HostState, found: tuple[Problem, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"target {target.name}")
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
    console.print(table)
    for other in target.unusable:
        _line(console, f"not used: {other.line}")
    for name, text in _facts(target, state):
        _line(console, f"{name + ':':<13} {text}")
    for engine in target.engines:
        if engine.notice:
            _line(console, f"note: {engine.notice}")
    if not found:
        _line(console, f"verdict: {target.name} can be measured now")
        return
    _line(console, f"verdict: {target.name} is not in a state to be measured")
    for each in found:
        _line(console, f"  {each.what}: {each.remedy}")


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
    facts += [("gpu", _gpu(each)) for each in state.gpus]
    return facts


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
