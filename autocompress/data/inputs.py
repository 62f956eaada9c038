"""Single images and volumes in and label maps out, in the formats that people have."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autocompress import paths
from autocompress.data import checks
from autocompress.data.dataset import FloatArray, LabelArray
from autocompress.data.synapse import read_h5, read_npz
from autocompress.errors import DataError

Kind = Literal["npz", "h5", "nifti", "image"]
Scaling = Literal["unit", "integer", "hounsfield", "percentile"]

HOUNSFIELD_WINDOW = (-125.0, 275.0)
# Directions in which slices, rows and columns grow: upwards, to the back, to the patient's left. Shown as an image,
# the belly is up and the patient's right is on the left, as radiologists look at it.
ORIENTATION = "SPL"
NIFTI_ENDINGS = (".nii.gz", ".nii")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_MAX_CHANNELS = 4


@dataclass(frozen=True)
class Grid:
    """How a NIfTI file lays out its voxels, so that labels can be written back in the same way.

    Attributes:
        affine: 4 x 4, voxel indices to millimetres.
        shape: of the file's first three axes.
        axes: for slices, rows and columns the file's axis, and whether it runs against our direction.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    axes: tuple[tuple[int, bool], tuple[int, bool], tuple[int, bool]]

    def to_file(self, volume: NDArray[Any]) -> NDArray[Any]:
        """S x H x W to the file's own order of axes."""
        for position, (_, against) in enumerate(self.axes):
            if against:
                volume = np.flip(volume, position)
        return np.transpose(volume, np.argsort([axis for axis, _ in self.axes]))

    def from_file(self, array: NDArray[Any]) -> NDArray[Any]:
        """The file's first three axes to S x H x W (further axes stay behind)."""
        array = np.transpose(array, [*(axis for axis, _ in self.axes), *range(3, array.ndim)])
        for position, (_, against) in enumerate(self.axes):
            if against:
                array = np.flip(array, position)
        return array


