from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autocompress.data.preprocess import resize_labels, to_native, to_network


@pytest.mark.parametrize(("height", "width", "side"), [(224, 224, 64), (37, 90, 64), (50, 224, 112), (33, 40, 96)])
def test_resizing_is_that_of_pytorch_with_antialiasing(height: int, width: int, side: int) -> None:
    image = np.random.default_rng(0).random((2, 3, height, width), dtype=np.float32)
    expected = F.interpolate(
        torch.from_numpy(image), (side, side), mode="bilinear", antialias=True, align_corners=False
    ).numpy()
    np.testing.assert_allclose(to_network(image, side), expected, atol=1e-5)


def test_a_fine_stripe_pattern_turns_grey_and_not_into_false_stripes() -> None:
    image = np.zeros((1, 256, 256), dtype=np.float32)
    image[:, :, ::2] = 1
    small = to_network(image, 60)
    assert np.abs(small - 0.5).max() < 0.1


def test_one_image_becomes_a_batch_of_one_and_is_not_changed() -> None:
    image = np.random.default_rng(0).random((1, 32, 32), dtype=np.float32)
    batch = to_network(image, 32)
    assert batch.shape == (1, 1, 32, 32)
    batch[:] = 0
    assert image.max() > 0.9


@pytest.mark.parametrize("shape", [(224, 224), (31, 57), (64, 64)])
def test_labels_are_the_argmax_of_interpolated_logits(shape: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).standard_normal((3, 5, 64, 64)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(logits), shape, mode="bilinear", antialias=True, align_corners=False)
    labels = to_native(logits, shape)
    assert labels.dtype == np.uint8
    # Ties within rounding may fall either way.
    assert (labels == expected.argmax(1).numpy()).mean() > 0.9999


def test_equal_logits_give_the_lowest_class() -> None:
    assert to_native(np.zeros((1, 4, 8, 8), dtype=np.float32), (16, 16)).max() == 0


def test_small_labels_hold_the_pixels_at_the_centres() -> None:
    label = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    assert resize_labels(label, 2)[0].tolist() == [[5, 7], [13, 15]]
    assert np.array_equal(resize_labels(label, 4), label)
    assert np.array_equal(resize_labels(label, 8)[0, ::2, ::2], label[0])


def test_a_structure_thinner_than_a_pixel_keeps_its_area() -> None:
    # A slanting line 3 pixels wide; at a twelfth of the resolution a majority vote would lose it.
    rows, columns = np.mgrid[0:480, 0:480]
    label = (np.abs(columns - 0.37 * rows - 100) < 1.6).astype(np.uint8)[None]
    small = resize_labels(label, 40)
    assert small.mean() == pytest.approx(label.mean(), rel=0.25)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="C x H x W"):
        to_network(np.zeros((8, 8), dtype=np.float32), 4)
    with pytest.raises(ValueError, match="logits"):
        to_native(np.zeros((2, 8, 8), dtype=np.float32), (4, 4))
