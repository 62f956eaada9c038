"""Whole searches in seconds: the driver, its samplers and its stopping rule on a recorded table, under simulated time.

A table holds what many configurations took and reached when they were really trained: latency, memory, size, the cost
of the gate, the Dice at each rung with the seconds of training until then, and the cost of the end. `simulate` lets the
very `Driver` of a search ask for its trials; in place of Ray a `SimulatedExecutor` looks the answers up and moves a
clock forward. Shares of the training that lie between two rungs of the table are interpolated linearly, in Dice and in
seconds; only configurations of the table are asked for.
"""

from __future__ import annotations

import contextlib
import gzip
import heapq
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from autocompress.config import CompressionConfig
from autocompress.errors import ConfigError, UserError
from autocompress.hardware.records import Latency, Measurement
from autocompress.hardware.targets import Target
from autocompress.search.driver import Driver
from autocompress.search.executor import Ended
from autocompress.search.limits import too_dear, violations
from autocompress.search.plan import SearchPlan
from autocompress.search.records import Rung, TrialResult
from autocompress.search.samplers import make_sampler
from autocompress.search.space import ConfigSpace
from autocompress.search.stopping import ETA, RUNGS
from autocompress.specs.schemas import Constraints, SearchSpace

SCHEMA = "autocompress-table/1"


@dataclass(frozen=True)
class Row:
    """One configuration of a table.

    Attributes:
        config: the configuration.
        latency_ms, memory_bytes, size_bytes: as measured before training.
        gate_seconds: to build, export and measure it.
        finish_seconds: to export and judge it in the end.
        rungs: Dice in percent and seconds of training so far by share of the training, up to share 1.
    """

    config: CompressionConfig
    latency_ms: float
    memory_bytes: int
    size_bytes: int
    gate_seconds: float
    finish_seconds: float
    rungs: tuple[Rung, ...]

    @property
    def dice(self) -> float:
        """At the end of the training, of the exported file."""
        return self.rungs[-1].dice

    @property
    def seconds(self) -> float:
        """What it takes to try it in full."""
        return self.gate_seconds + self.rungs[-1].seconds + self.finish_seconds

    def at(self, share: float) -> Rung:
        """What it has reached at a share of its training."""
        shares = [0.0, *(rung.share for rung in self.rungs)]
        # Before the first rung nothing is known: the Dice is taken from there.
        dice = [self.rungs[0].dice, *(rung.dice for rung in self.rungs)]
        seconds = [0.0, *(rung.seconds for rung in self.rungs)]
        return Rung(share, float(np.interp(share, shares, dice)), float(np.interp(share, shares, seconds)))


