"""A study as reports see it: a front of four, one of them predicted, among twenty trials."""

from __future__ import annotations

from typing import Any

import pytest

from autocompress.config import CompressionConfig
from autocompress.reports.records import StudyView, TrialView

from ..bundles.conftest import parts

__all__ = ["parts"]  # a fixture of the bundles' tests, used here too

CLASSES = ("background", "aorta", "gallbladder", "liver")
#        number, resolution, width, dice, test, p50
FRONT = ((3, 32, 0.125, 61.2, 60.1, 0.41), (7, 64, 0.125, 72.5, 71.9, 0.98), (12, 64, 0.25, 76.4, 74.2, 1.9),
         (18, 128, 0.5, 79.1, 80.3, 8.7))  # fmt: skip
CONDITIONS = {"cpu_model": "Test CPU", "threads": 2, "governor": None, "foreign_load": 0.01, "affinity": [0, 1]}


def trial(number: int, resolution: int, width: float, **values: Any) -> TrialView:
    return TrialView(number, values.pop("state", "complete"), CompressionConfig(resolution, width=width), **values)


def latency(p50: float) -> dict[str, float]:
    return {"p50": p50, "p90": 1.1 * p50, "p99": 1.4 * p50}


@pytest.fixture
def view() -> StudyView:
    trials = {}
    for number, resolution, width, dice, test, p50 in FRONT:
        trials[number] = trial(
            number,
            resolution,
            width,
            dice=dice,
            dice_test=test,
            per_class={"aorta": dice + 5, "gallbladder": dice - 20, "liver": dice + 15},
            per_class_test={"aorta": test + 5, "gallbladder": test - 20, "liver": test + 15},
            hd95=4.2,
            hd95_per_class={"aorta": 2.0, "gallbladder": None, "liver": 6.4},
            latency_ms=latency(p50),
            measured=number != 18,
            engine="onnxruntime" if number != 12 else "openvino",
            engine_version="1.26.0",
            host="workbench",
            conditions={**CONDITIONS, "foreign_load": number / 1000},
            parameters=int(1e6 * width),
            gmacs=0.02 * resolution * width,
            size_bytes=int(4e6 * width),
            bundle=f"bundles/trial-{number:03d}",
            seconds=30.0 + number,
        )
    for number in range(20):
        if number in trials:
            continue
        if number % 5 == 0:
            trials[number] = trial(
                number, 224, 2.0, state="pruned", latency_ms=latency(60.0 + number), reason="60.00 ms is above <20>"
            )
        elif number % 5 == 1:
            trials[number] = trial(number, 64, 1.0, state="failed", reason="training diverged", seconds=3.0)
        else:
            trials[number] = trial(number, 64, 0.5, dice=40 + 1.5 * number, latency_ms=latency(2.0 + number))
    return StudyView(
        name="organs",
        folder="runs/organs",
        family="dae-former",
        dataset="phantoms",
        data={"name_or_path": "phantoms", "seed": 0},
        classes=CLASSES,
        target="cpu",
        constraints={"min_dice": 60.0, "max_latency_ms": 20.0},
        trials=tuple(trials[number] for number in sorted(trials)),
        front=tuple(row[0] for row in FRONT),
        seconds={"setup": 20.0, "train": 480.0, "measure": 61.5, "evaluate": 40.0, "export": 12.0, "other": 9.5},
        created="2026-01-02T03:04:05+00:00",
        seed=0,
        packages={"torch": "2.13.0", "onnxruntime": "1.26.0"},
        machine={"cpu": "Test CPU", "cores": 2},
        notes=("DeepSparse is for evaluation only.",),
    )
