"""Whether brief training tells the truth: inherited and taught students against networks from scratch.

    python benchmarks/brief_training.py --data DIR [--seconds 60] [--times 10] [--out runs/benchmarks/brief_training]

Eight configurations, one from each eighth of a search space in the order of their arithmetic, are trained for so many
seconds from the parent's weights (with its soft targets) and from scratch, and once more for ``--times`` as long from
the parent. Two run at once on one thread each, as a search on two cores does. A second is one of a core that is not
disturbed: steps a second are measured first, beside each other, and each training gets that many steps, so that other
load on the machine changes how long the benchmark takes and not what it finds. Finished trainings are kept in ``--out``
and not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

FAMILY, SPACE, CONFIGURATIONS, WORKERS = "dae-former", "compact", 8, 2
RATE_SECONDS, RATE_ROUNDS = 5.0, 2


def choose(seed: int) -> list[Any]:
    """One float32 configuration without pruning of channels, or with it, from each eighth of the space."""
    from autocompress.models import get_family
    from autocompress.search.space import ConfigSpace
    from autocompress.specs.library import load_spec

    space = load_spec("space", SPACE).model_copy(update={"precision": ("fp32",)})
    configs = sorted(
        ConfigSpace(space, get_family(FAMILY).check), key=lambda c: (c.resolution**2 * c.width**2 * c.levels, c.label)
    )
    chance = random.Random(seed)
    edges = [round(i * len(configs) / CONFIGURATIONS) for i in range(CONFIGURATIONS + 1)]
    return [chance.choice(configs[low:high]) for low, high in itertools.pairwise(edges)]


def train_one(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train one network and judge it on the validation volumes (in a process of its own)."""
    import torch

    from autocompress.config import CompressionConfig
    from autocompress.data import open_dataset
    from autocompress.models import build, get_family
    from autocompress.search.parent import Parent
    from autocompress.training.metrics import evaluate_volumes
    from autocompress.training.settings import TrainSettings
    from autocompress.training.trainer import train

    torch.set_num_threads(1)
    config = CompressionConfig.from_dict(job["config"])
    dataset = open_dataset(job["data"])
    shape = {"in_channels": dataset.in_channels, "num_classes": len(dataset.class_names)}
    torch.manual_seed(0)
    model = build(FAMILY, config, **shape)
    teacher = None
    if job["inherit"]:
        parent = Parent.load(Path(job["parent"]))
        get_family(FAMILY).inherit(model, config, parent.network(FAMILY, **shape), parent.config)
        teacher = parent.soft_targets()
    budget = {name: job[name] for name in ("seconds", "steps") if job.get(name)}
    settings = TrainSettings(threads=1, **budget)
    begun = time.perf_counter()
    outcome = train(model, dataset.slices(config.resolution), settings, teacher=teacher)
    took = time.perf_counter() - begun
    if job.get("seconds"):
        return {"rate": outcome.steps / outcome.seconds}

    def predict(images: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(images)).numpy()

    report = evaluate_volumes(predict, dataset, "validation", resolution=config.resolution)
    return {"dice": report.mean, "steps": outcome.steps, "took": took}


