"""Describe a data set by reading all of it, and list every problem instead of stopping at the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.data import names, overlay
from autocompress.data.dataset import FloatArray, LabelArray, Split
from autocompress.data.folder import beyond, different_sizes
from autocompress.data.layout import Case, Layout, Part, hold_out
from autocompress.data.opening import locate, read_layout
from autocompress.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class SplitFacts:
    """Counts of one split; slices are those that could be read.

    Attributes:
        intensity: lowest, mean and highest pixel after scaling to 0..1; None where nothing could be read.
    """

    patients: int
    cases: int
    slices: int
    intensity: tuple[float, float, float] | None


@dataclass(frozen=True)
class ClassFacts:
    """How much of a class there is over all splits.

    Attributes:
        share: of all voxels, 0..1.
        cases: that hold at least one voxel of it.
    """

    index: int
    name: str
    share: float
    cases: int


@dataclass(frozen=True)
class Description:
    """What a data set holds.

    Attributes:
        source: as it was given.
        layout: ``synapse``, ``nifti`` or ``images``.
        channels: of an image; 0 where nothing could be read.
        splits: by name; validation as it is carved out with seed 0 and a fifth of the patients.
        classes: by class index, the background first.
        sizes: slices by size ("224x224": 746).
        spacings: cases by millimetres along slice, row and column ("9 x 1.88 x 1.88"); 1 x 1 x 1 means unknown.
        problems: everything that is wrong, one line each; a data set with problems cannot be searched with.
    """

    source: str
    layout: str
    channels: int
    splits: dict[str, SplitFacts]
    classes: tuple[ClassFacts, ...]
    sizes: dict[str, int]
    spacings: dict[str, int]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """Some lines for people."""
        channels = f"{self.channels} channel{'' if self.channels == 1 else 's'}"
        lines = [f"{self.source}: {self.layout} layout, {len(self.classes)} classes, {channels}", ""]
        lines.append(f"{'split':<12}{'patients':>9}{'cases':>7}{'slices':>8}   intensity (low, mean, high)")
        for name, split in self.splits.items():
            numbers = "-" if split.intensity is None else "  ".join(f"{value:.3f}" for value in split.intensity)
            lines.append(f"{name:<12}{split.patients:>9}{split.cases:>7}{split.slices:>8}   {numbers}")
        lines += ["", f"{'class':<28}{'voxels':>9}{'cases':>7}"]
        for entry in self.classes:
            lines.append(f"{entry.index:>3} {entry.name:<24}{100 * entry.share:>8.3f}%{entry.cases:>7}")
        lines += ["", "sizes     " + _counted(self.sizes, "slices"), "spacing   " + _counted(self.spacings, "cases")]
        lines += ["", f"{len(self.problems)} problem(s) found" if self.problems else "no problems found"]
        lines += [f"  - {problem}" for problem in self.problems[:_SHOWN_PROBLEMS]]
        if len(self.problems) > _SHOWN_PROBLEMS:
            lines.append(f"  ... and {len(self.problems) - _SHOWN_PROBLEMS} more (--json lists all)")
        return "\n".join(lines)


def describe(source: str) -> Description:
    """Read a whole data set, test volumes included, and describe it.

    Raises:
        DataError: there is nothing to describe: not found, no known layout, or no readable lists.
    """
    root, _ = locate(source)
    layout = read_layout(root)
    problems = list(layout.problems)
    try:
        given = names.from_folder(root)
    except DataError as error:
        problems.append(str(error))
        given = ()
    train, validation = hold_out(layout.train, 0.2, "0")
    cases: dict[str, Sequence[Case]] = {"train": train, "validation": validation, "test": layout.test}
    counter = _Counter(layout, problems)
    splits: dict[str, SplitFacts] = {name: counter.split(cases[name]) for name in SPLITS}
    class_names = _names(layout, given, counter, problems)
    share = counter.voxels / max(1, counter.voxels.sum())
    classes = tuple(
        ClassFacts(index, name, float(share[index]), counter.cases[index]) for index, name in enumerate(class_names)
    )
    for entry in classes:
        if not entry.cases and counter.voxels.any():
            problems.append(f"class {entry.index} ({entry.name}) occurs nowhere")
    return Description(
        source=source,
        layout=layout.kind,
        channels=counter.channels,
        splits=splits,
        classes=classes,
        sizes=dict(counter.sizes.most_common()),
        spacings=dict(counter.spacings.most_common()),
        problems=tuple(problems),
    )


def contact_sheet(source: str, out: Path) -> None:
    """Write a PNG with slices of some cases of every split, with their labels below, and a legend.

    Raises:
        DataError: as `describe`, or nothing readable, or the file cannot be written.
    """
    root, _ = locate(source)
    layout = read_layout(root)
    train, validation = hold_out(layout.train, 0.2, "0")
    rows: list[list[NDArray[np.uint8]]] = []
    titles: list[str] = []
    highest = 0
    for split, cases in (("train", train), ("validation", validation), ("test", layout.test)):
        tiles, shown = _tiles(layout, cases)
        if not tiles:
            continue
        rows += [[overlay.blend(image, None) for image, _ in tiles], [overlay.blend(*tile) for tile in tiles]]
        titles += [f"{split}: {', '.join(shown)}", ""]
        highest = max(highest, *(int(label.max()) for _, label in tiles))
    if not rows:
        raise DataError(f"{source}: no case could be read, so there is nothing to show")
    try:
        class_names = names.from_folder(root) or layout.class_names
    except DataError:
        class_names = ()
    if len(class_names) <= highest:
        class_names = names.numbered(highest + 1)
    overlay.save_png(out, overlay.grid(rows, titles, class_names))


class _Counter:
    """Sums over all parts that can be read; what cannot be becomes a problem."""

    def __init__(self, layout: Layout, problems: list[str]) -> None:
        self._layout, self._problems = layout, problems
        self.voxels: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        self.cases: Counter[int] = Counter()
        self.sizes: Counter[str] = Counter()
        self.spacings: Counter[str] = Counter()
        self.channels = 0
        self.highest_by_file: dict[tuple[Path, ...], int] = {}

    def split(self, cases: Sequence[Case]) -> SplitFacts:
        """Read the cases of a split."""
        low, high, total, pixels, slices = np.inf, -np.inf, 0.0, 0, 0
        for case in cases:
            counts: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
            sizes: dict[tuple[int, ...], Path] = {}
            spacing = None
            for files, part in self._readable(case):
                counts += np.bincount(part.label.ravel(), minlength=256)
                self.highest_by_file[files] = int(part.label.max())
                sizes.setdefault(part.label.shape[1:], files[0])
                self.sizes["x".join(map(str, part.label.shape[1:]))] += len(part.label)
                spacing = part.spacing
                slices += len(part.label)
                low, high = min(low, float(part.image.min())), max(high, float(part.image.max()))
                total, pixels = total + float(part.image.sum(dtype=np.float64)), pixels + part.image.size
            if spacing is None:
                continue
            self.spacings[" x ".join(f"{value:.3g}" for value in spacing)] += 1
            if len(sizes) > 1:
                self._problems.append(different_sizes(sizes))
            if not counts[1:].any():
                self._problems.append(f"{case.parts[0][-1]}: the label of case {case.name} is empty")
            self.voxels += counts
            self.cases.update(int(index) for index in np.flatnonzero(counts))
        return SplitFacts(
            patients=len({case.patient for case in cases}),
            cases=len(cases),
            slices=slices,
            intensity=(low, total / pixels, high) if pixels else None,
        )

    def _readable(self, case: Case) -> Iterator[tuple[tuple[Path, ...], Part]]:
        for files in case.parts:
            try:
                part = self._layout.read(files)
            except DataError as error:
                self._problems.append(str(error))
                continue
            channels = part.image.shape[1]
            self.channels = self.channels or channels
            if channels != self.channels:
                self._problems.append(f"{files[0]}: {channels} channels, the first file has {self.channels}")
            yield files, part


def _names(layout: Layout, given: Sequence[str], counter: _Counter, problems: list[str]) -> Sequence[str]:
    """Class names as `open_dataset` would find them; values beyond them become problems."""
    in_training = {files for case in layout.train for files in case.parts}
    highest = max((value for files, value in counter.highest_by_file.items() if files in in_training), default=0)
    if not given:
        given = layout.class_names if highest + 1 == len(layout.class_names) else names.numbered(highest + 1)
    for files, value in counter.highest_by_file.items():
        if value >= len(given):
            problems.append(beyond(files, value, len(given)))
    return given


def _tiles(
    layout: Layout, cases: Sequence[Case], count: int = 6
) -> tuple[list[tuple[FloatArray, LabelArray]], list[str]]:
    """One or more labelled slices of evenly chosen cases, and the cases' names."""
    chosen = list(cases) if len(cases) <= count else [cases[int(i * len(cases) / count)] for i in range(count)]
    per_case = max(1, count // max(1, len(chosen)))
    tiles: list[tuple[FloatArray, LabelArray]] = []
    shown: list[str] = []
    for case in chosen:
        images, labels = [], []
        for files in case.parts:
            try:
                part = layout.read(files)
            except DataError:
                continue
            images += list(part.image)
            labels += list(part.label)
        if not labels or len({label.shape for label in labels}) > 1:
            continue
        picked = overlay.pick_slices(np.stack(labels), per_case)
        tiles += [(images[index], labels[index]) for index in picked]
        shown.append(case.name)
    return tiles, shown


def _counted(counts: dict[str, int], what: str) -> str:
    """The most frequent values with their counts."""
    shown = [f"{value} ({count} {what})" for value, count in list(counts.items())[:4]]
    more = [f"{len(counts) - 4} more"] if len(counts) > 4 else []
    return ", ".join(shown + more) or "-"
