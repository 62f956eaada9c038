from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from autocompress.reports.html import html_report
from autocompress.reports.overlays import Example, Panel
from autocompress.reports.records import StudyView

PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Collects what a reader sees, and every address that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: set[str] = set()
        self.text = ""
        self._silent = self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("src", "href", "srcset", "data") if name in values]
        self.ids |= {values["id"] or ""} if "id" in values else set()
        self._silent = self._silent or tag in ("script", "style")
        if tag == "img":
            self.images.append(values)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._silent = self._silent and tag not in ("script", "style")
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data


@pytest.fixture
def example() -> Example:
    panels = (Panel("image", "", PNG), Panel("reference", "", PNG), Panel("trial 3", "0.41 ms", PNG))
    return Example("test case a, slice 1 of 2", panels, {"aorta": "rgb(1, 2, 3)"})


def test_the_page_needs_no_network(view: StudyView, example: Example) -> None:
    page = Page(html_report(view, [example]))
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    text = html_report(view, [example])
    assert not re.search(r"@import|url\(\s*['\"]?https?:", text.split("<script>")[0])


def test_the_page_holds_all_that_was_asked_for(view: StudyView, example: Example) -> None:
    page = Page(html_report(view, [example]))
    assert {"front", "members", "classes", "examples", "conditions", "time", "trials", "provenance"} <= page.ids
    member = next(row for row in page.rows if row[0] == "12" and "bundles/trial-012" in row)
    assert member[1:8] == ["64px L2 w0.25 depthwise fp32", "76.40", "74.20", "4.20", "1.90", "2.09", "526"]
    assert member[8] == "measured, openvino"
    assert ["12", "81.4", "56.4", "91.4"] in page.rows  # Dice of each class
    assert ["train", "8 min 00 s", "77.0 %"] in page.rows  # 480 of 623 s
    failed = next(row for row in page.rows if row[:2] == ["6", "failed"])
    assert failed[-1] == "training diverged"
    assert sum(len(row) == 9 for row in page.rows) == 1 + len(view.trials)
    assert ["foreign load", "0.003 to 0.007", "0.012", "0.018"] in page.rows
    assert ["torch", "2.13.0"] in page.rows
    assert "Some latencies of this front were not measured" in page.text
    assert "DeepSparse is for evaluation only." in page.text
    assert all(image["alt"] for image in page.images)
    assert len(page.images) == 3


def test_nothing_from_outside_becomes_markup(view: StudyView, example: Example) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    trials = tuple(replace(trial, reason=evil, engine=evil) for trial in view.trials)
    odd = replace(view, name=evil, dataset=evil, target=evil, trials=trials, notes=(evil,), classes=("a", evil))
    text = html_report(odd, [replace(example, title=evil)], examples_note=evil)
    assert "<script>alert" not in text
    assert "<img src=x" not in text


def test_a_study_without_anything_is_still_a_page(view: StudyView) -> None:
    empty = StudyView(name="new", folder="runs/new", family="unet", dataset="acdc", target="cpu")
    assert "The front is empty." in Page(html_report(empty)).text
    assert "No model meets the constraints" in Page(html_report(replace(view, front=()))).text
