"""What a data set is to the rest of the package: cases in three splits, read as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]
FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.uint8]


@dataclass(frozen=True)
class Volume:
    """One case at its own resolution.

    Attributes:
        case: name of the case, unique in its split.
        image: slices x channels x height x width, float32 in 0..1.
        label: slices x height x width, uint8 class indices; 0 is the background.
        spacing: millimetres per voxel along (slice, row, column); ones where the format does not say.
    """

    case: str
    image: FloatArray
    label: LabelArray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class SliceSet:
    """Training slices at one resolution, ready for a network.

    Attributes:
        images: slices x channels x resolution x resolution, float32 in 0..1.
        labels: slices x label resolution x label resolution, uint8 class indices.
    """

    images: FloatArray
    labels: LabelArray


class Dataset(Protocol):
    """A data set with patients kept apart: no patient is in two splits.

    Attributes:
        name: short name for tables.
        class_names: one per class index, ``class_names[0]`` being the background.
        in_channels: channels of an image.
        fingerprint: hexadecimal digest that changes when data, splits or preparation change.
    """

    name: str
    class_names: tuple[str, ...]
    in_channels: int
    fingerprint: str

    def cases(self, split: Split) -> tuple[str, ...]:
        """Names of the cases of a split, in a fixed order."""
        ...

    def volumes(self, split: Split) -> Iterator[Volume]:
        """The cases of a split one after the other, at their own resolution."""
        ...

    def slices(self, resolution: int, label_resolution: int | None = None) -> SliceSet:
        """All training slices resized to squares; labels at ``label_resolution`` (``resolution`` by default)."""
        ...
