"""Arrays and .npy files by the standard library alone, for boards without NumPy."""

import array
import ast
import math
import os
import struct
from typing import Any, List, Tuple

from .errors import RefusedError


class Values:
    """float32 numbers with a shape, for hosts without NumPy: on a Jetson Nano it is missing or does not run.

    Attributes:
        shape: with a first axis of 1.
        numbers: an `array.array` of type ``f``.
        size: how many there are.
    """

    def __init__(self, shape: List[int], numbers: Any) -> None:
        self.shape = shape
        self.numbers = numbers
        self.size = len(numbers)


class _NpyFile:
    """A .npy file of N samples: its header, and where the values begin."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as stream:
            magic = stream.read(8)
            if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
                raise RefusedError("%s is not a .npy file" % os.path.basename(path))
            kind, width = ("<H", 2) if magic[6] == 1 else ("<I", 4)
            header = ast.literal_eval(stream.read(struct.unpack(kind, stream.read(width))[0]).decode())
            self.offset = stream.tell()
        if header["fortran_order"]:
            raise RefusedError("the values of %s are not in C order" % os.path.basename(path))
        self.dtype = "float32" if header["descr"] == "<f4" else header["descr"]
        self.shape = tuple(header["shape"])


class PlainArrays:
    """As `NumPyArrays`, but without NumPy."""

    @staticmethod
    def load(path: str) -> _NpyFile:
        return _NpyFile(path)

    @staticmethod
    def sample(array: _NpyFile, index: int) -> Values:
        numbers = number_array()
        count = product(array.shape[1:])
        with open(array.path, "rb") as stream:
            stream.seek(array.offset + 4 * count * index)
            numbers.fromfile(stream, count)
        return Values([1, *array.shape[1:]], numbers)

    @staticmethod
    def bad(output: Values) -> int:
        return sum(1 for value in output.numbers if not math.isfinite(value))

    @staticmethod
    def create(path: str, shape: Tuple[int, ...]) -> _NpyFile:
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }" % ", ".join(map(str, shape))
        # Values begin at a multiple of 64 bytes; 10 of them are the magic, the version and the header's length.
        header += " " * (-(len(header) + 11) % 64) + "\n"
        with open(path, "wb") as stream:
            stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        return _NpyFile(path)

    @staticmethod
    def put(written: _NpyFile, index: int, output: Values) -> None:
        with open(written.path, "r+b") as stream:
            stream.seek(written.offset + 4 * output.size * index)
            output.numbers.tofile(stream)

    @staticmethod
    def finish(written: _NpyFile) -> None:
        """Nothing is left to write."""


def number_array(values: Any = ()) -> Any:
    return array.array("f", values)


def product(sizes: Any) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