@dataclass(frozen=True)
class InputImage:
    """An image or volume that was read from a file.

    Attributes:
        path: the file.
        kind: of the file's format.
        pixels: S x C x H x W float32 in 0..1; S is 1 for a single image.
        spacing: millimetres along (slice, row, column); ones where the format does not say.
        scaling: how the values came to 0..1: they were (``unit``), by the range of their integer type, by the
            abdominal window of Hounsfield units, or by the volume's percentiles 0.5 and 99.5 (MR and the like).
        label: S x H x W uint8 where the file holds a label too.
        grid: of a NIfTI file.
        flat: the file holds one slice without a slice axis.
    """

    path: Path
    kind: Kind
    pixels: FloatArray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scaling: Scaling = "unit"
    label: LabelArray | None = None
    grid: Grid | None = field(default=None, repr=False)
    flat: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, height and width: the shape of a label map that fits."""
        slices, _, height, width = self.pixels.shape
        return (slices, height, width)


def read_image(path: str | Path, *, in_channels: int | None = None) -> InputImage:
    """Read ``.npz``, ``.npy.h5``/``.h5`` (arrays ``image`` and perhaps ``label``), ``.nii``/``.nii.gz`` or an image.

    Args:
        path: the file.
        in_channels: channels that the network takes. It settles how an array of three axes without a label is
            meant, and a colour image is turned grey for a network of one channel, a grey one repeated for three.

    Raises:
        DataError: missing, damaged, of an unknown format, or not with so many channels.
    """
    path = Path(path)
    name = path.name.lower()
    try:
        if not path.exists():
            raise DataError(f"file not found: {path}")
        if path.is_dir():
            raise DataError(f"{path}: a folder; give one file")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if name.endswith(".npz"):
        image = _from_arrays(path, "npz", read_npz(path), in_channels)
    elif name.endswith(".h5"):
        image = _from_arrays(path, "h5", read_h5(path), in_channels)
    elif name.endswith(NIFTI_ENDINGS):
        image = _from_nifti(path)
    elif name.endswith(IMAGE_ENDINGS):
        pixels, integers = read_picture(path, in_channels)
        image = InputImage(path, "image", pixels[None], scaling="integer" if integers else "unit", flat=True)
    else:
        raise DataError(f"{path}: unknown format; known are .npz, .npy.h5, .nii.gz, .nii, {', '.join(IMAGE_ENDINGS)}")
    channels = image.pixels.shape[1]
    if in_channels is not None and channels != in_channels:
        raise DataError(f"{path}: {channels} channels, but the network takes {in_channels}")
    return image


def write_labels(path: str | Path, labels: LabelArray, source: InputImage) -> None:
    """Write a label map in the format that the path's ending names.

    ``.nii.gz`` and ``.nii`` keep the source's grid (axes, affine, shape); ``.npz`` and ``.npy.h5`` hold ``label``;
    ``.png`` holds one slice with the class index as the palette's index.

    Args:
        path: is overwritten in one step.
        labels: S x H x W uint8, of the source's shape.
        source: the image that was segmented.

    Raises:
        DataError: unknown ending, or a volume for a PNG, or the file cannot be written.
    """
    path = Path(path)
    if labels.shape != source.shape:
        raise ValueError(f"labels of shape {labels.shape} do not fit the image's {source.shape}")
    labels = np.ascontiguousarray(labels, dtype=np.uint8)
    plain = labels[0] if source.flat else labels
    name = path.name.lower()
    if name.endswith(NIFTI_ENDINGS):
        content = _nifti_bytes(labels, source)
        # A fixed time stamp: equal labels give equal files.
        content = gzip.compress(content, mtime=0) if name.endswith(".gz") else content
    elif name.endswith(".npz"):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, label=plain)
        content = buffer.getvalue()
    elif name.endswith(".h5"):
        content = _h5_bytes(plain)
    elif name.endswith(".png"):
        if len(labels) != 1:
            raise DataError(f"{path}: a PNG holds one slice, the input has {len(labels)}; write .nii.gz or .npz")
        content = _png_bytes(labels[0])
    else:
        raise DataError(f"{path}: cannot write labels in this format; known are .nii.gz, .nii, .npz, .npy.h5, .png")
    try:
        paths.write_bytes(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def read_nifti(path: Path) -> tuple[NDArray[Any], Grid, tuple[float, float, float]]:
    """Read a NIfTI file in our orientation.

    Returns:
        Values S x H x W, or S x H x W x C for a file of four axes; the grid; millimetres (slice, row, column).

    Raises:
        DataError: missing or damaged.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        file = nib.load(path)
        if not 2 <= len(file.shape) <= 4 or 0 in file.shape:
            raise DataError(f"{path}: {len(file.shape)} axes of shape {file.shape}, expected a volume of three")
        array = np.asanyarray(file.dataobj)
        array = array.reshape(*array.shape, *(1,) * (3 - array.ndim)) if array.ndim < 3 else array
        affine = np.asarray(file.affine, dtype=np.float64)
        # Our directions of slices, rows and columns as (world axis, sign); nibabel's world is right, front, up.
        codes = nib.orientations.axcodes2ornt(tuple(ORIENTATION))
        found = nib.orientations.io_orientation(affine)
    except FileNotFoundError as error:
        raise DataError(f"file not found: {path}") from error
    except DataError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, MemoryError, ImageFileError) as error:
        raise DataError(f"{path}: damaged NIfTI file ({' '.join(str(error).split())[:120]})") from error
    if not np.isfinite(found).all():
        raise DataError(f"{path}: its affine does not say how the axes lie in the body")
    axes = tuple(
        (int(np.flatnonzero(found[:, 0] == world)[0]), bool(found[found[:, 0] == world][0, 1] != sign))
        for world, sign in codes
    )
    grid = Grid(affine, (array.shape[0], array.shape[1], array.shape[2]), (axes[0], axes[1], axes[2]))
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    spacing = (float(sizes[axes[0][0]]), float(sizes[axes[1][0]]), float(sizes[axes[2][0]]))
    return grid.from_file(array), grid, spacing


def scale_intensities(raw: NDArray[Any], where: str) -> tuple[FloatArray, Scaling]:
    """Bring a medical volume to 0..1; the rule is chosen by its values and named in the answer.

    Values already in 0..1 stay. Bytes are scaled by their range. Values that reach -100 or lower are taken for
    Hounsfield units and clipped to -125..275, as in the Synapse literature. Anything else (MR) is scaled between
    its 0.5 and 99.5 percentiles.

    Raises:
        DataError: not finite, or not numbers.
    """
    if not (np.issubdtype(raw.dtype, np.number) and np.isrealobj(raw)):
        raise DataError(f"{where}: the image is of type {raw.dtype}, expected numbers")
    if raw.dtype == np.uint8:
        return checks.unit_image(raw, where), "integer"
    image: FloatArray = raw.astype(np.float32)
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low + high):
        raise DataError(f"{where}: the image has pixels that are NaN or infinite")
    scaling: Scaling = "unit"
    if low <= -100:
        (low, high), scaling = HOUNSFIELD_WINDOW, "hounsfield"
    elif low < 0 or high > 1:
        (low, high), scaling = (float(value) for value in np.percentile(image, (0.5, 99.5))), "percentile"
    else:
        return image, scaling
    image -= np.float32(low)
    image /= np.float32(max(high - low, 1e-6))
    return np.clip(image, 0, 1, out=image), scaling


