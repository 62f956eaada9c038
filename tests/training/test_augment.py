"""Augmentation keeps images, labels and soft targets in register, and organs on their side."""

from __future__ import annotations

import numpy as np
import torch

from autocompress.training import augment

STILL = augment.Augmentation(rotation=0, scale=0, shift=0, gamma=0, contrast=0, brightness=0, noise=0)


def _disc(side: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centre, radius = side * 0.45, side * 0.25
    return (((rows + 0.5 - centre) ** 2 + (columns + 0.5 - centre) ** 2) < radius**2).float()


def test_nothing_asked_for_nothing_changed() -> None:
    rng = np.random.default_rng(0)
    images = torch.rand(4, 2, 16, 16)
    matrices = augment.draw_geometry(rng, 4, STILL)
    warped = augment.change_intensity(augment.warp(images, matrices), rng, STILL)
    assert torch.allclose(warped, images, atol=1e-5)


def test_images_labels_and_soft_targets_stay_in_register() -> None:
    # The same disc as image at 64, label at 128 and soft target at 32 must cover the same place afterwards.
    matrices = augment.draw_geometry(np.random.default_rng(1), 6, augment.Augmentation(rotation=30, shift=0.1))
    image = augment.warp(_disc(64).expand(6, 1, 64, 64), matrices)[:, 0] > 0.5
    label = augment.warp_labels(_disc(128).to(torch.uint8).expand(6, 128, 128), matrices)
    soft = augment.warp(_disc(32).expand(6, 1, 32, 32), matrices)[:, 0] > 0.5
    at_64 = label.float().reshape(6, 64, 2, 64, 2).mean(dim=(2, 4)) > 0.5
    wide = soft.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for other, least in ((at_64, 0.96), (wide, 0.9)):
        overlap = 2 * (image & other).sum() / (image.sum() + other.sum())
        assert overlap > least


def test_labels_keep_their_values() -> None:
    labels = torch.randint(0, 9, (5, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    warped = augment.warp_labels(labels, augment.draw_geometry(np.random.default_rng(2), 5, augment.Augmentation()))
    assert warped.dtype == torch.int64
    assert set(warped.unique().tolist()) <= set(range(9))


def test_no_mirroring_unless_asked_for() -> None:
    rng = np.random.default_rng(3)
    assert (torch.linalg.det(augment.draw_geometry(rng, 200, augment.Augmentation())[:, :, :2]) > 0).all()
    mirrored = augment.Augmentation(rotation=0, scale=0, shift=0, flip_horizontal=True)
    matrices = augment.draw_geometry(rng, 200, mirrored)
    flipped = torch.linalg.det(matrices[:, :, :2]) < 0
    assert 60 < flipped.sum() < 140
    image = torch.arange(8.0).expand(1, 1, 8, 8)
    chosen = matrices[flipped][:1]
    assert torch.allclose(augment.warp(image, chosen), image.flip(-1), atol=1e-5)


def test_intensities_stay_in_range() -> None:
    strong = augment.Augmentation(gamma=2.0, contrast=2.0, brightness=0.5, noise=0.5)
    changed = augment.change_intensity(torch.rand(8, 1, 16, 16), np.random.default_rng(4), strong)
    assert changed.min() >= 0
    assert changed.max() <= 1
