"""Record a table of trained configurations, from which whole searches can be replayed in seconds.

    python benchmarks/record_table.py --table benchmarks/tables/phantoms.json [--out runs/benchmarks/table]

Every configuration of a small space goes through what a trial of a search goes through: it is built, inherits the
parent's weights, is exported and measured; then it is trained with the search's settings and taught by the parent, and
its exported file is judged on the validation volumes. On the way its Dice is taken at a ninth and at a third of its
training.

Seconds are CPU seconds, of one thread that trains or of one engine that runs, so that other load on the machine makes
the recording longer and changes little of what it finds. Each training gets the steps that fit into ``--seconds``
by the time of its own first steps. What a rung's evaluation took is not part of the training; it is told apart.

First all networks are measured while nothing of this command trains, then they are trained, ``--workers`` at once. Each
answer is a file in ``--out``: after Ctrl-C, the same command goes on. At last those are measured again that took longer
than a network which is larger in every respect, and the faster of two measurements counts. ``--assemble`` only writes
the table of what is finished.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from autocompress.config import CompressionConfig
from autocompress.errors import UserError
from autocompress.paths import make_dir, read_json, write_json

SCHEMA = "autocompress-table/1"
FAMILY = "dae-former"
RUNGS = (0.1111, 0.3333, 1.0)
"""Shares of the training at which Dice is taken: a ninth, a third, all of it."""
WARMUP_STEPS, TIMED_STEPS = 1, 4
"""Steps of a copy by which the number of steps of a training is chosen."""
MIN_STEPS = 9
"""With fewer, a ninth and a third of the training would not be whole steps apart."""
FIRST_REPEAT_SECONDS = 3.0
"""The first measurement of a network is repeated for no longer than this; the second one as long as a search does."""
REPEATABLE = 1.03
"""Measurements repeat within about this factor."""
SPACE = Path(__file__).parent / "tables" / "space.yaml"
PLAN_FILE, PARENT_COST_FILE = "plan.json", "parent-cost.json"

Job = Mapping[str, Any]
Task = Callable[[Job], Any]


def cpu_seconds() -> float:
    """CPU seconds of this process and of the engines' processes that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# ---------------------------------------------------------------------------------------------------------------------
# In the workers


def make_parent(job: Job) -> float:
    """Train the parent on one thread, for so many seconds of wall time.

    Returns:
        CPU seconds of all of it, with the choice of its size and with what it teaches.
    """
    from autocompress.search.parent import train_parent

    begun = cpu_seconds()
    train_parent(
        {
            "folder": job["parent"],
            "family": FAMILY,
            "data": job["data"],
            "training": {"seed": job["seed"]},
            "seconds": job["parent_seconds"],
            "threads": 1,
            "candidates": job["candidates"],
        }
    )
    return cpu_seconds() - begun


