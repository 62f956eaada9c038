"""optuna-dashboard on a study's database, with the front that it cannot draw itself.

optuna-dashboard reads constraints from an attribute that Optuna no longer writes, and its own list of best trials
ignores them. A figure of ours is therefore stored beside the study and shown by it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from autocompress.errors import UserError
from autocompress.reports import text
from autocompress.reports.figures import front_figure
from autocompress.reports.records import StudyView

if TYPE_CHECKING:
    import optuna
    from plotly.graph_objects import Figure

FIGURE_ID = "autocompress-front"
NOTE_MARK = "*Written by `autocompress dashboard`.*"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """One line for each request would hide the address on the terminal."""


def study_figure(study: optuna.Study) -> Figure:
    """The front of any study with two objectives, by what its database knows of it: constraints included."""
    import optuna

    dice, latency = study.metric_names or ["objective 1", "objective 2"]
    # The second objective on the horizontal axis, as in the report: up and to the left is better.
    figure = optuna.visualization.plot_pareto_front(
        study, targets=lambda trial: (trial.values[1], trial.values[0]), target_names=[latency, dice]
    )
    figure.update_layout(title=f"Feasible Pareto front of {study.study_name}")
    return figure


def view_figure(view: StudyView) -> Figure:
    """The figure of the report, on white: optuna-dashboard may be dark, and tells its figures nothing of that."""
    figure = front_figure(view)
    figure.update_layout(
        paper_bgcolor="white",
        plot_bgcolor="white",
        title=f"Front of {view.name}" + (f" on {view.target}" if view.targets else ""),
        margin={"t": 90},
        legend={"y": -0.4},  # its place there is small
    )
    return figure


def study_note(view: StudyView) -> str:
    """A note on a study, in Markdown."""
    lines = [
        f"# {view.name} on {', '.join(each.target for each in view.views)}",
        *(f"- {sentence}" for sentence in text.headlines(view)),
        "",
        f"Data: {view.dataset}. Model family: {view.family}. Constraints: {text.constraints(view)}.",
        *(
            f"\n**Latencies of the front on {each.target} are predicted, not measured.**"
            for each in view.views
            if each.predicted
        ),
        "",
        "*Pareto Front* and *Best Trials* of optuna-dashboard ignore constraints; the figure *Front of ...* below them "
        "respects them.",
        "",
        NOTE_MARK,
    ]
    return "\n".join(lines)


def publish(study: optuna.Study, figures: Sequence[Figure], note: str | None = None) -> None:
    """Store figures, and a note where there is none that people wrote, so that optuna-dashboard shows them."""
    from optuna_dashboard import get_note, save_note, save_plotly_graph_object

    for index, figure in enumerate(figures):
        save_plotly_graph_object(study, figure, graph_object_id=f"{FIGURE_ID}-{index}" if index else FIGURE_ID)
    if note is None:
        return
    present = get_note(study)
    if (not present or NOTE_MARK in present) and present != note:
        save_note(study, note)


@contextmanager
def dashboard_server(
    storage: optuna.storages.BaseStorage, host: str, port: int, *, artifacts: Any = None
) -> Iterator[_Server]:
    """A server of optuna-dashboard that listens from now on; call ``serve_forever`` on it.

    Args:
        storage: an open study database.
        host: name or address to listen on; anyone who can reach it can read and change the studies.
        port: 1 to 65535, or 0 for any free one (see ``server_port``).
        artifacts: Optuna's artifact store with the bundles of the fronts; None for none.

    Raises:
        UserError: the port is in use or not allowed, or the host is not an address of this machine.
    """
    from optuna_dashboard import wsgi

    try:
        server = make_server(
            host, port, wsgi(storage, artifact_store=artifacts), server_class=_Server, handler_class=_QuietHandler
        )
    except OSError as error:
        raise UserError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another with --port or --host"
        ) from error
    except OverflowError as error:
        raise UserError(f"port {port} is outside 0 to 65535") from error
    try:
        yield server
    finally:
        server.server_close()


@contextmanager
def repeating(work: Callable[[], Any], seconds: float) -> Iterator[None]:
    """Do ``work`` every so many seconds while the block runs, in a thread of its own."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(seconds):
            work()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)
