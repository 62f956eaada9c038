"""Input and output of an ONNX file by the standard library alone."""

from typing import Any, Iterator, List, Tuple

from .errors import RefusedError


def onnx_interface(content: bytes) -> Tuple[str, List[Any], str]:
    """Name and shape of a model's first input and name of its first output, read from the bytes of an ONNX file.

    A free axis of the shape is None.

    Raises:
        RefusedError: the file is not ONNX, or its input is not float32.
    """
    try:
        graph = _field(_fields(memoryview(content)), 7)
        inner = list(_fields(graph))
        stored = {bytes(_field(_fields(tensor), 8)).decode() for number, tensor in inner if number == 5}
        given = [list(_fields(value)) for number, value in inner if number == 11]
        inputs = [value for value in given if bytes(_field(value, 1)).decode() not in stored]
        name = bytes(_field(inputs[0], 1)).decode()
        tensor = list(_fields(_field(_fields(_field(inputs[0], 2)), 1)))
        axes = [dict(_fields(axis)) for number, axis in _fields(_field(tensor, 2)) if number == 1]
        output = bytes(_field(_fields(_field(inner, 12)), 1)).decode()
    except (IndexError, ValueError, TypeError):
        raise RefusedError("the file is not an ONNX model with a tensor as its input")
    if _field(tensor, 1) != 1:
        raise RefusedError("the model's input must be float32")
    return name, [axis.get(1) for axis in axes], output


def _fields(data: Any) -> Iterator[Tuple[int, Any]]:
    """Numbers and values of the fields of a protobuf message; texts, bytes and messages are views of memory."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
        elif kind in (1, 2, 5):
            size, place = _varint(data, place) if kind == 2 else (8 if kind == 1 else 4, place)
            value = data[place : place + size]
            place += size
        else:
            raise ValueError("not protobuf")
        if place > len(data) or number == 0:
            raise ValueError("not protobuf")
        yield number, value


def _varint(data: Any, place: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _field(fields: Any, wanted: int) -> Any:
    """The first field of that number."""
    for number, value in fields:
        if number == wanted:
            return value
    raise ValueError("no field %d" % wanted)
