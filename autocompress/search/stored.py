"""Studies that lie somewhere: listed, renamed, exported, deleted, upgraded.

A study is a folder (plan, trials, bundles) and an Optuna study in a database, which is a file in that folder unless
--storage names another. Whatever changes a study holds it as a driver does, so never beside one.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from autocompress.errors import StorageError, UserError
from autocompress.paths import read_json, write_bytes, write_json
from autocompress.search.plan import PLAN_FILE
from autocompress.search.records import CONFIRM_FILE, FRONT_FILE, RESULT_FILE, TrialResult
from autocompress.search.stages import last_results, trial_folder, trial_folders
from autocompress.search.storage import (
    DriverLock,
    default_url,
    driver_lock,
    holder_of,
    open_storage,
    redact,
    storage_errors,
    study_names,
    upgrade_storage,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

DATABASE_FILE = "study.db"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class StoredStudy:
    """A study that was found.

    Attributes:
        name: of the study.
        folder: of the study; None where only its database is known.
        url: of its database; None where only its folder is known, which keeps it elsewhere.
    """

    name: str
    folder: Path | None
    url: str | None

    @property
    def holder(self) -> str | None:
        """Who searches it now; None where nobody does."""
        return holder_of(self.folder, self.url or "sqlite://", self.name)


@dataclass(frozen=True)
class StudyLine:
    """What a list of studies tells of one.

    Attributes:
        name: of the study.
        where: its folder, or its database without the password.
        trials: how many are in each state: ``complete``, ``pruned``, ``failed``, ``running``, ``waiting``.
        best_dice: highest mean Dice in percent on the validation volumes; None where no trial is complete.
        best_latency_ms: lowest latency in milliseconds on the first target of the complete trials.
        front: members of the confirmed front.
        begun, last: when the study and its last trial began or ended, ISO 8601; empty where it is not known.
        holder: who searches it now; None where nobody does.
        problem: why it cannot be read; empty where it can.
    """

    name: str
    where: str
    trials: Mapping[str, int] = field(default_factory=dict)
    best_dice: float | None = None
    best_latency_ms: float | None = None
    front: int = 0
    begun: str = ""
    last: str = ""
    holder: str | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


# -- finding ----------------------------------------------------------------------------------------------------------


def find_studies(runs: Path, url: str | None) -> list[StoredStudy]:
    """All studies of a database, or all in a folder.

    Args:
        runs: folder in which studies have folders of their own.
        url: of a database; None lists the folder.

    Raises:
        StorageError: the database cannot be opened.
    """
    if url is None:
        folders = sorted(path.parent for path in runs.glob(f"*/{PLAN_FILE}"))
        return [_of_folder(folder) for folder in folders]
    storage = open_storage(url, create=False)
    with storage_errors(url):
        names = sorted(study.study_name for study in storage.get_all_studies())
    folders_by_name = {name: runs / name for name in names if (runs / name / PLAN_FILE).is_file()}
    return [StoredStudy(name, folders_by_name.get(name), url) for name in names]


def find_study(name: str, runs: Path, url: str | None) -> StoredStudy:
    """One study by its name.

    Raises:
        UserError: there is none of that name; the text names those that there are.
    """
    for folder in (runs / name, Path(name).expanduser()):
        if (folder / PLAN_FILE).is_file():
            found = _of_folder(folder.absolute())
            if url is None:
                return found
            return StoredStudy(found.name, found.folder, url)
    known = [study.name for study in find_studies(runs, url)]
    if name in known:
        return StoredStudy(name, None, url)
    where = str(runs) if url is None else redact(url)
    raise UserError(f"no study {name!r} in {where}; there {'are ' + ', '.join(known) if known else 'is none yet'}")


def _of_folder(folder: Path) -> StoredStudy:
    own = folder.absolute()
    return StoredStudy(own.name, own, default_url(own) if (own / DATABASE_FILE).is_file() else None)


# -- listing ----------------------------------------------------------------------------------------------------------


def line_of(study: StoredStudy) -> StudyLine:
    """What a list tells of a study; one that is damaged is told as such."""
    where = str(study.folder) if study.folder is not None else redact(study.url or "")
    try:
        return _line_of_folder(study) if study.folder is not None else _line_of_database(study)
    except (UserError, SQLAlchemyError, KeyError, TypeError, ValueError) as error:
        return StudyLine(study.name, where, problem=str(error) or type(error).__name__)


def _line_of_folder(study: StoredStudy) -> StudyLine:
    assert study.folder is not None  # see line_of
    plan = read_json(study.folder / PLAN_FILE)
    results = last_results(study.folder)
    judged = [each for each in results if each.state == "complete"]
    latencies = [each.latency_ms(plan["identity"]["percentile"]) for each in judged]
    states: Counter[str] = Counter(each.state for each in results)
    files = [path / RESULT_FILE for path in trial_folders(study.folder)]
    times = [path.stat().st_mtime for path in files if path.exists()]
    holder = study.holder
    if holder is not None and len(times) < len(files):
        states["running"] = len(files) - len(times)
    front = study.folder / FRONT_FILE
    return StudyLine(
        name=study.name,
        where=str(study.folder),
        trials=dict(states),
        best_dice=max((each.dice for each in judged if each.dice is not None), default=None),
        best_latency_ms=min((each for each in latencies if each is not None), default=None),
        front=len(read_json(front)["front"]) if front.exists() else 0,
        begun=plan["created"],
        last=datetime.fromtimestamp(max(times)).astimezone().isoformat(timespec="seconds") if times else "",
        holder=holder,
    )


_WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def _line_of_database(study: StoredStudy) -> StudyLine:
    found = _database_trials(study)
    continued = {each.user_attrs.get("continues") for each in found}
    trials = [each for each in found if "repeats" not in each.user_attrs and each.number not in continued]
    judged = [each.values for each in trials if each.values]
    times = [time for each in trials for time in (each.datetime_start, each.datetime_complete) if time is not None]
    return StudyLine(
        name=study.name,
        where=redact(study.url or ""),
        trials=dict(Counter(_WORDS[each.state.name] for each in trials)),
        best_dice=max((values[0] for values in judged), default=None),
        best_latency_ms=min((values[1] for values in judged if len(values) > 1), default=None),
        begun=min(times).astimezone().isoformat(timespec="seconds") if times else "",
        last=max(times).astimezone().isoformat(timespec="seconds") if times else "",
        holder=study.holder,
    )


def _results(folder: Path) -> Iterator[TrialResult]:
    for path in trial_folders(folder):
        result = TrialResult.load(path)
        if result is not None:
            yield result


def _database_trials(study: StoredStudy) -> list[FrozenTrial]:
    import optuna

    assert study.url is not None
    storage = open_storage(study.url, create=False)
    with storage_errors(study.url):
        try:
            return optuna.load_study(study_name=study.name, storage=storage).get_trials(deepcopy=False)
        except KeyError as error:
            raise StorageError(f"database {redact(study.url)} holds no study {study.name!r}") from error


# -- renaming ---------------------------------------------------------------------------------------------------------


def rename(name: str, new: str, runs: Path, url: str | None) -> StoredStudy:
    """Give a study another name: its folder, its plan and its Optuna study.

    The plan is changed last. A rename that was interrupted is finished by the same call.

    Raises:
        UserError: the new name is none, or taken; the study is not found, or a driver holds it.
    """
    if not _NAME.fullmatch(new):
        raise UserError(f"{new!r} is no name; use letters, digits, '-', '_' and '.'")
    study = _half_renamed(name, new, runs, url) or find_study(name, runs, url)
    if study.folder is None:
        return _rename_in_database(study, new)
    target = study.folder.with_name(new)
    if target != study.folder and target.exists():
        raise UserError(f"cannot rename {name} to {new}: {target} exists already")
    address = _address(study)
    _refuse_taken(study, name, new)
    with driver_lock(study.folder, address, name), _name_held(address, new):
        if target != study.folder:
            study.folder.rename(target)
        moved = StoredStudy(new, target, address if study.url != default_url(study.folder) else default_url(target))
        try:
            _rename_rows(moved, name, new)
        except BaseException:
            target.rename(study.folder)
            raise
        _rename_in_files(target, new)
    return moved


def _half_renamed(name: str, new: str, runs: Path, url: str | None) -> StoredStudy | None:
    """The study that an interrupted rename left in its new folder with its old name in the plan."""
    folder = (runs / new).absolute()
    if (runs / name / PLAN_FILE).exists() or not (folder / PLAN_FILE).is_file():
        return None
    if read_json(folder / PLAN_FILE).get("name") != name:
        return None
    found = _of_folder(folder)
    return StoredStudy(new, folder, url or found.url)


def _address(study: StoredStudy) -> str:
    if study.url is None:
        raise UserError(f"study in {study.folder} has no {DATABASE_FILE}; give its database with --storage URL")
    return study.url


def _refuse_taken(study: StoredStudy, name: str, new: str) -> None:
    names = set(study_names(_address(study)))
    if name not in names and new not in names:
        raise StorageError(f"database {redact(_address(study))} holds no study {name!r}")
    if name in names and new in names:
        raise UserError(f"cannot rename {name} to {new}: database {redact(_address(study))} has a study of that name")


@contextmanager
def _name_held(url: str, name: str) -> Iterator[None]:
    """Keep a driver elsewhere from beginning a study of that name meanwhile."""
    lock = DriverLock(url, name)
    lock.renew()
    try:
        yield
    finally:
        lock.close()


def _rename_in_database(study: StoredStudy, new: str) -> StoredStudy:
    url = _address(study)
    _refuse_taken(study, study.name, new)
    with _name_held(url, study.name), _name_held(url, new):
        renamed = StoredStudy(new, None, url)
        _rename_rows(renamed, study.name, new)
    return renamed


def _rename_rows(study: StoredStudy, name: str, new: str) -> None:
    """Optuna has no call for this; the name stands in one column of one table."""
    url = _address(study)
    storage = open_storage(url, create=False)
    with storage_errors(url):
        statement = sqlalchemy.text("UPDATE studies SET study_name = :new WHERE study_name = :old")
        with storage.engine.begin() as connection:
            connection.execute(statement, {"new": new, "old": name})
        storage.engine.dispose()


def _rename_in_files(folder: Path, new: str) -> None:
    front = folder / FRONT_FILE
    if front.exists():
        values = read_json(front)
        members = [{**each, "bundle": str(folder / "bundles" / Path(each["bundle"]).name)} for each in values["front"]]
        write_json(front, {**values, "study": new, "front": members})
    write_json(folder / PLAN_FILE, {**read_json(folder / PLAN_FILE), "name": new})


# -- exporting --------------------------------------------------------------------------------------------------------


def trials_of(study: StoredStudy) -> list[dict[str, Any]]:
    """All trials of a study as plain values: configuration, rungs, measurements, and what the database says of them.

    Each has ``number``, ``state``, ``config``, and what a `TrialResult` has where it lies on disk; ``confirmed`` for
    members of the front; ``optuna`` with ``state``, ``values``, ``params``, ``user_attrs``, ``intermediate_values``,
    ``begun`` and ``ended`` where the database is known.
    """
    found: dict[int, dict[str, Any]] = {}
    if study.folder is not None:
        for result in _results(study.folder):
            confirmed = trial_folder(study.folder, result.number) / CONFIRM_FILE
            found[result.number] = {
                **result.to_dict(),
                **({"confirmed": read_json(confirmed)} if confirmed.exists() else {}),
            }
    for trial in _database_trials(study) if study.url is not None else ():
        known = found.setdefault(trial.number, {"number": trial.number})
        known.setdefault("state", _WORDS[trial.state.name])
        known.setdefault("config", trial.user_attrs.get("config"))
        known["optuna"] = {
            "state": trial.state.name,
            "values": trial.values,
            "params": trial.params,
            "user_attrs": trial.user_attrs,
            "intermediate_values": {str(step): value for step, value in trial.intermediate_values.items()},
            "begun": _iso(trial.datetime_start),
            "ended": _iso(trial.datetime_complete),
        }
    return [found[number] for number in sorted(found)]


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds")


def flat(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial of `trials_of` as one row of a table, with the chosen engine's latencies in milliseconds."""
    row: dict[str, Any] = {name: trial.get(name) for name in ("number", "state", "reason")}
    row |= trial.get("config") or {}
    row |= {name: trial.get(name) for name in ("dice", "dice_float", "parameters", "gmacs", "size_bytes", "sparsity")}
    row |= {f"dice {name}": value for name, value in (trial.get("per_class") or {}).items()}
    targets = [("", trial.get("measurements") or ())]
    targets += [(f" on {each['target']}", each["measurements"]) for each in trial.get("others") or ()]
    for suffix, measurements in targets:
        if measurements:
            first = measurements[0]
            latency = first.get("latency") or {}
            row |= {f"{name}_ms{suffix}": latency.get(name) for name in ("p50", "p90", "p99")}
            row[f"engine{suffix}"] = first.get("engine")
            row[f"measured{suffix}"] = first.get("measured", True)
            row[f"peak_memory_bytes{suffix}"] = first.get("peak_memory_bytes")
    row |= {f"dice at {rung['share']:.3f}": rung["dice"] for rung in trial.get("rungs") or ()}
    row["seconds"] = round(sum((trial.get("seconds") or {}).values()), 3)
    database = trial.get("optuna") or {}
    if "dice" not in trial and database.get("values"):
        row["dice"], row["p50_ms"] = database["values"][0], database["values"][-1]
    row |= {"begun": database.get("begun"), "ended": database.get("ended")}
    return row