def gate(job: Job) -> dict[str, Any]:
    """Build, export and measure one network, as a trial does before it trains.

    Returns:
        ``latency_ms`` (p50), ``memory_bytes``, ``size_bytes``, ``seconds`` and the conditions ``engine``,
        ``disturbed`` and ``foreign_cores``.

    Raises:
        UserError: the engine could not run it.
    """
    from autocompress.data.preprocess import to_network
    from autocompress.hardware.measure import measure
    from autocompress.hardware.settings import MeasureSettings

    config = CompressionConfig.from_dict(job["config"])
    repeat = job.get("repeat_seconds")
    settings = MeasureSettings() if repeat is None else MeasureSettings(repeat_seconds=repeat)
    begun = cpu_seconds()
    trial = _Trial(job)
    model = trial.build(config)
    volume = next(trial.dataset.volumes("validation"))
    middle = max(0, len(volume.image) // 2 - 2)
    with tempfile.TemporaryDirectory(prefix="record-table-") as scratch:
        path = trial.export(model, config, Path(scratch))
        size = path.stat().st_size
        found = measure(
            path,
            trial.target,
            inputs=to_network(volume.image[middle : middle + 4], config.resolution),
            config=config,
            settings=settings,
        )
    best = found.best
    if best is None or best.latency is None:
        raise UserError(f"{config.label}: {found.reasons}")
    return {
        "latency_ms": best.latency.p50,
        "memory_bytes": best.peak_memory_bytes,
        "size_bytes": size,
        "seconds": cpu_seconds() - begun,
        "engine": f"{best.engine} {best.engine_version}",
        "disturbed": best.disturbed,
        "foreign_cores": best.conditions.get("foreign_load_cores"),
    }


def train_row(job: Job) -> dict[str, Any]:
    """Train one network and judge it.

    Returns:
        ``steps``, ``rungs`` (``share``, ``dice`` in percent, ``seconds`` of training until then), ``finish_seconds``
        of the last export and evaluation, and ``rung_seconds`` of the evaluations on the way.

    Raises:
        UserError: the training ended early.
    """
    from autocompress.hardware.turnstile import Turnstile
    from autocompress.search.evaluate import evaluate_file
    from autocompress.training.settings import TrainSettings
    from autocompress.training.trainer import label_resolution_for, train

    config = CompressionConfig.from_dict(job["config"])
    trial = _Trial(job)
    model = trial.build(config)
    slices = trial.dataset.slices(config.resolution, label_resolution_for(config.resolution))
    run = partial(train, slices=slices, teacher=trial.parent.soft_targets(), room=Turnstile())

    steps = job["steps"] or max(MIN_STEPS, round(job["seconds"] / _step_seconds(model, run, job["seed"])))
    rungs = _Rungs(trial, model, config.resolution, steps)
    outcome = run(model, settings=TrainSettings(steps=steps, seed=job["seed"], threads=1), on_progress=rungs.after_step)
    if outcome.status != "done":
        raise UserError(f"{config.label}: training {outcome.status}: {outcome.reason}")
    trained = rungs.seconds()

    begun = cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="record-table-") as scratch:
        path = trial.export(model, config, Path(scratch))
        engine = trial.target.engines[0]
        report = evaluate_file(
            path,
            engine,
            trial.target,
            trial.dataset,
            "validation",
            resolution=config.resolution,
            precision=config.precision,
        )
    last = {"share": RUNGS[-1], "dice": report.mean, "seconds": trained}
    return {
        "steps": outcome.steps,
        "rungs": [*rungs.taken, last],
        "finish_seconds": cpu_seconds() - begun,
        "rung_seconds": rungs.evaluating,
    }


class _Trial:
    """What the rows have in common: data, parent, and a target with one engine on one thread."""

    def __init__(self, job: Job) -> None:
        import torch

        from autocompress.data import open_dataset
        from autocompress.hardware.targets import Target
        from autocompress.search.parent import Parent

        torch.set_num_threads(1)
        self.seed = int(job["seed"])
        self.dataset = open_dataset(**job["data"])
        self.parent = Parent.load(Path(job["parent"]))
        self.target = Target.from_dict(job["target"])

    def build(self, config: CompressionConfig) -> Any:
        """The network with the parent's weights."""
        import torch

        from autocompress.models import build, get_family

        shape = {"in_channels": self.dataset.in_channels, "num_classes": len(self.dataset.class_names)}
        torch.manual_seed(self.seed)
        model = build(FAMILY, config, **shape)
        parent = self.parent.network(FAMILY, **shape)
        get_family(FAMILY).inherit(model, config, parent, self.parent.config)
        return model

    def export(self, model: Any, config: CompressionConfig, folder: Path) -> Path:
        """The file for the target's engine."""
        from autocompress.compression.precision import calibration_slices
        from autocompress.hardware.candidates import export_for

        files = export_for(
            model,
            config,
            self.target.engines,
            folder,
            in_channels=self.dataset.in_channels,
            calibration=lambda: calibration_slices(self.dataset.slices(config.resolution).images),
            threads=1,
        )
        return next(iter(files.values()))


