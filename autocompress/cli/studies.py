"""List, rename, export, delete and upgrade studies: those in --runs, or those of a database with --storage.

A study is a folder in --runs and an Optuna study, which is in the folder's study.db unless the search had --storage;
give the same --storage here then.

examples:
  autocompress studies list
  autocompress studies export heart --out heart.csv
  autocompress studies export heart --to-storage postgresql://me@server/studies
  autocompress studies upgrade --storage sqlite:///runs/heart/study.db
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.cli.list_ import table
from autocompress.errors import ExitCode, UserError

if TYPE_CHECKING:
    from autocompress.search.stored import StoredStudy, StudyLine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress studies``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _action(actions, "list", "name, trials by state, best Dice and latency, when, and who searches it now")
    rename = _action(actions, "rename", "give a study, its folder and its Optuna study another name", study="required")
    rename.add_argument("new", metavar="NEW", help="the new name")
    export = _action(actions, "export", "write all trials to a file, or copy the study", study="required")
    export.add_argument("--out", type=Path, metavar="FILE", help="a .csv file (one row a trial) or .json (everything)")
    export.add_argument("--to-storage", metavar="URL", help="copy the Optuna study into this database")
    delete = _action(actions, "delete", "delete a study's folder and its Optuna study", study="required")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    _action(actions, "upgrade", "bring a database of an older Optuna to the installed version", study="optional")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, *, study: str = ""
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
    if study:
        parser.add_argument("study", metavar="STUDY", nargs=None if study == "required" else "?", help="its name")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="where studies are kept [runs]")
    parser.add_argument("--storage", metavar="URL", help="database: sqlite:///PATH or postgresql://USER@HOST/NAME")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return {"list": _list, "rename": _rename, "export": _export, "delete": _delete, "upgrade": _upgrade}[args.action](
        args
    )


def _list(args: argparse.Namespace) -> int:
    from autocompress.search.stored import find_studies, line_of

    lines = [line_of(study) for study in find_studies(args.runs, args.storage)]
    if args.json:
        print(json.dumps([line.to_dict() for line in lines]))
    elif lines:
        heading = ["study", "trials", "best Dice", "best latency", "front", "last", "searched by"]
        print(table([heading, *(_cells(line) for line in lines)]))
    else:
        print(f"no studies in {args.runs if args.storage is None else 'that database'}")
    return ExitCode.DONE


def _cells(line: StudyLine) -> list[str]:
    if line.problem:
        return [line.name, f"WRONG: {line.problem}", "", "", "", "", ""]
    return [
        line.name,
        ", ".join(f"{count} {state}" for state, count in line.trials.items()) or "none",
        "-" if line.best_dice is None else f"{line.best_dice:.2f} %",
        "-" if line.best_latency_ms is None else f"{line.best_latency_ms:.2f} ms",
        str(line.front) if line.front else "-",
        line.last.replace("T", " ")[:16] or "-",
        line.holder or "-",
    ]


def _rename(args: argparse.Namespace) -> int:
    from autocompress.search.stored import rename

    renamed = rename(args.study, args.new, args.runs, args.storage)
    folder = None if renamed.folder is None else str(renamed.folder)
    _tell(
        args, {"study": renamed.name, "folder": folder}, f"{args.study} is {renamed.name} now" + _in(renamed, ", in ")
    )
    return ExitCode.DONE


def _export(args: argparse.Namespace) -> int:
    from autocompress.search.storage import redact
    from autocompress.search.stored import copy_to, export, find_study

    if args.out is None and args.to_storage is None:
        raise UserError("say where to: --out FILE.csv, --out FILE.json or --to-storage URL")
    study = find_study(args.study, args.runs, args.storage)
    told: dict[str, Any] = {"study": study.name}
    said = []
    if args.out is not None:
        told |= {"file": str(args.out), "trials": export(study, args.out)}
        said.append(f"{told['trials']} trials written to {args.out}")
    if args.to_storage is not None:
        copy_to(study, args.to_storage)
        told["storage"] = redact(args.to_storage)
        said.append(f"study {study.name} copied to {told['storage']}")
    _tell(args, told, "\n".join(said))
    return ExitCode.DONE


def _delete(args: argparse.Namespace) -> int:
    from autocompress.search.stored import delete, find_study, line_of

    study = find_study(args.study, args.runs, args.storage)
    line = line_of(study)
    if line.holder is not None:
        raise UserError(f"study {study.name!r} is being searched by {line.holder}; wait for it or stop it")
    if not args.yes:
        _ask(f"delete study {study.name} with {sum(line.trials.values())} trials{_in(study, ' and ')}?")
    delete(study)
    _tell(args, {"study": study.name, "deleted": True}, f"study {study.name} deleted")
    return ExitCode.DONE


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise UserError(f"{question[:-1]}: nobody is there to ask; add --yes")
    if input(f"{question} Type yes: ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was deleted")


def _in(study: StoredStudy, before: str) -> str:
    return "" if study.folder is None else f"{before}{study.folder}"


def _upgrade(args: argparse.Namespace) -> int:
    from autocompress.search.storage import redact
    from autocompress.search.stored import find_folders, upgrade

    if args.study is None and args.storage is None:
        raise UserError("give the name of a study, or a database with --storage URL")
    folders = find_folders(args.runs, args.study, args.storage)
    url = args.storage or folders[0].url
    if url is None:
        raise UserError(f"study in {folders[0].folder} has no study.db; give its database with --storage URL")
    before, now, copy = upgrade(folders, url)
    told = {"storage": redact(url), "before": before, "now": now, "copy": None if copy is None else str(copy)}
    if before == now:
        _tell(args, told, f"database {redact(url)} is of schema {now} already; nothing to do")
    else:
        kept = "" if copy is None else f"; the old one is kept in {copy}"
        _tell(args, told, f"database {redact(url)} upgraded from schema {before} to {now}{kept}")
    return ExitCode.DONE


def _tell(args: argparse.Namespace, values: dict[str, Any], text: str) -> None:
    print(json.dumps(values) if args.json else text)
