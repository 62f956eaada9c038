"""A study's folder, read back for reports and tables; the database is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autocompress.errors import UserError
from autocompress.hardware.records import Measurement
from autocompress.paths import read_json
from autocompress.reports.records import StudyView, TrialView
from autocompress.search.ledger import STATE_FILE
from autocompress.search.plan import PLAN_FILE
from autocompress.search.records import BUNDLES, CONFIRM_FILE, FRONT_FILE, TrialResult
from autocompress.search.stages import last_results, trial_folder


def find_study(study: str, out: Path) -> Path:
    """The folder of a study.

    Args:
        study: its name, or the path of its folder.
        out: folder that holds the studies.

    Raises:
        UserError: there is none; the text names those that there are.
    """
    for folder in (out / study, Path(study).expanduser()):
        if (folder / PLAN_FILE).is_file():
            return folder
    known = sorted(path.parent.name for path in out.glob(f"*/{PLAN_FILE}")) if out.is_dir() else []
    raise UserError(f"no study {study!r} in {out}; there {'are ' + ', '.join(known) if known else 'is none yet'}")


def load_study_view(folder: Path) -> StudyView:
    """Read a study, finished or not.

    Raises:
        UserError: the folder holds no study, or its files are damaged.
    """
    plan = read_json(folder / PLAN_FILE)
    try:
        return _view(folder, plan)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"study in {folder} is damaged: {type(error).__name__} {error}; run its search again"
        ) from error


def _view(folder: Path, plan: dict[str, Any]) -> StudyView:
    identity = plan["identity"]
    front = read_json(folder / FRONT_FILE) if (folder / FRONT_FILE).exists() else {"front": []}
    state = read_json(folder / STATE_FILE) if (folder / STATE_FILE).exists() else {"seconds": {}}
    trials = []
    hd95_unit = "mm"
    for result in last_results(folder):
        path = trial_folder(folder, result.number) / CONFIRM_FILE
        confirmed = read_json(path) if path.exists() else None
        trials.append(_trial(result, confirmed))
        hd95_unit = hd95_unit if confirmed is None else confirmed["hd95_unit"]
    return StudyView(
        name=plan["name"],
        folder=str(folder),
        family=identity["family"],
        dataset=plan["dataset"],
        data=identity["data"],
        classes=tuple(plan["classes"]),
        target=identity["target"]["name"],
        targets=tuple(each["name"] for each in (identity["target"], *identity["others"]))
        if "others" in identity
        else (),
        constraints={name: value for name, value in plan["constraints"].items() if value is not None},
        percentile=identity["percentile"],
        trials=tuple(trials),
        front=tuple(member["trial"] for member in front["front"]),
        seconds={phase: round(value, 2) for phase, value in state["seconds"].items()},
        created=plan["created"],
        seed=plan["seed"],
        packages=plan["packages"],
        machine=plan["machine"],
        notes=tuple(plan["notes"]),
        hd95_unit=hd95_unit,
    )


def _trial(result: TrialResult, confirmed: dict[str, Any] | None) -> TrialView:
    # What was measured again, on a quiet machine, is what counts.
    measurement = result.measurement if confirmed is None else Measurement.from_dict(confirmed["measurement"])
    values: dict[str, Any] = {
        "number": result.number,
        "state": result.state,
        "config": result.config,
        "dice": result.dice,
        "per_class": result.per_class,
        "parameters": result.parameters,
        "gmacs": result.gmacs,
        "size_bytes": result.size_bytes,
        "sparsity": result.sparsity,
        "reason": result.reason,
        "seconds": sum(result.seconds.values()),
    }
    values |= _measured(measurement)
    again = {} if confirmed is None else confirmed.get("others", {})
    values["elsewhere"] = {
        other.target: {
            **_measured(Measurement.from_dict(again[other.target]) if other.target in again else other.measurement),
            "size_bytes": other.size_bytes,
        }
        for other in result.others
    }
    if confirmed is not None:
        member = confirmed["member"]
        values |= {
            # Members of the front may have been trained longer.
            "dice": member["dice"],
            "per_class": confirmed.get("per_class", result.per_class),
            "dice_test": member["dice_test"],
            "bundle": f"{BUNDLES}/{Path(member['bundle']).name}",  # wherever the folder was moved to
            "per_class_test": confirmed["per_class_test"],
            "hd95": confirmed["hd95"],
            "hd95_per_class": confirmed["hd95_per_class"],
        }
    return TrialView(**values)


def _measured(measurement: Measurement | None) -> dict[str, Any]:
    """The fields of a `TrialView` that a measurement fills in."""
    if measurement is None or measurement.latency is None:
        return {}
    latency = measurement.latency
    return {
        "latency_ms": latency.percentiles,
        "measured": measurement.measured,
        "disturbed": measurement.disturbed,
        "engine": measurement.engine,
        "engine_version": measurement.engine_version,
        "host": measurement.host,
        "conditions": measurement.conditions,
        "peak_memory_bytes": measurement.peak_memory_bytes,
    }
