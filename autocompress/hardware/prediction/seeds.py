"""Predictors for devices that nobody has measured yet: from published figures, or from a profile's peak numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autocompress.errors import UserError
from autocompress.hardware.prediction.fit import fit
from autocompress.hardware.prediction.predictor import Predictor
from autocompress.hardware.prediction.published import DATA, TABLE_5, Cell
from autocompress.hardware.prediction.roofline import Roofline
from autocompress.paths import read_json

if TYPE_CHECKING:
    from autocompress.specs.schemas import HardwareProfile

PUBLISHED_BASIS = (
    "published figures (Embedded-ViT, Table 5) of other software on this board; TensorRT may be far faster"
)
# The published software reaches 4 to 18 of the board's 236 GFLOPS in FP32, and half of that in FP16, where TensorRT
# uses up to 472: a thirtieth of the time is within reach. Slower than published by more than twice is unlikely.
_BELOW, _ABOVE = math.log(30.0), math.log(2.0)
# The memory of other software than was published; its coefficients only tell what fitted there from what did not.
_MEMORY = math.log(4.0)


@dataclass(frozen=True)
class PublishedCell:
    """A published figure beside what is predicted for it.

    Attributes:
        cell: of the paper's Table 5.
        predicted_ms: milliseconds for one image.
        predicted_bytes: memory that the published software needs.
    """

    cell: Cell
    predicted_ms: float
    predicted_bytes: int

    @property
    def published_ms(self) -> float | None:
        """Milliseconds for one image; None where the paper could not run it."""
        return None if self.cell.fps is None else 1000 / self.cell.fps

    @property
    def error(self) -> float | None:
        """Predicted / published - 1; None where nothing was published."""
        return None if self.published_ms is None else self.predicted_ms / self.published_ms - 1


@dataclass(frozen=True)
class PublishedFit:
    """How well the seed for the Jetson Nano explains what was published for it.

    Attributes:
        cells: in the order of the table.
    """

    cells: tuple[PublishedCell, ...]

    @property
    def in_fit(self) -> tuple[PublishedCell, ...]:
        """Cells that the coefficients were fitted to."""
        return tuple(each for each in self.cells if each.cell.in_fit)

    @property
    def held_out(self) -> tuple[PublishedCell, ...]:
        """Cells with a figure that the coefficients were not fitted to."""
        return tuple(each for each in self.cells if each.cell.fps is not None and not each.cell.in_fit)

    @property
    def in_fit_error(self) -> float:
        """Largest absolute error in the fit, as a share: 0.1 is 10 %."""
        return max(abs(each.error or 0.0) for each in self.in_fit)

    @property
    def held_out_error(self) -> float:
        """Largest absolute error outside the fit, as a share."""
        return max(abs(each.error or 0.0) for each in self.held_out)


def published_fit() -> PublishedFit:
    """The seed for the Jetson Nano beside the published figures, in the fit and held out.

    Raises:
        UserError: the package's data file is damaged.
    """
    known = {(each["family"], each["resolution"], each["precision"]): each for each in _data()["cells"]}
    try:
        return PublishedFit(
            tuple(
                PublishedCell(cell, float(found["predicted_ms"]), int(found["predicted_bytes"]))
                for cell in TABLE_5
                for found in [known[cell.family, cell.resolution, cell.precision]]
            )
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{DATA} is damaged ({error!r}); install the package again") from error


def seeded(profile: HardwareProfile) -> Predictor:
    """A predictor for a profile without measurements.

    For ``jetson-nano``, whichever engine: the published figures, with an interval that has room for better software.
    For all others: the profile's ``peak_gflops``, ``bandwidth_gbs`` and ``launch_us``, and an interval of a factor
    of 4 to each side.

    Args:
        profile: by its name and its figures.

    Raises:
        UserError: the package's data file is damaged.
    """
    if profile.name == "jetson-nano":
        roofline = Roofline.from_dict(_data()["roofline"])
        return Predictor(roofline, None, _BELOW, _ABOVE, _MEMORY, 0, PUBLISHED_BASIS)
    peaks = None if profile.peak_gflops is None else {str(name): rate for name, rate in profile.peak_gflops.items()}
    start = Roofline.from_profile(peaks, profile.bandwidth_gbs, profile.launch_us)
    return fit((), start, where=profile.name)


def _data() -> dict[str, Any]:
    content = read_json(DATA)
    if not isinstance(content, dict) or not {"cells", "roofline"} <= set(content):
        raise UserError(f"{DATA} is damaged; install the package again")
    return content