def export(study: StoredStudy, out: Path) -> int:
    """Write all trials to a file, ``.csv`` or ``.json``, and return how many there are.

    Raises:
        UserError: another kind of file, or a folder that is not there.
    """
    if out.suffix not in (".csv", ".json"):
        raise UserError(f"cannot export to {out}: give a file that ends with .csv or .json")
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: folder {out.parent} does not exist")
    trials = trials_of(study)
    if out.suffix == ".csv":
        write_bytes(out, _csv([flat(trial) for trial in trials]).encode())
    else:
        plan = None if study.folder is None else read_json(study.folder / PLAN_FILE)
        values = {"schema": "autocompress-trials/1", "study": study.name, "plan": plan, "trials": trials}
        # A database may hold infinities, which JSON cannot.
        write_bytes(out, (json.dumps(_finite(values), indent=2, allow_nan=False) + "\n").encode())
    return len(trials)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def copy_to(study: StoredStudy, url: str) -> None:
    """Copy the Optuna study, with its trials and attributes, into another database.

    Raises:
        UserError: a study of that name is there already.
    """
    import optuna

    source = open_storage(_address(study), create=False)
    with storage_errors(url):
        try:
            optuna.copy_study(from_study_name=study.name, from_storage=source, to_storage=open_storage(url))
        except optuna.exceptions.DuplicatedStudyError as error:
            raise UserError(f"database {redact(url)} has a study {study.name!r} already; rename one of them") from error


