"""A search whose trials do not train: a formula gives Dice and latency. Also a program, to be killed by tests.

``python fake_search.py FOLDER [TRIALS] [SECONDS]`` runs or takes up a study of trials that sleep so long.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna

from autocompress.config import CompressionConfig
from autocompress.hardware.records import Latency, Measurement
from autocompress.hardware.targets import Target
from autocompress.search.driver import Driver, Listener
from autocompress.search.executor import RayExecutor
from autocompress.search.interrupts import uninterrupted
from autocompress.search.ledger import Ledger
from autocompress.search.plan import SearchPlan
from autocompress.search.records import TrialResult
from autocompress.search.samplers import make_sampler
from autocompress.search.space import ConfigSpace
from autocompress.search.stages import trial_folder
from autocompress.search.storage import DriverLock, default_url, driver_lock, driver_storage
from autocompress.specs.schemas import Constraints, SearchSpace

SPACE = {"resolution": [32, 64, 96, 128], "levels": [1, 2], "width": [0.25, 0.5], "precision": ["fp32"]}


def dice_of(config: CompressionConfig) -> float:
    return 40 + config.resolution / 4 + 10 * config.width + config.levels


def latency_of(config: CompressionConfig) -> float:
    return config.resolution * config.width * config.levels / 10


def fake_trial(values: Mapping[str, Any]) -> None:
    """What a worker does; ``faults`` tells for which resolution its process dies."""
    config = CompressionConfig.from_dict(values["config"])
    time.sleep(values["seconds"])
    if config.resolution == values.get("dies_at"):
        os.kill(os.getpid(), signal.SIGKILL)
    with (Path(values["folder"]).parent / "ran.txt").open("a") as log:
        log.write(f"{config.identifier}\n")
    p50 = latency_of(config)
    latency = Latency(p50, p50, p50, p50, (p50, p50), 64)
    TrialResult(
        number=values["number"],
        config=config,
        state="complete",
        dice=dice_of(config),
        measurements=(Measurement("onnxruntime", "1", "here", "ok", latency=latency),),
        seconds={"train": values["seconds"]},
    ).save(Path(values["folder"]))


def make_plan(folder: Path, *, trials: int | None = None, **changes: Any) -> SearchPlan:
    values: dict[str, Any] = {
        "name": "fake",
        "folder": folder,
        "storage": default_url(folder),
        "family": "dae-former",
        "data": {"name_or_path": "phantoms-tiny"},
        "dataset": "phantoms-tiny",
        "classes": ("background", "organ"),
        "space": SearchSpace.from_dict(SPACE),
        "targets": (Target("cpu", "local", "cpu", (), (), {}),),
        "constraints": Constraints(min_dice=60),
        "percentile": "p50",
        "training": {},
        "parent": {},
        "sampler": "random",
        "startup": 4,
        "priors": False,
        "seed": 3,
        "workers": 2,
        "threads": 1,
        "budget_seconds": None,
        "trials": trials,
        "trial_seconds": 1.0,
        "confirm_share": 0.0,
    }
    return SearchPlan(**{**values, **changes})


def drive(
    plan: SearchPlan,
    executor: Any,
    *,
    task: Callable[[Mapping[str, Any]], None] = fake_trial,
    lock: DriverLock | None = None,
    say: Callable[[str], None] = lambda _: None,
    listener: Listener = lambda _: None,
    request: Callable[[int, CompressionConfig], Mapping[str, Any]] | None = None,
    deadline: Callable[[], float] = lambda: math.inf,
    **values: Any,
) -> tuple[Driver, optuna.Study]:
    """Run or take up a study as a session does; ``values`` go to each trial, or what ``request`` says."""
    study = optuna.create_study(
        storage=driver_storage(plan.storage, lock, say),
        study_name=plan.name,
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )
    space = ConfigSpace(plan.space, lambda _: None)
    told = len(study.get_trials(deepcopy=False))
    study.sampler, _ = make_sampler(
        plan.sampler, space=space, seed=plan.seed, told=told, expected=20, startup=plan.startup
    )
    ledger = Ledger(plan.folder)

    def plain(number: int, config: CompressionConfig) -> Mapping[str, Any]:
        folder = str(trial_folder(plan.folder, number))
        return {"folder": folder, "number": number, "config": config.to_dict(), **values}

    driver = Driver(
        plan,
        study,
        space=space,
        executor=executor,
        task=task,
        request=request or plain,
        ledger=ledger,
        listener=listener,
    )
    driver.take_up()
    with ledger.stage(executor.slots) as stage:
        try:
            driver.run(None, stage, deadline=deadline)
        except BaseException:
            with uninterrupted():
                executor.cancel()
                driver.settle()
            raise
    return driver, study


def run_fake(plan: SearchPlan, *, seconds: float = 0.0, dies_at: int | None = None) -> tuple[Driver, optuna.Study]:
    """Run or take up a study in this process."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with driver_lock(plan.folder, plan.storage, plan.name) as lock, RayExecutor(plan.workers) as executor:
        return drive(plan, executor, lock=lock, seconds=seconds, dies_at=dies_at)


if __name__ == "__main__":
    try:
        run_fake(make_plan(Path(sys.argv[1]), trials=int(sys.argv[2])), seconds=float(sys.argv[3]))
    except KeyboardInterrupt:
        sys.exit(130)
