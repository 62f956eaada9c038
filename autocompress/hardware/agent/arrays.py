"""Files of samples and outputs: float32 in .npy, N first."""

from typing import Any, Tuple


class NumPyArrays:
    """By NumPy, for engines that bring it."""

    @staticmethod
    def load(path: str) -> Any:
        """What has `shape` and `dtype`; the values are read with `sample`."""
        import numpy

        return numpy.load(path, mmap_mode="r", allow_pickle=False)

    @staticmethod
    def sample(array: Any, index: int) -> Any:
        """One sample of `load`, with a first axis of 1."""
        import numpy

        return numpy.ascontiguousarray(array[index : index + 1])

    @staticmethod
    def bad(output: Any) -> int:
        """How many values are NaN or infinite."""
        import numpy

        return int(output.size - numpy.isfinite(output).sum())

    @staticmethod
    def create(path: str, shape: Tuple[int, ...]) -> Any:
        """A new file for so many outputs."""
        import numpy

        return numpy.lib.format.open_memmap(path, mode="w+", dtype=numpy.float32, shape=shape)

    @staticmethod
    def put(written: Any, index: int, output: Any) -> None:
        """Write one output into the file of `create`."""
        written[index] = output[0]

    @staticmethod
    def finish(written: Any) -> None:
        """Have everything in the file."""
        written.flush()


def shape_text(shape: Any) -> str:
    return "x".join(str(each) if isinstance(each, int) else "?" for each in shape)