class _Rungs:
    """Dice of a network on its way, and the CPU time of its training without what that took."""

    def __init__(self, trial: _Trial, model: Any, resolution: int, steps: int) -> None:
        self.trial, self.model, self.resolution = trial, model, resolution
        self.due = {max(1, math.ceil(steps * share)): share for share in RUNGS[:-1]}
        self.taken: list[dict[str, float]] = []
        self.evaluating = 0.0
        self.begun = time.process_time()

    def seconds(self) -> float:
        """CPU seconds of training so far."""
        return time.process_time() - self.begun - self.evaluating

    def after_step(self, step: int, *_: float) -> None:
        """Evaluate where a rung is reached."""
        share = self.due.get(step)
        if share is None:
            return
        seconds, begun = self.seconds(), time.process_time()
        self.taken.append({"share": share, "dice": self._dice(), "seconds": seconds})
        self.evaluating += time.process_time() - begun

    def _dice(self) -> float:
        import torch

        from autocompress.training.metrics import evaluate_volumes

        def predict(images: Any) -> Any:
            with torch.no_grad():
                return self.model(torch.from_numpy(images)).numpy()

        self.model.eval()
        try:
            return evaluate_volumes(predict, self.trial.dataset, "validation", self.resolution).mean
        finally:
            self.model.train()


def _step_seconds(model: Any, run: Callable[..., Any], seed: int) -> float:
    """CPU time of one training step, the median of a few of a copy's."""
    from autocompress.training.settings import TrainSettings

    times: list[float] = []
    run(
        copy.deepcopy(model),
        settings=TrainSettings(steps=WARMUP_STEPS + TIMED_STEPS, seed=seed, threads=1),
        on_progress=lambda *_: times.append(time.process_time()),
    )
    ended = times[WARMUP_STEPS - 1 :]
    return statistics.median(after - before for before, after in itertools.pairwise(ended))


# ---------------------------------------------------------------------------------------------------------------------
# The command