@dataclass(frozen=True)
class Table:
    """A recorded search space.

    Attributes:
        rows: by the configuration's identifier.
        space: that the configurations come from.
        parent_seconds: of training the parent, which is no part of any row.
        source: where it was read from, for messages.
        rung_seconds: of judging a trial at a rung, which no row's own seconds hold.
        parent: configuration of the network that all rows inherit from; None where it is not told.
    """

    rows: Mapping[str, Row]
    space: SearchSpace
    parent_seconds: float = 0.0
    source: str = "table"
    rung_seconds: float = 0.0
    parent: CompressionConfig | None = None

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read a table, which may be gzipped.

        Raises:
            UserError: it cannot be read, or is none.
        """
        try:
            data = path.read_bytes()
            values = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
            if values["schema"] != SCHEMA:
                raise UserError(f"{path} is of the kind {values['schema']!r}, not {SCHEMA}")
            return cls.from_dict(values, str(path))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; record it with record_table.py") from error
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise UserError(f"{path} is no table of a search space ({type(error).__name__}: {error})") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "table") -> Table:
        """Build from plain values."""
        rows: dict[str, Row] = {}
        for each in values["rows"]:
            row = Row(
                CompressionConfig.from_dict(each["config"]),
                float(each["latency_ms"]),
                int(each["memory_bytes"]),
                int(each["size_bytes"]),
                float(each["gate_seconds"]),
                float(each["finish_seconds"]),
                tuple(Rung(float(r["share"]), float(r["dice"]), float(r["seconds"])) for r in each["rungs"]),
            )
            rows[row.config.identifier] = row
        space = SearchSpace.from_dict(values["space"], source)
        recording = values.get("recording", {})
        at_rung = float(recording.get("rung_evaluation_seconds", 0.0))
        parent = CompressionConfig.from_dict(recording["parent"]) if "parent" in recording else None
        return cls(rows, space, float(values["parent_seconds"]), source, at_rung, parent)

    @property
    def seconds(self) -> float:
        """What it takes to try everything in full."""
        return sum(row.seconds for row in self.rows.values())

    def config_space(self) -> ConfigSpace:
        """The space with the rows of the table alone."""

        def check(config: CompressionConfig) -> None:
            if config.identifier not in self.rows:
                raise ConfigError(f"{config.label} is not in {self.source}")

        return ConfigSpace(self.space, check)


# ---------------------------------------------------------------------------------------------------------------------
# Hypervolume


@dataclass(frozen=True)
class Goal:
    """What a search on a table is measured by: the feasible hypervolume of Dice and the logarithm of latency.

    Attributes:
        constraints: what is feasible.
        reference: Dice and latency that everything counted must beat: the constraint, or the worst of the table.
        best: hypervolume of the whole table; every other one is told as a share of it.
    """

    constraints: Constraints
    reference: tuple[float, float]
    best: float

    @classmethod
    def of(cls, table: Table, constraints: Constraints | None = None) -> Goal:
        """That of a table.

        Raises:
            UserError: nothing in the table keeps the constraints.
        """
        limits = constraints or Constraints()
        good = [row for row in table.rows.values() if _keeps(row, limits)]
        if not good:
            raise UserError(f"{table.source}: no row keeps the constraints; loosen them")
        least = min(row.dice for row in table.rows.values()) if limits.min_dice is None else limits.min_dice
        longest = limits.max_latency_ms or max(row.latency_ms for row in table.rows.values())
        goal = cls(limits, (least, longest), 1.0)
        return replace(goal, best=goal.share((row.dice, row.latency_ms) for row in good))

    def share(self, points: Iterable[tuple[float, float]]) -> float:
        """The hypervolume of feasible points (Dice, latency in ms) as a share of the best."""
        least, longest = self.reference
        area, highest = 0.0, least
        ranked = sorted((math.log(longest / latency), dice) for dice, latency in points)
        for width, dice in reversed(ranked):  # the fastest first
            if width > 0 and dice > highest:
                area += width * (dice - highest)
                highest = dice
        return area / self.best


def _keeps(row: Row, limits: Constraints) -> bool:
    result = _complete(row, 0)
    return all(excess <= 0 for excess in violations(result, limits, "p50").values())


# ---------------------------------------------------------------------------------------------------------------------
# The parts of a search that are simulated


class SimulatedClock:
    """Seconds that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SimulatedBooks:
    """A ledger that knows the simulated time alone."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock

    @property
    def spent(self) -> float:
        """Wall seconds so far."""
        return self._clock.now

    def save(self) -> None:
        """Nothing is kept."""


class MemoryFiles:
    """What trials leave, in memory: an `autocompress.search.stages.TrialFiles`."""

    def __init__(self) -> None:
        self.results: dict[int, TrialResult] = {}
        self.stages: dict[int, TrialResult] = {}

    def prepare(self, number: int) -> None:
        """There is always room."""

    def result(self, number: int) -> TrialResult | None:
        """How a trial ended."""
        return self.results.get(number)

    def progress(self, number: int) -> TrialResult | None:
        """How far it came."""
        return self.stages.get(number)

    def save(self, result: TrialResult) -> None:
        """Keep a result."""
        self.results[result.number] = result

    def hand_over(self, old: int, new: int) -> None:
        """Let a new trial go on where an old one stopped."""
        if old in self.stages:
            self.stages[new] = replace(self.stages.pop(old), number=new)

    def let_go(self, number: int) -> None:
        """There is always room."""


class SimulatedExecutor:
    """Workers that look up what a trial would have taken and reached; see `autocompress.search.driver.Executor`.

    Args:
        slots: trials at once.
        clock: is moved forward by `wait`.
        files: where results and progress appear when their time has come.
        play: what one task does: its seconds, and what it leaves.

    Attributes:
        compute: seconds of all workers together, for tasks that have ended.
    """

    def __init__(
        self,
        slots: int,
        clock: SimulatedClock,
        files: MemoryFiles,
        play: Callable[[Mapping[str, Any]], tuple[float, TrialResult]],
    ) -> None:
        self.slots = slots
        self.compute = 0.0
        self._clock = clock
        self._files = files
        self._play = play
        self._order = itertools.count()
        self._tasks: list[tuple[float, int, str, float, TrialResult]] = []

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of the tasks that are not over."""
        return tuple(task[2] for task in self._tasks)

    def submit(self, key: str, function: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> None:
        """Look up what will come of a task, and when; ``function`` is not called."""
        del function
        seconds, left = self._play(values)
        heapq.heappush(self._tasks, (self._clock.now + seconds, next(self._order), key, seconds, left))

    def wait(self, seconds: float) -> list[Ended]:
        """Move the clock to the end of the next task, however far that is, and return what ended then."""
        del seconds
        ended: list[Ended] = []
        while self._tasks and (not ended or self._tasks[0][0] <= self._clock.now):
            self._clock.now, _, key, took, left = heapq.heappop(self._tasks)
            self.compute += took
            if left.state == "pruned" and not left.reason:
                self._files.stages[left.number] = left
            else:
                self._files.results[left.number] = left
            ended.append(Ended(key, None))
        return ended

    def cancel(self) -> None:
        """Forget the tasks that are not over."""
        self._tasks.clear()


# ---------------------------------------------------------------------------------------------------------------------
# Whole searches


@dataclass(frozen=True)
class Point:
    """How far a search was.

    Attributes:
        compute: seconds of all workers together, for what has ended.
        wall: simulated seconds since it began.
        share: feasible hypervolume as a share of the table's.
        begun: configurations that were begun.
    """

    compute: float
    wall: float
    share: float
    begun: int


@dataclass(frozen=True)
class Trace:
    """A simulated search.

    Attributes:
        points: after every task that ended.
        finished: configurations that were trained to their end.
        note: which sampler it was, and why.
    """

    points: tuple[Point, ...]
    finished: int
    note: str

    def compute_to(self, share: float) -> float:
        """Worker seconds until the hypervolume had reached a share of the table's; infinite where it did not."""
        return next((point.compute for point in self.points if point.share >= share), math.inf)

    def share_at(self, compute: float) -> float:
        """The share of the table's hypervolume after so many worker seconds."""
        return max((point.share for point in self.points if point.compute <= compute), default=0.0)


class _EnoughError(Exception):
    """The search has gone as far as was asked for."""


def simulate(
    table: Table,
    *,
    sampler: str = "auto",
    stopping: bool = True,
    workers: int = 1,
    seed: int = 0,
    constraints: Constraints | None = None,
    trials: int | None = None,
    until: float | None = None,
    enough: float = 1.0,
    priors: bool = True,
    startup: int = 8,
    rungs: Sequence[float] | None = None,
    eta: int = ETA,
) -> Trace:
    """Run a search as `autocompress search` would on a table.

    Args:
        table: the recorded space.
        sampler: its name, see `autocompress.search.samplers.make_sampler`.
        stopping: whether trials are stopped early.
        workers: trials at once.
        seed: of the study.
        constraints: of the study.
        trials: configurations to begin; None for no limit.
        until: worker seconds after which it ends; None for no limit.
        enough: share of the table's hypervolume at which it ends.
        priors: whether the parent's own configuration and the paper's steps come first.
        startup: random trials before the sampler's model takes over.
        rungs: shares at which trials are compared; those of the table by default.
        eta: one in so many goes on at each rung.
    """
    goal = Goal.of(table, constraints)
    clock, files = SimulatedClock(), MemoryFiles()
    recorded = tuple(rung.share for rung in next(iter(table.rows.values())).rungs if rung.share < 1) or RUNGS
    plan = plan_for(
        table,
        workers=workers,
        seed=seed,
        sampler=sampler,
        startup=startup,
        constraints=goal.constraints,
        trials=trials,
        rungs=tuple(rungs or recorded) if stopping else (),
        eta=eta,
    )
    space = table.config_space()
    study = _study()
    study.sampler, note = make_sampler(
        sampler,
        space=space,
        seed=seed,
        told=0,
        expected=min(trials or len(space), len(space)),
        startup=startup,
        constraints=goal.constraints,
    )
    executor = SimulatedExecutor(workers, clock, files, lambda values: play(table, files, plan, values))
    points: list[Point] = []

    def listen(event: Mapping[str, Any]) -> None:
        if event["event"] == "tick":
            points.append(_point(goal, executor.compute, clock.now, driver.results))
            if points[-1].share >= enough - 1e-9 or (until is not None and executor.compute >= until):
                raise _EnoughError

    driver = Driver(
        plan,
        study,
        space=space,
        executor=executor,
        task=lambda _: None,
        request=lambda number, config: {"number": number, "config": config.to_dict()},
        ledger=SimulatedBooks(clock),
        listener=listen,
        files=files,
        now=clock,
    )
    if priors:
        driver.enqueue(space.priors(table.parent))
    with contextlib.suppress(_EnoughError):
        driver.run(None, NoHours())
    return Trace(tuple(points), sum(each.state == "complete" for each in driver.results), note)


def simulate_plain(
    table: Table,
    sampler: optuna.samplers.BaseSampler,
    *,
    workers: int = 1,
    constraints: Constraints | None = None,
    until: float | None = None,
    enough: float = 1.0,
) -> Trace:
    """What a user would do without this package: Optuna's ask and tell, and full training of whatever is proposed.

    Limits on latency, memory and size are told as constraints after the training; a configuration that is proposed
    twice is trained twice. A combination that is not in the table costs nothing.

    Args:
        table, workers, constraints, until, enough: see `simulate`.
        sampler: Optuna's, with whatever settings.
    """
    goal = Goal.of(table, constraints)
    space = table.config_space()
    study = _study()
    study.sampler = sampler
    clock, files = SimulatedClock(), MemoryFiles()

    def in_full(values: Mapping[str, Any]) -> tuple[float, TrialResult]:
        row = table.rows[values["identifier"]]
        return row.seconds, _complete(row, values["number"])

    executor = SimulatedExecutor(workers, clock, files, in_full)
    asked: dict[str, optuna.Trial] = {}
    points: list[Point] = []
    while not points or (points[-1].share < enough - 1e-9 and (until is None or executor.compute < until)):
        while len(asked) < workers:
            trial = study.ask()
            try:
                config = space.suggest(trial)
            except ConfigError:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            asked[str(trial.number)] = trial
            values = {"identifier": config.identifier, "number": trial.number}
            executor.submit(str(trial.number), lambda _: None, values)
        for ended in executor.wait(0.0):
            trial = asked.pop(ended.key)
            result = files.results[trial.number]
            for name, excess in violations(result, goal.constraints, "p50").items():
                trial.set_constraint(name, excess)
            assert result.dice is not None
            study.tell(trial, [result.dice, *(value or 0.0 for value in result.latencies_ms("p50"))])
        points.append(_point(goal, executor.compute, clock.now, list(files.results.values())))
    return Trace(tuple(points), len(files.results), type(sampler).__name__)


def _study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=["maximize", "minimize"])


