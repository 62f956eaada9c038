"""Using a bundle from Python: ``load(path).predict(array)``.

The model runs in ONNX Runtime, or an exported program in PyTorch, inside the caller's process. A search keeps every
engine in a process of its own, because it feeds them untried models; here one verified model serves its user, who
expects a plain function call. Where the bundle was made for another engine, its deployable file is what runs, and the
labels agree to within rounding. Figures in the manifest are always those of the engine that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autocompress.bundles.exported_program import is_exported_program, load_exported_program, read_exported_program
from autocompress.bundles.files import checked_file
from autocompress.bundles.manifest import Manifest, read_manifest
from autocompress.config import CompressionConfig
from autocompress.data.checks import unit_image
from autocompress.data.dataset import FloatArray, LabelArray
from autocompress.data.preprocess import to_native, to_network
from autocompress.errors import BundleError, UserError

if TYPE_CHECKING:
    from autocompress.hardware.targets import Target

REMOTE_BATCH = 32
"""Slices that are sent to another machine at once."""


class Bundle:
    """A bundle that was opened with `load`.

    Attributes:
        path: its folder.
        manifest: what it says about itself.
    """

    def __init__(
        self, path: Path, manifest: Manifest, run: Callable[[FloatArray], FloatArray], *, batch: int = 1
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._run = run
        self._batch = batch  # slices that `run` takes at once

    @property
    def config(self) -> CompressionConfig:
        """The compression configuration of the model."""
        return self.manifest.config

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class index; the first is the background."""
        return self.manifest.classes

    def predict(self, array: NDArray[Any]) -> LabelArray:
        """Segment one slice or a stack of slices of any size.

        Args:
            array: for a network of one channel: height x width, slices x height x width, or
                slices x 1 x height x width. For one of C channels: C x height x width, or
                slices x C x height x width. Floating point values are 0 to 1; unsigned integers are divided by the
                largest value of their type.

        Returns:
            Class indices at the size of the input: height x width for one slice, else slices x height x width.

        Raises:
            UserError: the shape, type or range of ``array`` does not fit the network.
        """
        slices, single = self._slices(np.asarray(array))
        labels = np.concatenate(list(self._labels(slices)))
        return labels[0] if single else labels

    def logits(self, inputs: FloatArray) -> FloatArray:
        """Run the network itself: N x channels x R x R in, N x classes x R x R out, R being the resolution.

        Raises:
            BundleError: the shape does not fit the network.
        """
        side = self.config.resolution
        expected = (self.manifest.in_channels, side, side)
        if inputs.ndim != 4 or inputs.shape[1:] != expected or inputs.shape[0] == 0:
            raise BundleError(f"network input has shape {inputs.shape} instead of N x {' x '.join(map(str, expected))}")
        parts = (inputs[start : start + self._batch] for start in range(0, len(inputs), self._batch))
        answers = [self._run(part.astype(np.float32)) for part in parts]
        return np.concatenate(answers).astype(np.float32, copy=False)

    def _labels(self, slices: FloatArray) -> Iterator[LabelArray]:
        """A few slices at a time: logits at the original size can be many times as large as the image."""
        height, width = slices.shape[-2:]
        for start in range(0, len(slices), self._batch):
            logits = self.logits(to_network(slices[start : start + self._batch], self.config.resolution))
            for one in logits:
                yield to_native(one[None], (height, width))

    def _slices(self, array: NDArray[Any]) -> tuple[FloatArray, bool]:
        """Slices x channels x height x width in 0 to 1, and whether the caller gave a single slice."""
        channels = self.manifest.in_channels
        if array.ndim == 2 and channels == 1:
            stack, single = array[None, None], True
        elif array.ndim == 3 and channels == 1:
            stack, single = array[:, None], False
        elif array.ndim == 3 and array.shape[0] == channels:
            stack, single = array[None], True
        elif array.ndim == 4 and array.shape[1] == channels:
            stack, single = array, False
        else:
            allowed = (
                "height x width, slices x height x width or slices x 1 x height x width"
                if channels == 1
                else f"{channels} x height x width or slices x {channels} x height x width"
            )
            raise BundleError(f"an array of shape {array.shape} does not fit this bundle; give {allowed}")
        if 0 in stack.shape:
            raise BundleError(f"an array of shape {array.shape} holds no pixels")
        # The same scaling as that of training images. Signed integers have one there too, but in an array they are
        # nearly always Hounsfield units or labels, which it would turn into an even grey.
        if np.issubdtype(array.dtype, np.signedinteger):
            raise BundleError(f"an array of type {array.dtype} has no fixed range; scale it to 0..1 as float32")
        return unit_image(stack, "the array"), single


def load(path: str | Path, *, threads: int | None = None) -> Bundle:
    """Open a bundle for use.

    The manifest and the checksum of the model file are checked; ``autocompress verify`` checks everything.

    Args:
        path: folder of the bundle.
        threads: threads of ONNX Runtime; all cores where None. For an exported program, PyTorch's in this process.

    Raises:
        BundleError: there is no bundle, or it is damaged.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, not {threads}")
    file = checked_file(folder, manifest, manifest.deployable_model.file)
    open_model = _program if is_exported_program(file) else _session
    return Bundle(folder, manifest, open_model(file, folder, manifest, threads))


def load_on(path: str | Path, target: Target) -> Bundle:
    """Open a bundle whose network runs on a target, such as a board that is reached over SSH.

    Args:
        path: folder of the bundle.
        target: with an engine for one of the bundle's model files.

    Raises:
        BundleError: there is no bundle, it is damaged, or the target has no engine for it.
    """
    from autocompress.bundles.serving import serving_on
    from autocompress.hardware.infer import EngineError, infer

    folder = Path(path)
    manifest = read_manifest(folder)
    serving = serving_on(folder, manifest, target)
    file = checked_file(folder, manifest, serving.model.file)

    def run(images: FloatArray) -> FloatArray:
        try:
            return next(infer(file, serving.engine, target, [images], precision=serving.precision))
        except EngineError as error:
            raise BundleError(f"{target.name}: {error}") from error

    return Bundle(folder, manifest, run, batch=REMOTE_BATCH)


def _session(file: Path, folder: Path, manifest: Manifest, threads: int | None) -> Callable[[FloatArray], FloatArray]:
    """An ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; they come as exceptions too
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(f"ONNX Runtime cannot load {file}: {reason}") from error
    side, names = manifest.config.resolution, manifest.preprocessing
    expected = [
        (names.input_name, [1, manifest.in_channels, side, side]),
        (names.output_name, [1, len(manifest.classes), side, side]),
    ]
    found = [(node.name, list(node.shape)) for node in [*session.get_inputs(), *session.get_outputs()]]
    if found != expected:
        raise BundleError(f"{folder}: the model has the inputs and outputs {found}, the manifest says {expected}")
    return lambda image: session.run(None, {names.input_name: image})[0]


def _program(file: Path, folder: Path, manifest: Manifest, threads: int | None) -> Callable[[FloatArray], FloatArray]:
    """An exported program in PyTorch."""
    program, side = read_exported_program(file), manifest.config.resolution
    expected = [(1, manifest.in_channels, side, side), (1, len(manifest.classes), side, side)]
    found = [program.input_shape, program.output_shape]
    if found != expected:
        raise BundleError(f"{folder}: the model takes and gives {found}, the manifest says {expected}")
    return load_exported_program(file, threads=threads)
