from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from autocompress.data.dataset import Split, Volume
from autocompress.reports.overlays import choose_members, example_overlays
from autocompress.reports.records import StudyView

from ..bundles.conftest import CLASSES, Parts


class Data:
    """Three cases of four slices; the third slice shows the most."""

    name, class_names, in_channels, fingerprint = "data", CLASSES, 1, "ab"

    def __init__(self, tests: tuple[str, ...] = ("a", "b", "c")) -> None:
        self.tests = tests

    def cases(self, split: Split) -> tuple[str, ...]:
        return self.tests if split == "test" else ("v",)

    def volumes(self, split: Split) -> Iterator[Volume]:
        for case in self.cases(split):
            label = np.zeros((4, 40, 60), np.uint8)
            label[2, 10:30, 10:30] = 2
            label[1, 10:12, 10:12] = 1
            yield Volume(case, np.random.default_rng(0).random((4, 1, 40, 60), dtype=np.float32), label)


def with_bundles(view: StudyView, parts: Parts, folder: Path) -> StudyView:
    parts.write(folder / "bundle")
    return replace(
        view, trials=tuple(replace(trial, bundle="bundle" if trial.bundle else None) for trial in view.trials)
    )


def test_members_are_spread_over_the_front(view: StudyView) -> None:
    assert [trial.number for trial in choose_members(view, 2)] == [3, 18]
    assert [trial.number for trial in choose_members(view, 9)] == [3, 7, 12, 18]
    assert choose_members(replace(view, front=())) == []


def test_examples_show_image_reference_and_predictions(view: StudyView, parts: Parts, tmp_path: Path) -> None:
    studied = with_bundles(view, parts, tmp_path)
    examples = example_overlays(studied, Data(), tmp_path, members=2, cases=2)
    assert [example.title for example in examples] == ["test case a, slice 3 of 4", "test case c, slice 3 of 4"]
    titles = [panel.title.split(",")[0] for panel in examples[0].panels]
    assert titles == ["image", "reference", "trial 3", "trial 18"]
    assert "predicted" in examples[0].panels[3].detail
    assert "Dice of this slice" in examples[0].panels[2].detail
    pictures = [np.asarray(Image.open(io.BytesIO(panel.png))) for panel in examples[0].panels]
    assert pictures[0].shape == (192, 288, 3)  # 40 x 60 enlarged to a longer side of 288
    assert not np.array_equal(pictures[0], pictures[1])
    assert set(examples[0].colours) == set(CLASSES[1:])


def test_validation_cases_stand_in_where_there_is_no_test(view: StudyView, parts: Parts, tmp_path: Path) -> None:
    (example,) = example_overlays(with_bundles(view, parts, tmp_path), Data(()), tmp_path)
    assert example.title.startswith("validation case v")
