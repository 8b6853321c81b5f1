"""Give a named dimension of an ONNX graph a size, without the onnx package.

TensorRT's parser checks while it parses that the cache has a fixed number of slots, so setting
the shapes of the parsed network's inputs comes too late. A device has no onnx package; but a
name and a size are two fields of one small message, and the bytes around it stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

#: Field numbers from ModelProto down to a Dimension: graph; inputs, outputs and inner values;
#: type; tensor type; shape; dimension (onnx.proto).
_PATH = ((7,), (11, 12, 13), (2,), (1,), (2,), (1,))
_DIM_VALUE, _DIM_PARAM = 1, 2
#: Wire types: how a field's value is written.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def set_dimension(model: bytes, name: str, size: int) -> bytes:
    """The model with ``size`` wherever a value's shape has the dimension ``name``.

    Args:
        model: a serialized ONNX ModelProto.

    Raises:
        ValueError: these are not the bytes of a protobuf message.
    """
    try:
        return _rewritten(model, name.encode(), size, 0)
    except IndexError:
        raise ValueError("the ONNX file is truncated") from None


def _rewritten(message: bytes, name: bytes, size: int, depth: int) -> bytes:
    if depth == len(_PATH):
        named = any(n == _DIM_PARAM and value == name for n, value, _ in _fields(message))
        return _tag(_DIM_VALUE, _VARINT) + _varint(size) if named else message
    parts = []
    for number, value, raw in _fields(message):
        if value is not None and number in _PATH[depth]:
            new = _rewritten(value, name, size, depth + 1)
            raw = _tag(number, _BYTES) + _varint(len(new)) + new
        parts.append(raw)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes | None, bytes]]:
    """Each field's number, its value if that is bytes, and all of its bytes."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        value = None
        kind = key & 7
        if kind == _VARINT:
            _, at = _read_varint(message, at)
        elif kind == _BYTES:
            length, at = _read_varint(message, at)
            value = message[at : at + length]
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("the ONNX file is not a protobuf message")
        if at > len(message):
            raise ValueError("the ONNX file is truncated")
        yield key >> 3, value, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)