def run_jobs(task: Task, jobs: Mapping[Path, Job], workers: int, what: str) -> None:
    """Run what has no file yet, and write each answer into its file; Ctrl-C loses only what runs at that moment."""
    waiting = {path: job for path, job in jobs.items() if not path.exists()}
    if not waiting:
        return
    begun, done = time.monotonic(), 0
    pool = _pool(workers)
    try:
        futures = {pool.submit(task, job): path for path, job in waiting.items()}
        for future in as_completed(futures):
            write_json(futures[future], future.result())
            done += 1
            spent = time.monotonic() - begun
            left = spent / done * (len(waiting) - done)
            finished = len(jobs) - len(waiting) + done
            print(
                f"{what}: {finished} of {len(jobs)}, {spent / 60:.1f} min, about {left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
    except BaseException:
        # Ctrl-C reaches the whole process group, but the workers do not hear it: they end here.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


def _pool(workers: int) -> Executor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """Leave Ctrl-C to the command, and load what the first row would otherwise pay for."""
    from autocompress.bundles.export import export_onnx
    from autocompress.models import build

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    smallest = CompressionConfig(resolution=32, levels=1, width=0.125)
    with tempfile.TemporaryDirectory(prefix="record-table-") as scratch:
        model = build(FAMILY, smallest, in_channels=1, num_classes=2)
        export_onnx(model, Path(scratch) / "model.onnx", in_channels=1, resolution=32, opset=17, form="plain")


def claim(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan into the folder, or check it against the one that lies there.

    Raises:
        UserError: rows lie there that were recorded in another way.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        write_json(path, plan)
        return
    for name, theirs in read_json(path).items():
        if theirs != plan.get(name):
            raise UserError(
                f"{folder} holds rows with another {name} ({theirs!r}, now {plan.get(name)!r}); choose another --out"
            )


def faster(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of two measurements of one network the faster one: whatever disturbs only ever makes it slower."""
    return min((one, other), key=lambda each: each["latency_ms"])


def implausible(latencies: Mapping[CompressionConfig, float]) -> list[CompressionConfig]:
    """Those that took longer than one that computes at least as much in every respect."""
    return [
        one
        for one, latency in latencies.items()
        if any(_within(one, other) and latency > REPEATABLE * theirs for other, theirs in latencies.items())
    ]


def _within(one: CompressionConfig, other: CompressionConfig) -> bool:
    """Whether no part of a network is larger than the same part of another one."""
    return (
        one.resolution <= other.resolution
        and one.levels <= other.levels
        and one.width <= other.width
        and one.prune_ratio >= other.prune_ratio
        and (one.grouping == "depthwise" or other.grouping == "dense")
        and one.precision == other.precision
    )


def row_of(config: CompressionConfig, measured: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    return {
        "config": config.to_dict(),
        "latency_ms": round(measured["latency_ms"], 4),
        "memory_bytes": measured["memory_bytes"],
        "size_bytes": measured["size_bytes"],
        "gate_seconds": round(measured["seconds"], 3),
        "finish_seconds": round(trained["finish_seconds"], 3),
        "steps": trained["steps"],
        "rungs": [
            {"share": each["share"], "dice": round(each["dice"], 3), "seconds": round(each["seconds"], 3)}
            for each in trained["rungs"]
        ],
    }


def assemble(
    folder: Path, space: Any, configs: Sequence[CompressionConfig], target: Mapping[str, Any]
) -> dict[str, Any]:
    """The table of the rows that are finished, in the order of the space.

    Raises:
        UserError: there are none.
    """
    from autocompress.bundles.provenance import cpu_model, package_versions

    rows, evaluating, engines, disturbed = [], [], set(), 0
    for config in configs:
        trained = folder / "trained" / f"{config.identifier}.json"
        measured = [folder / name / f"{config.identifier}.json" for name in ("measured", "measured-again")]
        found = [read_json(path) for path in measured if path.exists()]
        if not found or not trained.exists():
            continue
        chosen = found[0] if len(found) == 1 else faster(*found)
        values = read_json(trained)
        rows.append(row_of(config, chosen, values))
        evaluating.append(values["rung_seconds"] / (len(RUNGS) - 1))
        engines.add(chosen["engine"])
        disturbed += bool(chosen["disturbed"])
    if not rows:
        raise UserError(f"{folder} holds no finished row yet; run the command without --assemble")
    plan = read_json(folder / PLAN_FILE)
    return {
        "schema": SCHEMA,
        "dataset": plan["data"]["name_or_path"],
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count() or 1,
            "engine": ", ".join(sorted(engines)),
            "threads": target["engines"][0]["threads"],
            "packages": package_versions(),
        },
        "seconds": "cpu",
        "recording": {
            **{name: plan[name] for name in ("family", "seed", "seconds", "parent_seconds", "fingerprint")},
            "parent": read_json(folder / "parent" / "parent.json")["config"],
            "rung_evaluation_seconds": round(statistics.mean(evaluating), 3),
            "disturbed_measurements": disturbed,
        },
        "parent_seconds": round(read_json(folder / PARENT_COST_FILE)["seconds"], 1),
        "rungs": list(RUNGS),
        "space": space.to_dict(),
        "rows": rows,
    }


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """Write a table with one row a line, so that a change of it can be read.

    Raises:
        UserError: the file cannot be written.
    """
    import json

    from autocompress.paths import write_bytes

    head = json.dumps({name: value for name, value in table.items() if name != "rows"}, indent=1)
    rows = ",\n".join("  " + json.dumps(row) for row in table["rows"])
    make_dir(path.parent)
    write_bytes(path, f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'.encode())


def report(table: Mapping[str, Any]) -> str:
    """How well the rungs foretell the end."""
    from scipy.stats import kendalltau, spearmanr

    rows = table["rows"]
    lines = [f"{len(rows)} rows; {sum(row['rungs'][-1]['seconds'] for row in rows) / 60:.1f} CPU minutes of training"]
    if len(rows) > 2:
        dice = [[row["rungs"][index]["dice"] for row in rows] for index in range(len(RUNGS))]
        for share, values in zip(RUNGS[:-1], dice, strict=False):
            tau, rho = kendalltau(values, dice[-1]).statistic, spearmanr(values, dice[-1]).statistic
            lines.append(f"Dice at {share:.2f} against the end: Kendall tau {tau:.2f}, Spearman rho {rho:.2f}")
    return "\n".join(lines)


def _plan(options: argparse.Namespace, dataset: Any) -> dict[str, Any]:
    return {
        "family": FAMILY,
        "data": {"name_or_path": options.data, "seed": options.seed},
        "fingerprint": dataset.fingerprint,
        "seed": options.seed,
        "seconds": options.seconds,
        "steps": options.steps,
        "parent_seconds": options.parent_seconds,
        "rungs": list(RUNGS),
    }


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Record what is missing, and return the table of what is there."""
    from autocompress.data import open_dataset
    from autocompress.hardware.targets import resolve_target
    from autocompress.models import get_family
    from autocompress.search.parent import parent_candidates
    from autocompress.search.space import ConfigSpace
    from autocompress.specs.library import load_spec

    folder = make_dir(options.out.absolute())
    space = load_spec("space", str(options.space))
    configs = list(ConfigSpace(space, get_family(FAMILY).check))
    data = {"name_or_path": options.data, "seed": options.seed}
    plan = _plan(options, open_dataset(**data))
    claim(folder, plan)
    target = resolve_target(load_spec("target", "cpu"), engines=["onnxruntime"])
    values = replace(target, engines=tuple(replace(each, threads=1) for each in target.engines)).to_dict()
    if options.assemble:
        return assemble(folder, space, configs, values)

    # Mixed, so that a table of the first rows covers the space and a slow hour does not fall on one corner of it.
    order = list(configs)
    random.Random(options.seed).shuffle(order)
    common = {**plan, "parent": str(folder / "parent"), "target": values}
    candidates = [config.to_dict() for config in parent_candidates(space)]
    cost = folder / PARENT_COST_FILE
    run_jobs(_parent_cost, {cost: {**common, "candidates": candidates}}, 1, "parent")

    def jobs(name: str, **more: Any) -> dict[Path, Job]:
        place = make_dir(folder / name)
        return {place / f"{config.identifier}.json": {**common, **more, "config": config.to_dict()} for config in order}

    run_jobs(gate, jobs("measured", repeat_seconds=FIRST_REPEAT_SECONDS), 1, "measured")
    run_jobs(train_row, jobs("trained"), options.workers, "trained")
    latencies = {config: read_json(folder / "measured" / f"{config.identifier}.json")["latency_ms"] for config in order}
    doubtful = {config.identifier for config in implausible(latencies)}
    again = {path: job for path, job in jobs("measured-again").items() if path.stem in doubtful}
    run_jobs(gate, again, 1, "measured again")
    return assemble(folder, space, configs, values)


def _parent_cost(job: Job) -> dict[str, float]:
    return {"seconds": make_parent(job)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, write the table, and tell how well its rungs foretell the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="phantoms", help="data set (default phantoms)")
    parser.add_argument("--space", type=Path, default=SPACE, help="YAML of the space (default tables/space.yaml)")
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds of each training (default 20)")
    parser.add_argument("--steps", type=int, help="steps of each training, in place of --seconds")
    parser.add_argument("--parent-seconds", type=float, default=200.0, help="of the parent's training (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and order of the slices (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="trainings at once, one thread each (default 2)")
    parser.add_argument("--assemble", action="store_true", help="only write the table of what is finished")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/table"), help="folder for the answers")
    # No default: what takes an hour and writes over a table that others use is not started by accident.
    parser.add_argument("--table", type=Path, required=True, help="where the table is written to")
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps < MIN_STEPS:
        parser.error(f"--steps {options.steps} is below {MIN_STEPS}")
    try:
        table = record(options)
        write_table(options.table, table)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; what is finished lies in {options.out}, the same command goes on", file=sys.stderr)
        return 130
    print(report(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
