"""Image to network input, and logits back to labels: one way for training, evaluation and deployment.

Written with NumPy alone, so that a deployed model needs nothing else and every caller computes the same numbers.
Resizing is separable: two small matrices of interpolation weights, equal to those of
``torch.nn.functional.interpolate(mode="bilinear", antialias=True, align_corners=False)``.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autocompress.data.dataset import FloatArray, LabelArray


def to_network(image: FloatArray, resolution: int) -> FloatArray:
    """Resize images to the network's square input.

    Shrinking averages with a triangle as wide as two output pixels (antialiasing), growing is bilinear; the
    aspect ratio is not kept, as in the Synapse literature.

    Args:
        image: C x H x W or S x C x H x W, float32 in 0..1.
        resolution: side of the output in pixels.

    Returns:
        S x C x resolution x resolution, float32 in 0..1, contiguous; S is 1 for a single image.
    """
    stack = image[None] if image.ndim == 3 else image
    if stack.ndim != 4:
        raise ValueError(f"expected C x H x W or S x C x H x W, got shape {image.shape}")
    if stack.shape[2:] == (resolution, resolution):
        return np.array(stack, dtype=np.float32, order="C")
    resized = _resize(stack, (resolution, resolution))
    # Weights sum to one, so only rounding can leave the range.
    return np.clip(resized, 0.0, 1.0, out=resized)


def to_native(logits: FloatArray, shape: tuple[int, int]) -> LabelArray:
    """Turn network outputs into labels at the image's own resolution.

    The logits are interpolated, not the labels, so that a small output keeps smooth edges.

    Args:
        logits: S x K x R x R, float32, K at most 255.
        shape: (height, width) of the image.

    Returns:
        S x height x width, uint8 class indices; among equal logits the lowest index wins.
    """
    if logits.ndim != 4 or not 1 <= logits.shape[1] <= 255:
        raise ValueError(f"expected logits of shape S x K x R x R with at most 255 classes, got {logits.shape}")
    labels: LabelArray = np.zeros((logits.shape[0], *shape), dtype=np.uint8)
    for index, one in enumerate(np.asarray(logits, dtype=np.float32)):
        best = _resize(one[0], shape)
        for number in range(1, one.shape[0]):
            # Class by class: K full-size maps at once would cost K times the memory and gain no speed.
            score = _resize(one[number], shape)
            better = score > best
            labels[index][better] = number
            np.maximum(best, score, out=best)
    return labels


def resize_labels(labels: LabelArray, resolution: int) -> LabelArray:
    """Resize label maps to squares by taking the label at the centre of every output pixel.

    Against a majority vote, this keeps an organ's expected area: structures thinner than an output pixel thin out
    into dots instead of vanishing, so a network still learns how likely they are there.

    Args:
        labels: S x H x W, uint8.
        resolution: side of the output in pixels.
    """
    rows = _centres(labels.shape[1], resolution)
    columns = _centres(labels.shape[2], resolution)
    return np.ascontiguousarray(labels[:, rows[:, None], columns[None, :]])


def _resize(array: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resize the last two axes."""
    if array.shape[-2:] == shape:
        return np.array(array, dtype=np.float32)
    rows = _weights(array.shape[-2], shape[0])
    columns = _weights(array.shape[-1], shape[1])
    return np.matmul(np.matmul(rows, np.asarray(array, dtype=np.float32)), columns.T)


@lru_cache(maxsize=64)
def _weights(size: int, target: int) -> NDArray[np.float32]:
    """Interpolation matrix of shape target x size; rows sum to one."""
    scale = size / target
    support = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(size)[None, :] + 0.5 - centres[:, None]) / support
    if scale >= 1.0:
        weights = np.maximum(0.0, 1.0 - distance)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        # Growing: beyond the outermost centres the border is repeated.
        position = np.clip(centres - 0.5, 0, size - 1)
        low = np.minimum(position.astype(np.int64), size - 1)
        high = np.minimum(low + 1, size - 1)
        weights = np.zeros((target, size))
        index = np.arange(target)
        np.add.at(weights, (index, low), 1.0 - (position - low))
        np.add.at(weights, (index, high), position - low)
    result = weights.astype(np.float32)
    result.setflags(write=False)
    return result


def _centres(size: int, target: int) -> NDArray[np.int64]:
    return np.minimum(((np.arange(target) + 0.5) * size / target).astype(np.int64), size - 1)
