"""In which other files do the weights of an ONNX file lie?

Rendering needs no ``onnx`` package, and ONNX Runtime does not tell, so the file's own messages are walked, as far as
tensors can lie in them. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

# Message -> field -> message; all other fields hold no tensor.
MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def external_locations(model: bytes) -> list[str]:
    """Find the files that an ONNX file names as places of its tensors.

    Parameters
    ----------
    model : the whole file.

    Returns
    -------
    Each once, sorted; paths are relative to the file's folder.

    Raises
    ------
    ValueError
        It is no protobuf message.
    """
    return sorted(set(_locations(memoryview(model), "model")))


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    if kind == "entry":
        entry = {number: bytes(content) for number, content in _fields(message)}
        if entry.get(1) == b"location":
            yield entry.get(2, b"").decode()
        return
    inside = MESSAGES[kind]
    for number, content in _fields(message):
        if number in inside:
            yield from _locations(content, inside[number])


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of those fields of a protobuf message that have a length."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            _, at = _varint(message, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(message, at)
            yield key >> 3, message[at : at + size]
            at += size
        else:
            raise ValueError(f"no field has wire type {wire}")
    if at != len(message):
        raise ValueError("a field ends behind its message")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte; return it and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            break
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number has no end")
