"""Synthetic abdominal bodies: organs as smooth shapes in millimetres, painted into a CT volume.

Everything is computed with additions, multiplications, divisions and square roots of float32 arrays, element by
element, from the raw numbers of a Philox generator. These are defined to the last bit, so a phantom is the same on
every machine and with every NumPy version; sines, exponentials, sums and matrix products would not be.

Coordinates: x grows to the patient's left (image right), y to the back (image down), z to the head; the origin is
the middle of the body at the lowest slice. Intensities are Hounsfield units until the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autocompress.data.dataset import LabelArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]

DEPTH, FIELD = 216.0, 360.0  # millimetres that a volume covers along z, and along x and y
WINDOW = (-125.0, 275.0)  # Hounsfield units that become 0..1, as in the Synapse literature
SUBSLICES = 3  # a slice averages this many thin ones: partial volume along z
MAX_WARP = 12.0

AORTA, GALLBLADDER, LEFT_KIDNEY, RIGHT_KIDNEY, LIVER, PANCREAS, SPLEEN, STOMACH = range(1, 9)


@dataclass(frozen=True)
class Phantom:
    """One synthetic patient.

    Attributes:
        image: slices x size x size, uint8; 0..255 stand for -125..275 HU.
        label: slices x size x size, uint8 Synapse class indices.
        spacing: millimetres along (slice, row, column).
    """

    image: NDArray[np.uint8]
    label: LabelArray
    spacing: Point


class Random:
    """Numbers from the raw stream of Philox, whose bits are guaranteed (those of NumPy's distributions are not)."""

    def __init__(self, seed: int, stream: int) -> None:
        self._bits = np.random.Philox(key=(seed << 32) + stream)

    def uniform(self, low: float, high: float) -> float:
        """One number in low..high."""
        return low + (high - low) * float(self._bits.random_raw() >> 11) / 2.0**53

    def about(self, centre: float, spread: float) -> float:
        """One number around a centre, at most ``spread`` away, more often near it."""
        return centre + spread * (self.uniform(-0.5, 0.5) + self.uniform(-0.5, 0.5))

    def near(self, point: Point, spread: float) -> Point:
        """One point around another."""
        return (self.about(point[0], spread), self.about(point[1], spread), self.about(point[2], spread))

    def chance(self, share: float) -> bool:
        """True in this share of the calls."""
        return self.uniform(0, 1) < share

    def filling(self, fluid: tuple[float, float], gas: float) -> float:
        """Hounsfield units of what fills a bowel: gas in a share of the cases, else within a range."""
        if self.chance(gas):
            return -900.0
        return self.uniform(*fluid)

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Independent, nearly normal numbers of mean 0 and deviation 1: sums of four 16-bit integers."""
        count = 1
        for side in shape:
            count *= side
        quarters = self._bits.random_raw(count).astype(np.uint64).view(np.uint16).reshape(count, 4)
        total = quarters[:, 0].astype(np.int32)
        for index in range(1, 4):
            total += quarters[:, index]
        return ((total - 131070).astype(np.float32) * np.float32(1 / 37837.2)).reshape(shape)


class Shape(Protocol):
    """A solid: signed distance to its surface (negative inside, roughly in mm), and a box that holds it."""

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance at points."""
        ...

    def box(self) -> tuple[Point, Point]:
        """Lowest and highest corner."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned in the x-y plane by ``turn`` and leaning in x along z by ``lean`` (both tangents)."""

    centre: Point
    radii: Point
    turn: float = 0.0
    lean: float = 0.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        dz = z - np.float32(self.centre[2])
        dx = x - np.float32(self.centre[0]) - np.float32(self.lean) * dz
        dy = y - np.float32(self.centre[1])
        if self.turn:
            half = self.turn / 2  # cosine and sine without trigonometry, to the last bit
            cosine, sine = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
            dx, dy = np.float32(cosine) * dx + np.float32(sine) * dy, np.float32(cosine) * dy - np.float32(sine) * dx
        near = np.zeros_like(dx)
        slope = np.zeros_like(dx)
        for offset, radius in zip((dx, dy, dz), self.radii, strict=True):
            scaled = offset * np.float32(1 / radius)
            near += scaled * scaled
            scaled *= np.float32(1 / radius)
            slope += scaled * scaled
        length = np.sqrt(near)
        return length * (length - np.float32(1)) / (np.sqrt(slope) + np.float32(1e-6))

    def box(self) -> tuple[Point, Point]:
        wide = max(self.radii[0], self.radii[1]) if self.turn else self.radii[0]
        deep = max(self.radii[0], self.radii[1]) if self.turn else self.radii[1]
        half = (wide + abs(self.lean) * self.radii[2], deep, self.radii[2])
        return _minus(self.centre, half), _plus(self.centre, half)


@dataclass(frozen=True)
class Tube:
    """A tube along points, its radius changing from point to point."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]
    blend: float = 6.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        result: Array | None = None
        for (start, end), (first, last) in zip(
            zip(self.points[:-1], self.points[1:], strict=True),
            zip(self.radii[:-1], self.radii[1:], strict=True),
            strict=True,
        ):
            piece = _capsule(x, y, z, start, end, first, last)
            result = piece if result is None else _union(result, piece, self.blend)
        if result is None:
            raise ValueError("a tube needs two points")
        return result

    def box(self) -> tuple[Point, Point]:
        wide = max(self.radii)
        low = tuple(min(point[axis] for point in self.points) - wide for axis in range(3))
        high = tuple(max(point[axis] for point in self.points) + wide for axis in range(3))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])


@dataclass(frozen=True)
class Column:
    """A rounded cylinder along z without ends; its box is the whole height."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    squareness: float = 0.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        u = (x - np.float32(self.centre[0])) * np.float32(1 / self.radii[0])
        v = (y - np.float32(self.centre[1])) * np.float32(1 / self.radii[1])
        u *= u
        v *= v
        length = np.sqrt(np.maximum(u + v - np.float32(self.squareness) * u * v, np.float32(0)))
        return (length - np.float32(1)) * np.float32(min(self.radii))

    def box(self) -> tuple[Point, Point]:
        (x, y), (a, b) = self.centre, self.radii
        grow = 1 + self.squareness
        return (x - a * grow, y - b * grow, -1e3), (x + a * grow, y + b * grow, 1e3)


@dataclass(frozen=True)
class Both:
    """What lies in both solids."""

    first: Shape
    second: Shape
    inset: float = 0.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        return np.maximum(self.first.distance(x, y, z), self.second.distance(x, y, z) + np.float32(self.inset))

    def box(self) -> tuple[Point, Point]:
        return self.first.box()


@dataclass(frozen=True)
class Less:
    """The first solid without the second."""

    first: Shape
    second: Shape
    gap: float = 0.0

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        return np.maximum(self.first.distance(x, y, z), np.float32(self.gap) - self.second.distance(x, y, z))

    def box(self) -> tuple[Point, Point]:
        return self.first.box()


@dataclass(frozen=True)
class Blend:
    """Several solids that flow into each other."""

    parts: tuple[Shape, ...]
    blend: float

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        result = self.parts[0].distance(x, y, z)
        for part in self.parts[1:]:
            result = _union(result, part.distance(x, y, z), self.blend)
        return result

    def box(self) -> tuple[Point, Point]:
        boxes = [part.box() for part in self.parts]
        low = tuple(min(box[0][axis] for box in boxes) for axis in range(3))
        high = tuple(max(box[1][axis] for box in boxes) for axis in range(3))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])


