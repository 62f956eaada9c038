"""Checks of raw arrays on their way in: what leaves here is float32 in 0..1 and uint8 class indices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.data.dataset import FloatArray, LabelArray
from autocompress.errors import DataError

MAX_CLASSES = 255
# Resampling and float32 rounding leave the unit range by less than this; more means another scale.
RANGE_TOLERANCE = 1e-3


def unit_image(raw: NDArray[Any], where: str) -> FloatArray:
    """Scale an image to 0..1: integers by the range of their type, floats must be in 0..1 already.

    Args:
        raw: any shape.
        where: the file, for messages.

    Raises:
        DataError: not numbers, not finite, or floats outside 0..1.
    """
    if raw.dtype == np.bool_:
        return raw.astype(np.float32)
    if np.issubdtype(raw.dtype, np.integer):
        limits = np.iinfo(raw.dtype)
        # float32 holds 16-bit integers exactly; wider ones need the detour.
        wide: NDArray[Any] = raw.astype(np.float32 if limits.bits <= 16 else np.float64)
        wide = wide - wide.dtype.type(limits.min)
        wide = wide / wide.dtype.type(float(limits.max) - float(limits.min))
        return wide.astype(np.float32, copy=False)
    if not np.issubdtype(raw.dtype, np.floating):
        raise DataError(f"{where}: the image is of type {raw.dtype}, expected numbers")
    image: FloatArray = raw.astype(np.float32)
    if image.size == 0:
        return image
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low + high):
        raise DataError(f"{where}: the image has pixels that are NaN or infinite")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise DataError(
            f"{where}: pixel values run from {low:g} to {high:g}, expected 0 to 1; "
            "scale them (CT: clip to -125..275 HU, then to 0..1) or store integers"
        )
    return np.clip(image, 0.0, 1.0, out=image)


def class_indices(raw: NDArray[Any], where: str) -> LabelArray:
    """Turn a label map of any number type into uint8.

    Raises:
        DataError: not numbers, fractions, negative, or beyond `MAX_CLASSES` classes.
    """
    if raw.dtype == np.bool_:
        return raw.astype(np.uint8)
    if not (np.issubdtype(raw.dtype, np.integer) or np.issubdtype(raw.dtype, np.floating)):
        raise DataError(f"{where}: the label is of type {raw.dtype}, expected whole numbers")
    if raw.size == 0:
        return raw.astype(np.uint8)
    low, high = raw.min(), raw.max()
    if not np.isfinite(float(low) + float(high)):
        raise DataError(f"{where}: the label has values that are NaN or infinite")
    if low < 0:
        raise DataError(f"{where}: the label has the negative value {low:g}; class indices start at 0")
    if high >= MAX_CLASSES:
        raise DataError(f"{where}: the label has the value {high:g}; at most {MAX_CLASSES} classes are supported")
    label: LabelArray = raw.astype(np.uint8)
    if np.issubdtype(raw.dtype, np.floating) and not np.array_equal(label, raw):
        raise DataError(f"{where}: the label has fractions; class indices are whole numbers")
    return label


def channels_first(image: NDArray[Any], label_shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """Bring an image to S x C x H x W beside a label of S x H x W.

    The image may lack channels (S x H x W) or have them last or second; without S, give label shape H x W and
    add the axis before.

    Raises:
        DataError: the image does not fit the label.
    """
    slices, height, width = label_shape
    if image.shape == label_shape:
        return image[:, None]
    if image.ndim == 4 and image.shape[:3] == label_shape:
        return np.moveaxis(image, 3, 1)
    if image.ndim == 4 and image.shape[0] == slices and image.shape[2:] == (height, width):
        return image
    # The leading 1 of a single slice is ours and would only confuse in the message.
    shown = (image.shape[1:], label_shape[1:]) if slices == 1 else (image.shape, label_shape)
    raise DataError(f"{where}: image shape {_by(shown[0])} does not fit label shape {_by(shown[1])}")


def image_and_label(image: NDArray[Any], label: NDArray[Any], where: str) -> tuple[FloatArray, LabelArray]:
    """Check a pair of one slice (label H x W) or one volume (label S x H x W).

    Returns:
        S x C x H x W float32 in 0..1 and S x H x W uint8; S is 1 for a slice.

    Raises:
        DataError: anything wrong with either, or between them.
    """
    if label.ndim not in (2, 3) or label.size == 0:
        raise DataError(f"{where}: the label has shape {_by(label.shape)}, expected height x width with pixels")
    if label.ndim == 2:
        image, label = image[None], label[None]
    scaled = unit_image(channels_first(image, label.shape, where), where)
    return np.ascontiguousarray(scaled), np.ascontiguousarray(class_indices(label, where))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "a single number"