def run_all(jobs: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """Run what was not run yet, two at once; every answer is kept in the folder."""
    answers: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        pending = {}
        for key, job in jobs.items():
            path = folder / f"{key}.json"
            if path.exists():
                answers[key] = json.loads(path.read_text())
            else:
                pending[key] = pool.submit(train_one, dict(job))
        for number, (key, future) in enumerate(pending.items(), 1):
            answers[key] = future.result()
            (folder / f"{key}.json").write_text(json.dumps(answers[key]))
            print(f"  {number} of {len(pending)}: {key}", file=sys.stderr, flush=True)
    return answers


def main() -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="phantoms", help="data set (default phantoms)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each brief training (default 60)")
    parser.add_argument("--times", type=float, default=10.0, help="how much longer the long training is (default 10)")
    parser.add_argument("--parent-seconds", type=float, default=300.0, help="of the parent's training (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="for the choice of configurations")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/brief_training"), help="folder for results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = str(Path(options.data).resolve()) if Path(options.data).is_dir() else options.data

    import torch

    from autocompress.data import open_dataset
    from autocompress.models import build
    from autocompress.models.complexity import complexity
    from autocompress.search.parent import Parent, parent_candidates, train_parent
    from autocompress.specs.library import load_spec

    parent_folder = options.out / "parent"
    train_parent(
        {
            "folder": str(parent_folder),
            "family": FAMILY,
            "data": {"name_or_path": data},
            "training": {"seed": 0},
            "seconds": options.parent_seconds,
            "threads": os.cpu_count() or 1,
            "candidates": [config.to_dict() for config in parent_candidates(load_spec("space", SPACE))],
        }
    )
    parent = Parent.load(parent_folder)
    configs = choose(options.seed)
    common = {"data": data, "parent": str(parent_folder)}

    def jobs(name: str, *, inherit: bool, budget: Mapping[str, Sequence[float] | float]) -> dict[str, dict[str, Any]]:
        return {
            f"{name}-{index}": {
                **common,
                "config": config.to_dict(),
                "inherit": inherit,
                **{key: value[index] if isinstance(value, Sequence) else value for key, value in budget.items()},
            }
            for index, config in enumerate(configs)
        }

    rates: dict[bool, list[float]] = {}
    for inherit in (True, False):
        rounds = [
            run_all(
                jobs(f"rate-{inherit}-{number}".lower(), inherit=inherit, budget={"seconds": RATE_SECONDS}), options.out
            )
            for number in range(RATE_ROUNDS)
        ]
        # Disturbance only ever slows a step down.
        rates[inherit] = [
            max(answers[key]["rate"] for answers in rounds for key in answers if key.endswith(f"-{index}"))
            for index in range(len(configs))
        ]

    def steps(inherit: bool, seconds: float) -> list[int]:
        return [max(1, round(rate * seconds)) for rate in rates[inherit]]

    brief = run_all(
        jobs("inherited", inherit=True, budget={"steps": steps(True, options.seconds)})
        | jobs("scratch", inherit=False, budget={"steps": steps(False, options.seconds)}),
        options.out,
    )
    long_seconds = options.times * options.seconds
    long = run_all(jobs("long", inherit=True, budget={"steps": steps(True, long_seconds)}), options.out)

    from scipy.stats import kendalltau

    def dice(answers: Mapping[str, Mapping[str, Any]], name: str) -> list[float]:
        return [float(answers[f"{name}-{index}"]["dice"]) for index in range(len(configs))]

    inherited, scratch, truth = dice(brief, "inherited"), dice(brief, "scratch"), dice(long, "long")
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {WORKERS} at once on one thread")
    print(f"data: {open_dataset(data).name}; Dice in percent on the validation volumes, one seed")
    print(f"parent: {parent.config.label}, {parent.steps} steps in {parent.seconds:.0f} s of all cores, ", end="")
    print(f"{parent.seconds / len(configs):.0f} s for each of {len(configs)} configurations\n")
    print(
        f"| configuration | GMacs | steps | inherited, {options.seconds:.0f} s | scratch, {options.seconds:.0f} s "
        f"| gain | inherited, {long_seconds:.0f} s |"
    )
    print("|---|---|---|---|---|---|---|")
    shape = open_dataset(data)
    for index, config in enumerate(configs):
        model = build(FAMILY, config, in_channels=shape.in_channels, num_classes=len(shape.class_names))
        gmacs = complexity(model, shape.in_channels, config.resolution).gmacs
        print(
            f"| {config.label} | {gmacs:.3f} | {brief[f'inherited-{index}']['steps']} | {inherited[index]:.1f} | "
            f"{scratch[index]:.1f} | {inherited[index] - scratch[index]:+.1f} | {truth[index]:.1f} |"
        )
    gains = [a - b for a, b in zip(inherited, scratch, strict=True)]
    print(f"\nmedian gain: {statistics.median(gains):.1f} Dice")
    for name, values in (("inherited", inherited), ("scratch", scratch)):
        tau = kendalltau(values, truth).statistic
        print(f"Kendall tau of the ranking after {options.seconds:.0f} s ({name}) and the long one: {tau:.2f}")


if __name__ == "__main__":
    main()