@dataclass(frozen=True)
class Grown:
    """A solid with a rim of so many millimetres."""

    inner: Shape
    rim: float

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        return self.inner.distance(x, y, z) - np.float32(self.rim)

    def box(self) -> tuple[Point, Point]:
        low, high = self.inner.box()
        half = (self.rim, self.rim, self.rim)
        return _minus(low, half), _plus(high, half)


class Canvas:
    """A volume of thin slices, with the body coordinates of every voxel."""

    def __init__(self, random: Random, slices: int, size: int, scale: Point, shift: Point) -> None:
        self.pixel = FIELD / size
        thin = slices * SUBSLICES
        self._scale, self._shift = scale, shift
        self._grids = (
            (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(self.pixel) - np.float32(FIELD / 2),
            (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(self.pixel) - np.float32(FIELD / 2),
            (np.arange(thin, dtype=np.float32) + np.float32(0.5)) * np.float32(DEPTH / thin),
        )
        shape = (thin, size, size)
        self.coordinates: list[Array] = []
        for axis, grid in enumerate(self._grids):
            plain = (grid - np.float32(shift[axis])) / np.float32(scale[axis])
            view = [1, 1, 1]
            view[2 - axis] = len(grid)
            # Two sizes of waves: whole organs move, and their outlines become uneven.
            warp = smooth_field(random, shape, (4, 6, 6)) * np.float32(8.5)
            warp += smooth_field(random, shape, (9, 14, 14)) * np.float32(3.5)
            self.coordinates.append(plain.reshape(view) + warp)
        self.hounsfield: Array = np.full(shape, -1000.0, dtype=np.float32)
        self.label: LabelArray = np.zeros(shape, dtype=np.uint8)
        self.texture = smooth_field(random, shape, (thin // 2, size // 3, size // 3))

    def paint(self, shape: Shape, hounsfield: float, label: int = 0, grain: float = 0.0) -> None:
        """Fill a solid with an intensity and a label; later ones cover earlier ones.

        A voxel that the surface cuts takes both intensities by their shares, and the label of the larger.
        """
        box = self._box(shape)
        if box is None:
            return
        x, y, z = (field[box] for field in self.coordinates)
        distance = shape.distance(x, y, z)
        share = np.clip(np.float32(0.5) - distance * np.float32(1 / self.pixel), np.float32(0), np.float32(1))
        target = self.hounsfield[box]
        value = np.float32(hounsfield) + np.float32(grain) * self.texture[box]
        target += share * (value - target)
        self.label[box][share > np.float32(0.5)] = label

    def _box(self, shape: Shape) -> tuple[slice, slice, slice] | None:
        low, high = shape.box()
        ranges: list[slice] = []
        for axis in (2, 1, 0):
            grid = self._grids[axis]
            first = (low[axis] - MAX_WARP) * self._scale[axis] + self._shift[axis]
            last = (high[axis] + MAX_WARP) * self._scale[axis] + self._shift[axis]
            start, stop = int((grid < first).sum()), int((grid <= last).sum())
            if start >= stop:
                return None
            ranges.append(slice(start, stop))
        return (ranges[0], ranges[1], ranges[2])


def smooth_field(random: Random, shape: tuple[int, int, int], cells: tuple[int, int, int]) -> Array:
    """Smooth random field within -1..1: a lattice of random numbers under quadratic B-splines."""
    lattice = np.clip(random.noise((cells[0] + 3, cells[1] + 3, cells[2] + 3)), -1.6, 1.6) * np.float32(1 / 1.6)
    field: Array = lattice
    for axis in range(3):
        position = (np.arange(shape[axis], dtype=np.float32) + np.float32(0.5)) * np.float32(cells[axis] / shape[axis])
        index = position.astype(np.int64)
        t = position - index.astype(np.float32)
        view = [1, 1, 1]
        view[axis] = shape[axis]
        t = t.reshape(view)
        rest = np.float32(1) - t
        field = (
            np.float32(0.5) * rest * rest * field.take(index, axis)
            + (np.float32(0.5) + t * rest) * field.take(index + 1, axis)
            + np.float32(0.5) * t * t * field.take(index + 2, axis)
        )
    return field


def make_patient(seed: int, number: int, slices: int, size: int) -> Phantom:
    """Make one patient.

    Args:
        seed: of the whole set.
        number: of the patient; a patient does not depend on the others.
        slices, size: of the volume; they change how finely a body is cut, not the body's proportions.
    """
    random = Random(seed, number)
    scale = (random.about(1.0, 0.13), random.about(1.0, 0.13), random.about(1.0, 0.12))
    shift = (random.about(0, 14), random.about(4, 12), random.about(0, 16))
    canvas = Canvas(random, slices, size, scale, shift)
    # Some have had theirs removed: every eighth, so that small splits hold a fair share of them.
    _Body(canvas, random, gallbladder=number % 8 != 5).paint()
    return Phantom(_develop(canvas, random, slices), canvas.label[1::SUBSLICES].copy(), _spacing(slices, size))


def _spacing(slices: int, size: int) -> Point:
    return (DEPTH / slices, FIELD / size, FIELD / size)


def _develop(canvas: Canvas, random: Random, slices: int) -> NDArray[np.uint8]:
    """Average thin slices, add noise as of a scanner, and apply the window."""
    thin = canvas.hounsfield
    volume = (thin[0::SUBSLICES] + thin[1::SUBSLICES] + thin[2::SUBSLICES]) * np.float32(1 / SUBSLICES)
    # Reconstruction blurs a little and correlates the noise of neighbours.
    volume = _smooth(volume)
    level = np.float32(random.uniform(14, 26))
    white = random.noise(volume.shape)
    volume += level * (np.float32(0.45) * white + np.float32(1.5) * _smooth(white))
    unit = (volume - np.float32(WINDOW[0])) * np.float32(1 / (WINDOW[1] - WINDOW[0]))
    return (np.clip(unit, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _smooth(volume: Array) -> Array:
    """In-plane 3 x 3 filter with weights 1 2 1 along each axis."""
    for axis in (1, 2):
        padded = np.concatenate(
            [volume.take([0], axis), volume, volume.take([volume.shape[axis] - 1], axis)], axis=axis
        )
        count = volume.shape[axis]
        before, after = padded.take(range(count), axis), padded.take(range(2, count + 2), axis)
        volume = (before + volume + volume + after) * np.float32(0.25)
    return volume


class _Body:
    """Paints one abdomen from the outside in."""

    def __init__(self, canvas: Canvas, random: Random, gallbladder: bool) -> None:
        self.canvas, self.random, self.gallbladder = canvas, random, gallbladder
        self.fat = random.uniform(8, 30)  # thickness under the skin
        self.wall = random.uniform(9, 14)  # abdominal muscles
        self.contrast = random.uniform(0.75, 1.2)  # how much contrast agent has arrived
        half = (170 - (30 - self.fat) * 0.6, 128 - (30 - self.fat) * 0.6)
        self.outline = Column((0, 0), half, 0.35)
        inner = (half[0] - self.fat - self.wall, half[1] - 0.8 * self.fat - self.wall - 9)
        self.muscle = Column((0, 2), (half[0] - self.fat, half[1] - 0.8 * self.fat), 0.35)
        self.cavity = Column((0, -10), inner, 0.3)
        self.stretch = (inner[0] / 130, inner[1] / 86)
        self.dome = Ellipsoid((0, -4, 118), (inner[0] * 1.06, inner[1] * 1.1, random.about(100, 8)))

    def place(self, point: Point, spread: float = 0.0) -> Point:
        """A point of the standard body in this one, with some chance."""
        x, y, z = self.random.near(point, spread) if spread else point
        return (x * self.stretch[0], y * self.stretch[1], z)

    def size(self, radii: Point, spread: float = 0.14) -> Point:
        """Radii of this patient's organ."""
        whole = self.random.about(1, spread)
        x, y, z = (radius * whole * self.random.about(1, spread / 2) for radius in radii)
        return (x, y, z)

    def tube(self, points: Sequence[Point], radii: Sequence[float], spread: float, blend: float = 6.0) -> Tube:
        """A tube of this patient; its points move together and a little apart."""
        offset = self.random.near((0, 0, 0), spread)
        placed = tuple(self.place(_plus(point, offset), spread / 2) for point in points)
        whole = self.random.about(1, 0.15)
        return Tube(placed, tuple(radius * whole for radius in radii), blend)

    def blood(self, level: float) -> float:
        """Hounsfield units of a vessel or organ that takes up contrast agent."""
        return 45 + (level - 45) * self.contrast + self.random.about(0, 6)

    def paint(self) -> None:
        """Paint everything, deep structures over shallow ones."""
        self._walls()
        self._lungs()
        self._bowel()
        self._liver()
        self._spleen()
        self._stomach()
        self._vessels_and_pancreas()
        if self.gallbladder:
            self._gallbladder()
        self._kidneys()
        self._bones()

    def _walls(self) -> None:
        paint = self.canvas.paint
        paint(self.outline, 30)
        paint(Grown(self.outline, -2.5), -102, grain=10)
        paint(self.muscle, 56, grain=14)
        for side in (-1, 1):  # the fat seam between the flat muscles and those of the back
            seam = [(side * 118.0, 40.0, -30.0), (side * 112.0, 52.0, 110.0), (side * 105.0, 60.0, 240.0)]
            paint(self.tube(seam, [4, 4, 3], 3), -95)
        paint(self.cavity, -98, grain=14)

    def _lungs(self) -> None:
        top = Ellipsoid((0, 0, 330), (400, 400, self.random.about(215, 10)))
        lung = Less(Both(Both(self.cavity, top), self.cavity, 1.0), self.dome, 3.0)
        self.canvas.paint(Both(Both(self.cavity, top), self.cavity, 0.0), -98)
        self.canvas.paint(lung, -860, grain=60)
        self.canvas.paint(Less(Both(Grown(self.dome, 2.5), Grown(self.cavity, 2)), self.dome), 55)
        heart = Ellipsoid(self.place((22, -34, 236), 6), self.size((58, 42, 34)))
        self.canvas.paint(Grown(heart, 4), -90)
        self.canvas.paint(heart, self.blood(125), grain=14)

    def _bowel(self) -> None:
        random, paint = self.random, self.canvas.paint
        for _ in range(15):  # loops of small bowel
            start = self.place((random.uniform(-88, 88), random.uniform(-66, 4), random.uniform(-15, 78)))
            points = [start]
            for _ in range(2):
                points.append(random.near(points[-1], 34))
            width = random.uniform(9, 14)
            loop = Both(Tube(tuple(points), (width,) * 3), self.cavity, 4)
            paint(loop, random.uniform(55, 100), grain=12)
            paint(Grown(loop, -3), random.filling((8, 45), gas=0.12), grain=10)
        colon = [
            [(-104.0, 18.0, -20.0), (-108.0, 14.0, 30.0), (-98.0, 0.0, 74.0)],
            [(-98.0, 0.0, 74.0), (-60.0, -62.0, 66.0), (0.0, -70.0, 54.0), (62.0, -60.0, 78.0), (104.0, -8.0, 122.0)],
            [(104.0, -8.0, 122.0), (112.0, 24.0, 60.0), (108.0, 26.0, -20.0)],
        ]
        for path in colon:
            part = Both(self.tube(path, [random.uniform(14, 22) for _ in path], 5), self.cavity, 3)
            paint(part, 48)
            paint(Grown(part, -3), random.filling((-40, 40), gas=0.4), grain=70)

    def _liver(self) -> None:
        random, paint = self.random, self.canvas.paint
        right = Ellipsoid(self.place((-66, -2, 140), 7), self.size((76, 80, 72)), lean=random.about(0.12, 0.12))
        left = Ellipsoid(self.place((4, -44, 164), 9), self.size((74, 36, 36), 0.25), turn=random.about(0, 0.3))
        under = Ellipsoid(self.place((10, 10, 66), 8), self.size((86, 96, 74)))
        whole = Both(Less(Both(Blend((right, left), 18), self.cavity, 3), under), self.dome, 3)
        level = self.blood(random.about(108, 14))
        paint(whole, level, LIVER, grain=9)
        for path in (
            [(-30.0, 6.0, 204.0), (-62.0, 4.0, 178.0), (-92.0, 8.0, 150.0)],
            [(-28.0, 2.0, 204.0), (-45.0, -30.0, 176.0), (-60.0, -52.0, 150.0)],
            [(-46.0, -12.0, 150.0), (-78.0, -8.0, 136.0), (-104.0, -14.0, 124.0)],
            [(-44.0, -14.0, 152.0), (-20.0, -36.0, 166.0), (14.0, -46.0, 170.0)],
        ):
            paint(Both(self.tube(path, [4.5, 3.8, 2.2], 6), whole, 3), self.blood(152), LIVER)
        if random.chance(0.35):  # cysts and metastases belong to the liver
            for _ in range(2):
                spot = Ellipsoid(self.place((-75, 0, 145), 38), self.size((9, 9, 9), 0.5))
                paint(Both(spot, whole, 5), random.uniform(5, 70), LIVER, grain=8)

    def _spleen(self) -> None:
        body = Ellipsoid(self.place((98, 24, 166), 6), self.size((40, 50, 52), 0.24), turn=self.random.about(-0.5, 0.3))
        hilum = Ellipsoid(self.place((60, -2, 166), 5), (38, 36, 80), turn=-0.4)
        spleen = Both(Less(Both(body, self.cavity, 3), hilum), self.dome, 3)
        self.canvas.paint(spleen, self.blood(self.random.about(122, 12)), SPLEEN, grain=9)

    def _stomach(self) -> None:
        random, paint = self.random, self.canvas.paint
        path = [
            (58.0, 4.0, 190.0),
            (64.0, -22.0, 162.0),
            (54.0, -50.0, 132.0),
            (14.0, -60.0, 112.0),
            (-24.0, -42.0, 112.0),
        ]
        filling = random.uniform(0.7, 1.15)
        tube = self.tube(path, [30 * filling, 29 * filling, 23 * filling, 18, 11], 8, 14)
        stomach = Both(Both(tube, self.cavity, 3), self.dome, 3)
        paint(stomach, random.uniform(60, 95), STOMACH, grain=12)
        inner = Grown(stomach, -random.uniform(4, 7))
        paint(inner, random.uniform(0, 55), STOMACH, grain=random.uniform(8, 40))
        if random.chance(0.65):  # air gathers at the front, over a level
            level = Column((0, self.place((0, random.uniform(-58, -30), 0))[1] - 100), (400, 100))
            paint(Both(inner, level), -950, STOMACH)

    def _vessels_and_pancreas(self) -> None:
        random, paint = self.random, self.canvas.paint
        c_loop = [
            (-30.0, -40.0, 110.0),
            (-50.0, -18.0, 96.0),
            (-46.0, 2.0, 70.0),
            (-8.0, 6.0, 60.0),
            (26.0, -4.0, 76.0),
        ]
        duodenum = self.tube(c_loop, [11, 12, 12, 10, 10], 5)
        paint(duodenum, random.uniform(70, 95), grain=12)
        paint(Grown(duodenum, -3.5), random.filling((5, 50), gas=0.15), grain=12)
        paint(
            self.tube(
                [(-20.0, 22.0, -40.0), (-21.0, 20.0, 90.0), (-27.0, 8.0, 200.0), (-24.0, 0.0, 250.0)],
                [10, 11, 12, 12],
                4,
            ),
            self.blood(128),
        )
        path = [
            (-34.0, 2.0, 82.0),
            (-26.0, -10.0, 98.0),
            (-2.0, -20.0, 110.0),
            (30.0, -8.0, 118.0),
            (64.0, 10.0, 132.0),
            (78.0, 16.0, 144.0),
        ]
        pancreas = self.tube(path, [13, 13, 9, 8.5, 9, 7], 6, 8)
        bed = Grown(pancreas, 2.5)
        paint(bed, -85, grain=12)
        paint(pancreas, self.blood(random.about(96, 12)), PANCREAS, grain=24)
        paint(
            self.tube(
                [(-6.0, -4.0, 40.0), (-8.0, -4.0, 100.0), (-34.0, -10.0, 130.0), (-50.0, -12.0, 150.0)], [6, 7, 7, 6], 3
            ),
            self.blood(150),
        )
        paint(
            self.tube(
                [(-8.0, -4.0, 104.0), (28.0, 6.0, 118.0), (66.0, 22.0, 138.0), (80.0, 24.0, 152.0)], [4, 4, 4, 4], 3
            ),
            self.blood(150),
        )
        aorta = self.tube([(7.0, 22.0, -50.0), (9.0, 22.0, 90.0), (11.0, 27.0, 250.0)], [8.5, 9.5, 11.5], 5)
        paint(Grown(aorta, 2.5), -80)
        for side in (-1, 1):  # crura of the diaphragm
            paint(self.tube([(side * 16.0 + 4, 34.0, 100.0), (side * 17.0 + 5, 28.0, 200.0)], [4, 5], 2), 58)
        paint(aorta, self.blood(158), AORTA, grain=4)
        if random.chance(0.4):  # calcified plaque in the wall
            paint(Both(Tube((self.place((0, 30, 60), 4), self.place((2, 32, 110), 4)), (4, 4)), aorta, -1), 420, AORTA)

    def _gallbladder(self) -> None:
        random, paint = self.random, self.canvas.paint
        neck, fundus = self.place((-36, -22, 112), 5), self.place((-52, -54, 84), 8)
        bladder = Tube((neck, _middle(neck, fundus), fundus), (6, 13, random.uniform(14, 19)), 6)
        paint(Grown(bladder, 2), 60)
        paint(bladder, random.uniform(0, 22), GALLBLADDER, grain=6)

    def _kidneys(self) -> None:
        random, paint = self.random, self.canvas.paint
        for side, label, height in ((1, LEFT_KIDNEY, 104.0), (-1, RIGHT_KIDNEY, 92.0)):
            centre = self.place((side * 62.0, 40.0, height), 8)
            radii = self.size((27, 25, 52), 0.16)
            lean = -side * random.uniform(0.08, 0.26)
            bean = Ellipsoid(centre, radii, turn=side * random.uniform(-0.2, 0.5), lean=lean)
            hilum = Ellipsoid(_plus(centre, (-side * radii[0] * 1.0, -7, 0)), (radii[0] * 0.72, 11, 21))
            kidney = Less(bean, hilum)
            paint(Grown(bean, 6), -98, grain=12)
            paint(kidney, self.blood(random.about(178, 14)), label, grain=10)
            paint(Both(Grown(bean, -9), kidney, 7), self.blood(140), label, grain=14)
            vessel = Tube(
                (_plus(centre, (-side * radii[0] * 0.4, -6, 0)), self.place((side * 14.0, 18.0, height + 4))), (4, 5)
            )
            paint(vessel, self.blood(140))

    def _bones(self) -> None:
        random, paint = self.random, self.canvas.paint
        for side in (-1, 1):
            paint(Ellipsoid(self.place((side * 40.0, 50.0, 20.0), 3), self.size((22, 22, 100))), 58, grain=10)
            paint(Both(Column((side * 36.0, 92.0), (33, 21)), self.muscle, 3), 54, grain=18)
        body = Column((0, 58), (23, 18))
        paint(Grown(body, 4), 58)
        paint(body, 330, grain=40)
        paint(Grown(body, -3), random.uniform(140, 210), grain=40)
        gap = 34.0
        start = random.uniform(0, gap)
        for index in range(8):  # discs between the vertebrae
            disc = Ellipsoid((0, 58, start + (index - 1) * gap), (30, 25, 6.5))
            paint(Both(disc, body), 80)
        arch = Column((0, 83), (14, 12))
        paint(arch, 300, grain=30)
        paint(Tube(((0, 88, -50), (0, 88, 300)), (7, 7)), 300)
        paint(Tube(((0, 98, -50), (0, 98, 300)), (4.5, 4.5)), 280)
        paint(Column((0, 82), (8.5, 8)), 22)
        for side in (-1, 1):
            for index in range(4):
                self._rib(side, 128.0 + 34 * index + random.uniform(-4, 4))

    def _rib(self, side: int, height: float) -> None:
        """From beside the spine around the flank, sinking to the front."""
        a, b = (radius + 4 for radius in self.cavity.radii)
        points: list[Point] = []
        for step in range(9):
            t = 1.15 - step * 0.28  # half-angle tangents run evenly enough around an ellipse
            cosine, sine = 2 * t / (1 + t * t), (1 - t * t) / (1 + t * t)
            points.append((side * a * sine, b * cosine - 10, height + 44 - 11 * step))
        chain = [Tube((one, two), (5, 5)) for one, two in pairwise(points[1:])]
        for piece in chain:
            self.canvas.paint(piece, 320)
            self.canvas.paint(Grown(piece, -2.2), 170)


def _capsule(x: Array, y: Array, z: Array, start: Point, end: Point, first: float, last: float) -> Array:
    axis = _minus(end, start)
    length = axis[0] ** 2 + axis[1] ** 2 + axis[2] ** 2 + 1e-6
    dx, dy, dz = x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2])
    along = dx * np.float32(axis[0] / length)
    along += dy * np.float32(axis[1] / length)
    along += dz * np.float32(axis[2] / length)
    along = np.clip(along, np.float32(0), np.float32(1))
    dx -= along * np.float32(axis[0])
    dy -= along * np.float32(axis[1])
    dz -= along * np.float32(axis[2])
    return np.sqrt(dx * dx + dy * dy + dz * dz) - (np.float32(first) + np.float32(last - first) * along)


def _union(one: Array, two: Array, blend: float) -> Array:
    """Smooth minimum, polynomial."""
    mix = np.maximum(np.float32(blend) - np.abs(one - two), np.float32(0)) * np.float32(1 / blend)
    return np.minimum(one, two) - mix * mix * np.float32(blend / 4)


def _plus(one: Point, two: Point) -> Point:
    return (one[0] + two[0], one[1] + two[1], one[2] + two[2])


def _minus(one: Point, two: Point) -> Point:
    return (one[0] - two[0], one[1] - two[1], one[2] - two[2])


def _middle(one: Point, two: Point) -> Point:
    return ((one[0] + two[0]) / 2, (one[1] + two[1]) / 2, (one[2] + two[2]) / 2)
