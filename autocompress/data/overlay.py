"""Pictures for people: slices with coloured labels and a legend."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress import paths
from autocompress.data.dataset import FloatArray, LabelArray
from autocompress.errors import DataError

# Told apart by colour-blind people as far as eight colours allow (after Okabe and Ito), bright on grey.
_BASE = (
    (0, 0, 0),
    (230, 60, 50),
    (0, 180, 110),
    (90, 185, 240),
    (20, 110, 200),
    (205, 120, 170),
    (245, 230, 70),
    (150, 90, 230),
    (235, 150, 0),
)
_ALPHA = 0.5


def colours(count: int) -> list[tuple[int, int, int]]:
    """A colour for each class index; the background's is black."""
    result = list(_BASE[:count])
    for index in range(len(result), count):
        # Beyond the chosen ones: steps of the golden ratio around the colour circle, in two brightnesses.
        hue, level = (index * 0.618034) % 1 * 6, 255 if index % 2 else 170
        ramp = [max(0.0, min(1.0, abs((hue + shift) % 6 - 3) - 1)) for shift in (0, 4, 2)]
        result.append((int(level * ramp[0]), int(level * ramp[1]), int(level * ramp[2])))
    return result


def blend(image: FloatArray, label: LabelArray | None) -> NDArray[np.uint8]:
    """Paint a label map over a slice.

    Args:
        image: C x H x W in 0..1; three channels are taken for colours, else the first is shown.
        label: H x W class indices, or None for the image alone.

    Returns:
        H x W x 3 uint8.
    """
    shown = image if len(image) == 3 else np.repeat(image[:1], 3, axis=0)
    picture = (np.clip(np.moveaxis(shown, 0, 2), 0, 1) * 255 + 0.5).astype(np.uint8)
    if label is None:
        return picture
    tint = np.array(colours(int(label.max(initial=0)) + 1), dtype=np.float32)[label]
    mixed = ((1 - _ALPHA) * picture + _ALPHA * tint + 0.5).astype(np.uint8)
    return np.where((label > 0)[..., None], mixed, picture)


def pick_slices(label: LabelArray, count: int) -> list[int]:
    """Slices worth a look: for ``count`` 1 the one with most classes, and among these most foreground; else spread
    over the labelled range."""
    filled = (label > 0).reshape(len(label), -1).sum(axis=1)
    labelled = np.flatnonzero(filled)
    if count <= 1:
        if not labelled.size:
            return [len(label) // 2]
        kinds = np.array([np.count_nonzero(np.bincount(one.ravel())) for one in label])
        return [int(np.lexsort((filled, kinds))[-1])]
    first, last = (int(labelled[0]), int(labelled[-1])) if labelled.size else (0, len(label) - 1)
    # Ends show little: sample inside the range.
    steps = (np.arange(count) + 0.5) / count * (last - first + 1) + first
    return sorted({int(step) for step in steps})


def write_overlay(
    path: str | Path,
    pixels: FloatArray,
    labels: LabelArray,
    class_names: Sequence[str],
    *,
    slices: int = 1,
    reference: LabelArray | None = None,
) -> None:
    """Write a PNG: image slices beside the same with labels (and the reference's, if given), above a legend.

    Args:
        path: of the PNG.
        pixels: S x C x H x W in 0..1.
        labels: S x H x W class indices.
        class_names: by class index, the background first.
        slices: how many of a volume; 1 takes the one with most classes and foreground.
        reference: S x H x W, shown in a third row.

    Raises:
        DataError: the file cannot be written.
    """
    chosen = pick_slices(labels if reference is None else np.maximum(labels, reference), slices)
    rows = [[blend(pixels[index], None) for index in chosen], [blend(pixels[index], labels[index]) for index in chosen]]
    titles = ["image", "prediction"]
    if reference is not None:
        rows.append([blend(pixels[index], reference[index]) for index in chosen])
        titles.append("reference")
    if len(chosen) == 1:  # one slice reads better side by side
        rows, titles = [[row[0] for row in rows]], ["   |   ".join(titles)]
    save_png(path, grid(rows, titles, class_names))


def grid(rows: Sequence[Sequence[NDArray[np.uint8]]], titles: Sequence[str], class_names: Sequence[str]) -> Any:
    """Tiles in titled rows above a legend, as a Pillow image."""
    from PIL import Image, ImageDraw

    tile = max(96, min(256, max(max(picture.shape[:2]) for row in rows for picture in row)))
    gap, line = 4, 18
    width = max(320, max(len(row) for row in rows) * (tile + gap) + gap)
    per_line = max(1, width // 150)
    entries = list(enumerate(class_names))[1:]
    legend = (len(entries) + per_line - 1) // per_line * line
    sheet = Image.new("RGB", (width, len(rows) * (tile + line + gap) + legend + 2 * gap), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    top = gap
    for title, row in zip(titles, rows, strict=True):
        draw.text((gap + 2, top + 3), title, fill=(220, 220, 220))
        for number, picture in enumerate(row):
            part = Image.fromarray(picture)
            part.thumbnail((tile, tile))
            if max(part.size) < tile:
                factor = tile / max(part.size)
                part = part.resize((int(part.width * factor), int(part.height * factor)), Image.Resampling.NEAREST)
            sheet.paste(part, (gap + number * (tile + gap), top + line))
        top += tile + line + gap
    tints = colours(len(class_names))
    for number, (index, name) in enumerate(entries):
        left, high = gap + number % per_line * 150, top + number // per_line * line
        draw.rectangle((left, high + 3, left + 11, high + 14), fill=tints[index])
        draw.text((left + 17, high + 3), name[:22], fill=(220, 220, 220))
    return sheet


def save_png(path: str | Path, image: Any) -> None:
    """Write a Pillow image in one step.

    Raises:
        DataError: the file cannot be written.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    try:
        paths.write_bytes(Path(path), buffer.getvalue())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