# -- deleting and upgrading -------------------------------------------------------------------------------------------


def delete(study: StoredStudy) -> None:
    """Delete a study's folder and its Optuna study, and nothing else.

    Raises:
        UserError: a driver holds it, or its folder is not a study's alone.
    """
    import optuna

    url = _address(study)
    folder = study.folder
    if folder is not None and folder.is_symlink():
        raise UserError(f"{folder} is a link; delete what it points to, or the link")
    inside = folder is not None and _is_inside(url, folder)
    others = [name for name in study_names(url) if name != study.name]
    if inside and others:
        raise UserError(
            f"database {redact(url)} in that folder also holds {', '.join(others)}; "
            f"copy them with 'autocompress studies export NAME --to-storage URL' first"
        )
    with driver_lock(folder, url, study.name) if folder is not None else _name_held(url, study.name):
        if not inside:
            with storage_errors(url), suppress(KeyError):  # not there: an earlier attempt came so far
                optuna.delete_study(study_name=study.name, storage=open_storage(url, create=False))
        if folder is not None:
            # In one step, so that what is left of an interrupted deletion is no study any more.
            doomed = folder.with_name(f".{folder.name}.deleted")
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed)


def _is_inside(url: str, folder: Path) -> bool:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return False
    return Path(parsed.database).resolve().is_relative_to(folder.resolve())