def read_picture(path: Path, in_channels: int | None = None) -> tuple[FloatArray, bool]:
    """Read a PNG, JPEG, ... as C x H x W float32 in 0..1; also whether it held integers.

    Raises:
        DataError: missing or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            file.load()
            if file.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
                array = np.asarray(file)
                array = array.astype(np.uint16) if file.mode == "I" and array.max(initial=0) < 1 << 16 else array
            else:
                grey = file.mode in ("1", "L", "LA")
                mode = {1: "L", 3: "RGB"}.get(in_channels or 0, "L" if grey else "RGB")
                array = np.asarray(file.convert(mode))
    except FileNotFoundError as error:
        raise DataError(f"file not found: {path}") from error
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: damaged image file ({' '.join(str(error).split())[:120]})") from error
    array = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return np.ascontiguousarray(checks.unit_image(array, str(path))), bool(np.issubdtype(array.dtype, np.integer))


def _from_arrays(path: Path, kind: Kind, values: dict[str, NDArray[Any]], in_channels: int | None) -> InputImage:
    if "image" not in values:
        raise DataError(f"{path}: no array 'image'; found {', '.join(sorted(values)) or 'none that is known'}")
    raw, label = values["image"], values.get("label")
    scaling: Scaling = "integer" if np.issubdtype(raw.dtype, np.integer) else "unit"
    if label is not None:
        pixels, classes = checks.image_and_label(raw, label, str(path))
        return InputImage(path, kind, pixels, scaling=scaling, label=classes, flat=label.ndim == 2)
    stack, flat = _guess_axes(raw, kind, in_channels, path)
    return InputImage(path, kind, checks.unit_image(stack, str(path)), scaling=scaling, flat=flat)


def _guess_axes(raw: NDArray[Any], kind: Kind, in_channels: int | None, path: Path) -> tuple[NDArray[Any], bool]:
    """S x C x H x W of an image without a label, and whether it is one slice."""
    if raw.size == 0 or raw.ndim not in (2, 3, 4):
        raise DataError(f"{path}: an image of shape {raw.shape}, expected 2 to 4 axes with pixels")
    if raw.ndim == 2:
        return raw[None, None], True
    allowed = (in_channels,) if in_channels else tuple(range(1, _MAX_CHANNELS + 1))
    if raw.ndim == 4:
        return (np.moveaxis(raw, 3, 1) if raw.shape[3] in allowed else raw), False
    single = kind == "npz" and in_channels != 1
    if single and raw.shape[2] in allowed:
        return np.moveaxis(raw, 2, 0)[None], True
    if single and raw.shape[0] in allowed:
        return raw[None], True
    return raw[:, None], False


def _from_nifti(path: Path) -> InputImage:
    array, grid, spacing = read_nifti(path)
    scaled, scaling = scale_intensities(array, str(path))
    stack = np.moveaxis(scaled, 3, 1) if scaled.ndim == 4 else scaled[:, None]
    return InputImage(path, "nifti", np.ascontiguousarray(stack), spacing, scaling, grid=grid)


def _nifti_bytes(labels: LabelArray, source: InputImage) -> bytes:
    import nibabel as nib

    if source.grid is not None:
        array, affine = source.grid.to_file(labels), source.grid.affine
    else:
        # Our directions (up, back, left) in NIfTI's world of right, front, up.
        array = np.transpose(labels, (2, 1, 0))
        affine = np.diag([-source.spacing[2], -source.spacing[1], source.spacing[0], 1.0])
    image = nib.Nifti1Image(np.ascontiguousarray(array), affine)
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    return content


def _h5_bytes(labels: LabelArray) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("label", data=labels, compression="gzip")
    return buffer.getvalue()


def _png_bytes(labels: LabelArray) -> bytes:
    from PIL import Image

    from autocompress.data.overlay import colours

    image = Image.fromarray(labels)
    image = image.convert("P") if image.mode != "P" else image
    image.putdata(labels.ravel().tolist())
    image.putpalette([0, 0, 0, *(int(value) for colour in colours(256)[1:] for value in colour)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
