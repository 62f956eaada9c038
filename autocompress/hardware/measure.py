"""Measuring a model on a target: each engine that can run it, in a process of its own, while nothing else computes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.config import CompressionConfig
from autocompress.data.dataset import FloatArray
from autocompress.hardware.cache import LatencyCache, measurement_key
from autocompress.hardware.engines import build_seconds
from autocompress.hardware.gate import refuse_config, refuse_model
from autocompress.hardware.hosts import AgentJob, AgentReport, Host
from autocompress.hardware.infer import engine_request, model_name
from autocompress.hardware.predicted import predicted_measurement
from autocompress.hardware.records import Latency, Measurement
from autocompress.hardware.settings import MeasureSettings
from autocompress.hardware.state import mode_remedy, wrong_power_mode
from autocompress.hardware.targets import Engine, Target
from autocompress.hardware.turnstile import Turnstile

BOARD_PATIENCE = 3
"""Time-outs on a host over SSH are so many times as long: boards are slow, and trtexec loads an engine for each run."""


@dataclass(frozen=True)
class MeasurementSet:
    """What all engines of a target did with one model.

    Attributes:
        measurements: the best first, then the others that ran by latency, then the failures in the target's order.
    """

    measurements: tuple[Measurement, ...]

    @property
    def best(self) -> Measurement | None:
        """The measurement with the lowest latency; None where no engine ran the model."""
        return self.measurements[0] if self.measurements and self.measurements[0].ok else None

    @property
    def reasons(self) -> str:
        """Why engines failed, on one line; empty where none did."""
        return "; ".join(each.message for each in self.measurements if not each.ok)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"measurements": [each.to_dict() for each in self.measurements]}


def measure(
    model: Path | Mapping[str, Path],
    target: Target,
    *,
    inputs: FloatArray,
    config: CompressionConfig | None = None,
    precision: str | None = None,
    metric: str | None = None,
    settings: MeasureSettings | None = None,
    cache: LatencyCache | None = None,
    remeasure: bool = False,
    turnstile: Turnstile | None = None,
) -> MeasurementSet:
    """Measure the latency of a model with each usable engine of a target, or predict it where the target says so.

    A failure of an engine is a measurement with another outcome than ``ok``; it never raises.

    Args:
        model: ONNX file (for torch, an exported program); or one for each engine by name. An engine that has none
            is left out.
        target: see `autocompress.hardware.targets.resolve_target`.
        inputs: N x C x R x R float32, real images; the first 16 are fed in turn, one at a time.
        config: the configuration that the model was made of; engines that cannot run it are not tried.
        precision: number format to compute in; that of ``config`` by default, else ``fp32``.
        metric: ``p50``, ``p90``, ``p99`` or ``mean``, by which the best engine is chosen; the target's by default.
        settings: of the protocol; by default a board over SSH is given more time than other machines.
        cache: earlier measurements are taken from it and new ones kept in it; None for neither.
        remeasure: measure also what the cache knows.
        turnstile: of this host by default. The calling thread must not be inside one of its steps.

    Raises:
        RuntimeError: the calling thread is inside a step of ``turnstile``: the measurement would wait for itself.
    """
    room = turnstile or Turnstile()
    if room.held:
        raise RuntimeError("a measurement cannot begin inside a step of the same thread: it would wait for itself")
    wanted = settings or _default_settings(target)
    number_format = precision or (config.precision if config is not None else "fp32")
    results = []
    for engine in target.engines:
        path = model if isinstance(model, Path) else model.get(engine.name)
        if path is None:
            continue
        reason = None if config is None else refuse_config(config, engine)
        reason = reason or refuse_model(path, engine, memory_bytes=target.memory_bytes)
        if reason is not None:
            results.append(
                _failure(engine, target, AgentReport("unsupported", f"{engine.name}: {reason}", {}, "", 0.0))
            )
            continue
        if target.predicted:
            results.append(predicted_measurement(path, engine, target, number_format))
            continue
        key = None
        if cache is not None:
            key = measurement_key(path, engine, target, number_format, inputs.shape[1:], wanted)
            known = None if remeasure else cache.get(key)
            if known is not None:
                results.append(known)
                continue
        result = _measure(path, engine, target, target.open_host(), inputs, number_format, wanted, room)
        if cache is not None and key is not None:
            cache.put(key, result)
        results.append(result)
    return MeasurementSet(ranked(results, metric or target.latency_metric))


def _default_settings(target: Target) -> MeasureSettings:
    """Those of `MeasureSettings`; longer on a board, whose clocks rise late and whose runs are slow."""
    settings = MeasureSettings()
    return replace(settings, warmup_seconds=2.0, max_seconds=3.0, repeat_seconds=20.0) if target.remote else settings


def ranked(measurements: Sequence[Measurement], metric: str = "p50") -> tuple[Measurement, ...]:
    """Measurements that ran by latency, then the failures in their order."""

    def latency(each: Measurement) -> float:
        return float("inf") if not each.ok or each.latency is None else float(getattr(each.latency, metric))

    return tuple(sorted(measurements, key=latency))


def _measure(
    model: Path,
    engine: Engine,
    target: Target,
    host: Host,
    inputs: FloatArray,
    precision: str,
    settings: MeasureSettings,
    room: Turnstile,
) -> Measurement:
    with tempfile.TemporaryDirectory(prefix="autocompress-measure-") as scratch:
        sample = Path(scratch) / "input.npy"
        np.save(sample, np.ascontiguousarray(inputs[:16], dtype=np.float32), allow_pickle=False)
        request = {
            **engine_request(engine, precision),
            # The agent passes the turnstile itself, alone only while it times: loading stops nobody's training.
            "turnstile": str(room.folder.resolve()),
            "time": {"input": "input.npy", **asdict(settings)},
        }
        report = host.run(
            AgentJob(
                request,
                {model_name(engine): model, "input.npy": sample},
                python=engine.python,
                timeout_seconds=(BOARD_PATIENCE if target.remote else 1) * settings.timeout_seconds,
                build_seconds=min(build_seconds(engine.name), settings.build_seconds),
                memory_bytes=target.memory_bytes,
            )
        )
    if report.outcome != "ok":
        return _failure(engine, target, report, precision)
    wrong_mode = wrong_power_mode(target.power_mode, report.answer["host"]["power"]["mode"])
    if wrong_mode is not None and target.power_mode is not None:  # somebody changed it after the target was looked at
        remedy = mode_remedy(target.power_mode, report.answer["host"].get("board"))
        text = f"{engine.name}: {target.open_host().name}: {wrong_mode}; {remedy}"
        return _failure(engine, target, replace(report, outcome="lost", message=text), precision)
    timed = report.answer["time"]
    return Measurement(
        engine=engine.name,
        engine_version=report.answer["engine_version"],
        host=str(target.host.get("name", host.name)),
        outcome="ok",
        latency=Latency(**{**timed["latency"], "p90_interval": tuple(timed["latency"]["p90_interval"])}),
        peak_memory_bytes=report.answer["peak_memory_bytes"],
        disturbed=timed["disturbed"],
        conditions={**_conditions(engine, target, report, precision), **timed["conditions"]},
        energy_joules=timed.get("energy_joules"),
    )


def _failure(engine: Engine, target: Target, report: AgentReport, precision: str = "") -> Measurement:
    return Measurement(
        engine=engine.name,
        engine_version=engine.version,
        host=str(target.host.get("name", target.host_kind)),
        outcome=report.outcome,
        message=report.message,
        conditions=_conditions(engine, target, report, precision) if report.phase else {},
    )


def _conditions(engine: Engine, target: Target, report: AgentReport, precision: str) -> dict[str, Any]:
    """Under which a measurement was made, as far as it is known before anything was timed."""
    host = report.answer.get("host", target.host)
    process = report.answer.get("process", {})
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "target": target.name,
        "device": engine.device,
        "precision": precision,
        "threads": engine.threads,
        "affinity": process.get("affinity"),
        "options": dict(engine.options),
        "cpu_model": host.get("cpu_model"),
        "cores": host.get("cores"),
        "host_id": host.get("id"),
        "system": host.get("system"),
        "power": host.get("power"),
        "python": process.get("python"),
        "phases": report.answer.get("phases", {}),
        "engine_details": report.answer.get("details", {}),
        **{name: host[name] for name in ("gpu", "board") if host.get(name)},
    }
