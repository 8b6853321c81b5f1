"""Protocol Buffers' wire format, as far as ONNX files are rewritten: a device has no onnx package.

Field numbers are those of onnx.proto; the format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

#: Wire types: how a field's value is written.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field: its number, its value if that is bytes or a varint, all of its bytes."""

    number: int
    value: bytes | int | None
    raw: bytes


def fields(message: bytes) -> Iterator[Field]:
    """Each field of a message, in order.

    Raises:
        ValueError: these are not the bytes of a protobuf message.
    """
    try:
        yield from _fields(message)
    except IndexError:
        raise ValueError("the ONNX file is truncated") from None


def _fields(message: bytes) -> Iterator[Field]:
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        value: bytes | int | None = None
        kind = key & 7
        if kind == VARINT:
            value, at = _read_varint(message, at)
        elif kind == BYTES:
            length, at = _read_varint(message, at)
            value = message[at : at + length]
            at += length
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise ValueError("the ONNX file is not a protobuf message")
        if at > len(message):
            raise ValueError("the ONNX file is truncated")
        yield Field(key >> 3, value, message[start:at])


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def varint(value: int) -> bytes:
    """An unsigned number as it is written."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number_field(number: int, value: int) -> bytes:
    """A field whose value is an unsigned number."""
    return varint(number << 3 | VARINT) + varint(value)


def bytes_head(number: int, size: int) -> bytes:
    """What stands before the ``size`` bytes of a text or message."""
    return varint(number << 3 | BYTES) + varint(size)


def bytes_field(number: int, value: bytes) -> bytes:
    """A field whose value is a text or a message."""
    return bytes_head(number, len(value)) + value
