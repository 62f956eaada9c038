"""Open optuna-dashboard on a study's database, with the front that respects the constraints.

Give the STUDY, or the database with --storage (sqlite:///PATH or postgresql://USER@HOST/NAME). Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.errors import ExitCode, UserError

if TYPE_CHECKING:
    import optuna

# A running search finishes a trial every few seconds at most.
_REFRESH_SECONDS = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``autocompress dashboard``."""
    parser.add_argument("study", metavar="STUDY", nargs="?", help="name of a study, or its folder")
    parser.add_argument("--storage", metavar="URL", help="database to show instead of the one in the study's folder")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="where studies are kept [runs]")
    parser.add_argument("--host", metavar="NAME", default="127.0.0.1", help="address to listen on [127.0.0.1]")
    parser.add_argument("--port", metavar="N", type=int, default=8080, help="port to listen on; 0 for any free [8080]")
    parser.add_argument("--json", action="store_true", help="print the address as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    import optuna

    from autocompress.reports.dashboard import dashboard_server, repeating
    from autocompress.search.storage import default_url, open_storage, redact, storage_errors
    from autocompress.search.view import find_study

    if args.study is None and args.storage is None:
        raise UserError("give the name of a study, or a database with --storage URL")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = None if args.study is None else find_study(args.study, args.runs)
    url = args.storage or default_url(_with_database(folder))
    _check_file(url)
    storage = open_storage(url)
    with storage_errors(url):
        artifacts = _artifacts(storage)
    with storage_errors(url), dashboard_server(storage, args.host, args.port, artifacts=artifacts) as server:
        publish = _publisher(storage, folder)
        publish()
        address = f"http://{_shown(args.host)}:{server.server_port}/dashboard"
        if args.json:
            print(json.dumps({"event": "serving", "url": address, "storage": redact(url)}), flush=True)
        else:
            print(f"optuna-dashboard of {redact(url)} on {address}; Ctrl-C ends it", flush=True)
        with repeating(_forgiving(publish), _REFRESH_SECONDS):
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                if not args.json:
                    print("dashboard closed")
    return ExitCode.DONE


def _artifacts(storage: optuna.storages.BaseStorage) -> Any:
    """The store with the bundles of a database's studies (``search --artifacts``); None where none has one."""
    from autocompress.search.artifacts import open_artifacts

    places = [
        place
        for study in storage.get_all_studies()
        if (place := storage.get_study_user_attrs(study._study_id).get("artifacts"))
    ]
    return open_artifacts(places[0]) if places else None


def _with_database(folder: Path | None) -> Path:
    assert folder is not None  # one of the two was given
    if not (folder / "study.db").is_file():
        raise UserError(f"study in {folder} has no study.db; give its database with --storage URL")
    return folder.absolute()


def _check_file(url: str) -> None:
    """A mistyped path must not become a new, empty database."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from autocompress.search.storage import redact

    try:
        parsed = make_url(url)
    except ArgumentError:
        return  # told by open_storage
    if parsed.get_backend_name() == "sqlite" and not (parsed.database and Path(parsed.database).is_file()):
        raise UserError(f"database {redact(url)} does not exist")


def _publisher(storage: optuna.storages.BaseStorage, folder: Path | None) -> Callable[[], None]:
    """What stores the figures of our study, and of others with two objectives, where they changed since."""
    import optuna

    from autocompress.reports.dashboard import publish, study_figure, study_note, view_figure
    from autocompress.search.view import load_study_view

    published: dict[str, list[str]] = {}

    def work() -> None:
        view = None if folder is None else load_study_view(folder)
        for summary in optuna.study.get_all_study_summaries(storage, include_best_trial=False):
            ours = view if view is not None and view.name == summary.study_name else None
            if ours is None and len(summary.directions) != 2:
                continue
            study = optuna.load_study(study_name=summary.study_name, storage=storage)
            figures = [study_figure(study)] if ours is None else [view_figure(each) for each in ours.views]
            content = [figure.to_json() for figure in figures]
            if content != published.get(study.study_name):
                publish(study, figures, None if ours is None else study_note(ours))
                published[study.study_name] = content

    return work


def _forgiving(work: Callable[[], None]) -> Callable[[], None]:
    """A refresh that fails, as beside a driver that is just writing, is repeated at the next turn."""

    def attempt() -> None:
        try:
            work()
        except Exception as error:
            logging.getLogger(__name__).debug("figure not refreshed: %s", error)

    return attempt


def _shown(host: str) -> str:
    """A host as it is written in an address."""
    if host in {"", "0.0.0.0"}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