def _point(goal: Goal, compute: float, wall: float, results: Sequence[TrialResult]) -> Point:
    feasible = [
        (result.dice, result.latency_ms("p50"))
        for result in results
        if result.state == "complete"
        and all(excess <= 0 for excess in violations(result, goal.constraints, "p50").values())
    ]
    share = goal.share((dice, latency) for dice, latency in feasible if dice is not None and latency is not None)
    return Point(compute, wall, share, len(results))


def play(table: Table, files: MemoryFiles, plan: SearchPlan, values: Mapping[str, Any]) -> tuple[float, TrialResult]:
    """What a task of a trial takes from the stage that it had reached, and what it leaves."""
    number, pause_at = values["number"], values.get("pause_at")
    row = table.rows[CompressionConfig.from_dict(values["config"]).identifier]
    progress = files.progress(number)
    took: dict[str, float] = {} if progress is None else dict(progress.seconds)
    if progress is None:
        progress = replace(_complete(row, number), state="pruned", dice=None)
        took["measure"] = row.gate_seconds
        reason = too_dear(progress, plan.constraints, plan.percentile)
        if reason:
            under = {name: value for name, value in plan.constraints.to_dict().items() if value is not None}
            refused = replace(progress, reason=f"{reason}; not trained", refused_under=under, seconds=took)
            return row.gate_seconds, refused
    before = sum(progress.seconds.values())
    if pause_at is not None:
        if progress.rungs and progress.rungs[-1].share >= pause_at - 1e-9:
            return 0.0, progress
        reached = row.at(pause_at)
        took["train"] = reached.seconds
        took["evaluate"] = took.get("evaluate", 0.0) + table.rung_seconds
        return sum(took.values()) - before, replace(progress, rungs=(*progress.rungs, reached), seconds=took)
    took["train"] = row.rungs[-1].seconds
    took["evaluate"] = took.get("evaluate", 0.0) + row.finish_seconds
    done = replace(_complete(row, number), rungs=progress.rungs, seconds=took)
    return sum(took.values()) - before, done


