"""A search that is told to sleep, on any database and any cluster; also a program, to be killed by tests.

``python faulty_search.py FOLDER TRIALS SECONDS STORAGE [RAY_ADDRESS]`` runs or takes up such a study.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from autocompress.cli import main
from autocompress.search.driver import Driver
from autocompress.search.executor import RayExecutor
from autocompress.search.plan import SearchPlan
from autocompress.search.storage import driver_lock, storage_errors
from autocompress.specs.schemas import SearchSpace
from tests.search import fake_search

SPACE = {"resolution": list(range(32, 257, 32)), "levels": [1, 2], "width": [0.25, 0.5], "precision": ["fp32"]}


def plan_of(folder: Path, trials: int, storage: str, **changes: Any) -> SearchPlan:
    plan = fake_search.make_plan(folder, trials=trials, storage=storage, space=SearchSpace.from_dict(SPACE))
    return replace(plan, **changes)


def announced(values: Mapping[str, Any]) -> None:
    """`fake_search.fake_trial`, which first tells who it is, so that it can be killed."""
    if "pids" in values:
        (Path(values["pids"]) / str(os.getpid())).touch()
    fake_search.fake_trial(values)


def search(
    plan: SearchPlan,
    executor: RayExecutor,
    *,
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
    task: Callable[[Mapping[str, Any]], None] = announced,
    **more: Any,
) -> Driver:
    """Run or take up a study as a session does."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with driver_lock(plan.folder, plan.storage, plan.name) as lock, storage_errors(plan.storage):
        driver, _ = fake_search.drive(plan, executor, task=task, lock=lock, say=say, seconds=seconds, **more)
    return driver


def verb(arguments: list[str]) -> int:
    """The program as a verb of the command, with its errors in one line."""
    folder, trials, seconds, storage = Path(arguments[0]), int(arguments[1]), float(arguments[2]), arguments[3]
    pids = folder.with_name("pids")
    pids.mkdir(exist_ok=True)
    plan = plan_of(folder, trials, storage)
    with RayExecutor(plan.workers, arguments[4] if len(arguments) > 4 else None) as executor:
        search(plan, executor, seconds=seconds, pids=str(pids), say=lambda line: print(line, file=sys.stderr))
    return 0


if __name__ == "__main__":
    from autocompress import cli

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cli._run = verb
    sys.exit(main(sys.argv[1:]))