def upgrade(studies: Sequence[StoredStudy], url: str) -> tuple[str, str, Path | None]:
    """Bring a database to the version of the installed Optuna; see `autocompress.search.storage.upgrade_storage`.

    Args:
        studies: of that database, as far as their folders are known.
        url: of the database.

    Raises:
        StorageError: a driver holds one of its studies, or see `upgrade_storage`.
    """
    for study in studies:
        holder = study.holder
        if holder is not None:
            raise StorageError(f"study {study.name!r} is being searched by {holder}; wait for it or stop it")
    return upgrade_storage(url)


def find_folders(runs: Path, name: str | None, url: str | None) -> list[StoredStudy]:
    """Studies whose database is to be upgraded: by name, or all folders of a database that cannot be read yet.

    Raises:
        UserError: there is no study of that name.
    """
    if name is not None:
        return [find_study(name, runs, None) if url is None else StoredStudy(name, _folder(runs, name), url)]
    assert url is not None
    inside = [
        StoredStudy(study.name, study.folder, url)
        for study in find_studies(runs, None)
        if study.url is not None and _same_database(study.url, url)
    ]
    return inside or [StoredStudy(each, _folder(runs, each), url) for each in study_names(url)]


def _folder(runs: Path, name: str) -> Path | None:
    return runs / name if (runs / name / PLAN_FILE).is_file() else None


def _same_database(one: str, other: str) -> bool:
    first, second = make_url(one).database, make_url(other).database
    return first is not None and second is not None and Path(first).resolve() == Path(second).resolve()
