"""Pictures of what members of the front make of real images, beside the image and the reference."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autocompress.bundles import Bundle, load
from autocompress.data.dataset import Dataset, LabelArray, Split, Volume
from autocompress.data.overlay import blend, colours, pick_slices
from autocompress.reports import text
from autocompress.reports.records import StudyView, TrialView

# Pixels of a picture's longer side; a page with a dozen of them stays well below a megabyte.
_SIDE = 288


@dataclass(frozen=True)
class Panel:
    """One picture: ``png`` are the bytes of a PNG."""

    title: str
    detail: str
    png: bytes


@dataclass(frozen=True)
class Example:
    """One slice of one case: the image, the reference, then the prediction of each model.

    Attributes:
        colours: CSS colour of each class that can occur in the panels, without the background.
    """

    title: str
    panels: tuple[Panel, ...]
    colours: Mapping[str, str]


def choose_members(view: StudyView, count: int = 3) -> list[TrialView]:
    """Members of the front that have a bundle, spread from the fastest to the most accurate."""
    members = [trial for trial in view.front_trials if trial.bundle]
    places = np.linspace(0, len(members) - 1, min(count, len(members))).round().astype(int)
    return [members[place] for place in places]


def example_overlays(
    view: StudyView, dataset: Dataset, bundles: Path, *, members: int = 3, cases: int = 3
) -> list[Example]:
    """Segment the most telling slice of a few cases with a few members of the front.

    Test cases where the data set has them, else validation cases.

    Args:
        view: the study.
        dataset: the data that it was made on.
        bundles: folder to which the bundles' paths are relative.
        members: how many models.
        cases: how many cases, spread over the split.

    Raises:
        UserError: a bundle or a case cannot be read.
    """
    loaded = [(trial, load(bundles / str(trial.bundle))) for trial in choose_members(view, members)]
    split: Split = "test" if dataset.cases("test") else "validation"
    names = dataset.cases(split)
    if not loaded or not names:
        return []
    places = np.linspace(0, len(names) - 1, min(cases, len(names))).round().astype(int)
    wanted = {names[place] for place in places}
    examples = []
    for volume in dataset.volumes(split):
        if volume.case in wanted:
            examples.append(_example(volume, split, loaded, dataset.class_names))
        if len(examples) == len(wanted):
            break
    return examples


def _example(
    volume: Volume, split: Split, models: Sequence[tuple[TrialView, Bundle]], class_names: Sequence[str]
) -> Example:
    index = pick_slices(volume.label, 1)[0]
    image, reference = volume.image[index], volume.label[index]
    panels = [
        Panel("image", "", _png(blend(image, None))),
        Panel("reference", "", _png(blend(image, reference))),
    ]
    for trial, bundle in models:
        labels = bundle.predict(volume.image[index : index + 1])[0]
        latency = trial.latency_ms.get("p50")
        timing = f"{text.milliseconds(latency)} ms {'' if trial.measured else 'predicted, '}p50; " if latency else ""
        detail = f"{timing}Dice of this slice {text.number(_dice(labels, reference), 1)}"
        panels.append(Panel(f"trial {trial.number}, {trial.config.label}", detail, _png(blend(image, labels))))
    tints = colours(len(class_names))
    named = {name: f"rgb{tints[number]}" for number, name in enumerate(class_names) if number}
    return Example(f"{split} case {volume.case}, slice {index + 1} of {len(volume.label)}", tuple(panels), named)


def _dice(labels: LabelArray, reference: LabelArray) -> float | None:
    """Mean Dice in percent over the classes of the reference; None where the slice shows none."""
    scores = []
    for number in np.unique(reference[reference > 0]):
        ours, theirs = labels == number, reference == number
        scores.append(200 * float((ours & theirs).sum()) / float(ours.sum() + theirs.sum()))
    return sum(scores) / len(scores) if scores else None


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    image = Image.fromarray(picture)
    factor = _SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    # Small pictures are enlarged without smoothing, so that the model's own edges are seen.
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    buffer = io.BytesIO()
    image.resize(size, how).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