def _complete(row: Row, number: int) -> TrialResult:
    ms = row.latency_ms
    latency = Latency(p50=ms, p90=ms, p99=ms, mean=ms, p90_interval=(ms, ms), runs=1)
    measurement = Measurement(
        "onnxruntime", "table", "table", "ok", latency=latency, peak_memory_bytes=row.memory_bytes
    )
    return TrialResult(
        number,
        row.config,
        "complete",
        dice=row.dice,
        measurements=(measurement,),
        size_bytes=row.size_bytes,
    )


class NoHours:
    """Nobody books what simulated workers did."""

    def add(self, seconds: Mapping[str, float]) -> None:
        """Nothing is kept."""


def plan_for(table: Table, **changes: Any) -> SearchPlan:
    """A study's plan for a table; ``changes`` must hold what a `SearchPlan` needs and the table does not tell."""
    values: dict[str, Any] = {
        "name": "simulated",
        "folder": Path("simulated"),  # never written to
        "storage": "",
        "family": "table",
        "data": {},
        "space": table.space,
        "dataset": table.source,
        "classes": (),
        "targets": (Target("table", "local", "cpu", (), (), {}),),
        "percentile": "p50",
        "training": {},
        "parent": {},
        "priors": True,
        "threads": 1,
        "budget_seconds": None,
        "trial_seconds": None,
        "confirm_share": 0.0,
    }
    return SearchPlan(**{**values, **changes})
