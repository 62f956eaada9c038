from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from autocompress.reports.records import StudyView
from autocompress.reports.tables import front_table


def printed(view: StudyView, width: int) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(front_table(view))
    return stream.getvalue()


def test_the_table_holds_the_figures_of_the_front(view: StudyView) -> None:
    told = printed(view, 160)
    row = next(line for line in told.splitlines() if line.strip().startswith("12 "))
    for figure in (
        "64px L2 w0.25 depthwise fp32",
        "76.40",
        "74.20",
        "1.90",
        "2.09",
        "526",
        "250 k",
        "0.320",
        "1 MB",
        "openvino",
    ):
        assert figure in row
    assert "fp32, predicted, onnxruntime" in told


def test_what_all_members_share_is_in_the_title_and_eighty_columns_suffice(view: StudyView) -> None:
    same = replace(view, trials=tuple(replace(trial, engine="onnxruntime", measured=False) for trial in view.trials))
    told = printed(same, 80)
    assert "(predicted, onnxruntime)" in told
    assert "…" not in told
    for row in ("61.20", "500 kB", "2 MB"):
        assert row in told


def test_an_empty_front_is_an_empty_table(view: StudyView) -> None:
    assert "organs" in printed(replace(view, front=()), 80)
