"""A study's folder with three trials, one of them on the front with a real bundle, and its database."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import optuna

from autocompress.config import CompressionConfig
from autocompress.hardware.records import Latency, Measurement
from autocompress.paths import write_json
from autocompress.search.ledger import STATE_FILE
from autocompress.search.plan import PLAN_FILE
from autocompress.search.records import CONFIRM_FILE, FRONT_FILE, TrialResult

from ..bundles.conftest import CLASSES, CONFIG, Parts

# number, configuration, Dice, p50; the second is slow, the third was refused for that before it was trained
TRIALS = (
    (0, CONFIG, 71.5, 0.8),
    (1, CompressionConfig(64, width=0.5), 78.0, 25.0),
    (2, CompressionConfig(224), None, 90.0),
)


def measurement(p50: float) -> Measurement:
    latency = Latency(p50, 1.1 * p50, 1.5 * p50, p50, (p50, 1.2 * p50), 64)
    return Measurement("onnxruntime", "1.26.0", "workbench", "ok", latency=latency, conditions={"threads": 2})


def make_study(folder: Path, parts: Parts, data: str) -> Path:
    """Write everything that a finished search leaves in ``folder``."""
    (folder / "trials").mkdir(parents=True)
    write_json(
        folder / PLAN_FILE,
        {
            "schema": "autocompress-study/1",
            "name": folder.name,
            "created": "2026-01-02T03:04:05+00:00",
            "identity": {
                "family": "dae-former",
                "data": {"name_or_path": data, "seed": 0, "validation_fraction": 0.2},
                "target": {"name": "cpu", "engines": ["onnxruntime"]},
                "percentile": "p50",
            },
            "dataset": "acdc",
            "classes": list(CLASSES),
            "constraints": {"min_dice": 60.0, "max_latency_ms": 20.0, "max_memory_bytes": None},
            "seed": 0,
            "packages": {"torch": "2.13.0"},
            "machine": {"cpu_model": "Test CPU"},
            "notes": [],
        },
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}", directions=["maximize", "minimize"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["Dice (%)", "latency p50 (ms)"])
    for number, config, dice, p50 in TRIALS:
        place = folder / "trials" / f"{number:04d}"
        place.mkdir()
        TrialResult(
            number,
            config,
            "complete" if dice else "pruned",
            reason="" if dice else "90.00 ms is above --max-latency 20; not trained",
            dice=dice,
            per_class=dict.fromkeys(CLASSES[1:], dice) if dice else {},
            measurements=(measurement(p50),),
            parameters=1000,
            gmacs=0.5,
            size_bytes=4000,
            seconds={"train": 30.0, "measure": 2.0},
        ).save(place)
        trial = study.ask()
        trial.set_constraint("max_latency_ms", p50 - 20)
        study.tell(trial, [dice, p50] if dice else None, state=None if dice else optuna.trial.TrialState.PRUNED)
    bundle = folder.absolute() / "bundles" / "trial-000"
    parts.write(bundle)
    member = {
        "trial": 0,
        "config": CONFIG.to_dict(),
        "dice": 71.5,
        "dice_test": 70.25,
        "latency_ms": {"p50": 0.8, "p90": 0.9, "p99": 1.2},
        "measured": True,
        "engine": "onnxruntime",
        "parameters": 1000,
        "gmacs": 0.5,
        "size_bytes": 4000,
        "bundle": str(bundle),
    }
    confirmed = {
        "member": member,
        "measurement": replace(measurement(0.8), latency=Latency(0.8, 0.9, 1.2, 0.8, (0.8, 1.0), 64)).to_dict(),
        "per_class_test": {},
        "hd95": None,
        "hd95_per_class": {},
        "hd95_unit": "mm",
        "seconds": {},
    }
    write_json(folder / "trials" / "0000" / CONFIRM_FILE, confirmed)
    write_json(folder / FRONT_FILE, {"front": [member]})
    write_json(folder / STATE_FILE, {"seconds": {"setup": 5.0, "train": 60.0, "other": 1.0}, "spent": 66.0})
    return folder
