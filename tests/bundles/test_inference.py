from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from autocompress.bundles import Bundle, load
from autocompress.errors import BundleError, UserError

from .conftest import CLASSES, Parts


@pytest.fixture(scope="module")
def opened(template: Path) -> Bundle:
    return load(template, threads=1)


def by_torch(parts: Parts, stack: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The labels that PyTorch alone gives: slices x height x width in, the same out."""
    with torch.inference_mode():
        image = torch.from_numpy(stack[:, None])
        small = interpolate(image, size=(32, 32), mode="bilinear", antialias=True, align_corners=False)
        logits = parts.network(small)
        return interpolate(logits, size=stack.shape[1:], mode="bilinear", align_corners=False).argmax(1).numpy()


def test_labels_are_those_of_pytorch_at_the_image_s_own_size(opened: Bundle, parts: Parts) -> None:
    stack = np.random.default_rng(1).random((3, 70, 50), dtype=np.float32)
    labels = opened.predict(stack)
    assert labels.shape == (3, 70, 50)
    assert labels.dtype == np.uint8
    assert (labels == by_torch(parts, stack)).mean() > 0.999


def test_all_forms_of_one_image_give_the_same_labels(opened: Bundle) -> None:
    image = np.random.default_rng(2).integers(0, 256, (40, 60), dtype=np.uint8)
    labels = opened.predict(image)
    assert labels.shape == (40, 60)
    np.testing.assert_array_equal(opened.predict(image[None])[0], labels)
    np.testing.assert_array_equal(opened.predict(image[None, None])[0], labels)
    np.testing.assert_array_equal(opened.predict(image.astype(np.float32) / 255), labels)
    np.testing.assert_array_equal(opened.predict(image.astype(np.uint16) * 257), labels)
    np.testing.assert_array_equal(
        opened.predict(image[:, ::-1])[:, :], opened.predict(np.ascontiguousarray(image[:, ::-1]))
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 32, 32), np.float32), "shape .2, 3, 32, 32. does not fit"),
        (np.zeros(5, np.float32), "does not fit"),
        (np.zeros((0, 32, 32), np.float32), "no pixels"),
        (np.full((32, 32), 300.0, np.float32), "from 300 to 300"),
        (np.full((32, 32), np.nan, np.float32), "NaN"),
        (np.zeros((32, 32), np.int16), "int16 has no fixed range"),
        (np.zeros((32, 32), np.complex64), "complex64"),
        (np.array([["a"]]), "expected numbers"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(opened: Bundle, array: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        opened.predict(array)
    assert "\n" not in str(caught.value)


def test_a_loaded_bundle_says_what_it_is(opened: Bundle) -> None:
    assert opened.classes == CLASSES
    assert opened.config.levels == 2
    assert opened.manifest.metrics.dice == 81.5


def test_a_tampered_model_is_not_run(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="checksum"):
        load(bundle)


def test_a_truncated_model_is_one_line_even_with_mended_checksums(bundle: Path, edit: Callable[..., None]) -> None:
    data = (bundle / "model.onnx").read_bytes()[:5000]
    (bundle / "model.onnx").write_bytes(data)
    edit(lambda values: values.update(size_bytes=5000))
    with pytest.raises(BundleError, match="cannot load") as caught:
        load(bundle)
    assert "\n" not in str(caught.value)


def test_a_model_behind_a_link_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").rename(tmp_path / "model.onnx")
    (bundle / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="symbolic link"):
        load(bundle)


def test_classes_that_the_model_lacks_are_noticed(bundle: Path, edit: Callable[..., None]) -> None:
    edit(lambda values: values["classes"].append("liver"))
    with pytest.raises(BundleError, match="the manifest says"):
        load(bundle)


def test_no_threads_are_refused(template: Path) -> None:
    with pytest.raises(UserError, match="at least 1"):
        load(template, threads=0)
