"""Give a named dimension of an ONNX graph a size, without the onnx package.

TensorRT's parser checks while it parses that the cache has a fixed number of slots, so setting
the shapes of the parsed network's inputs comes too late. A name and a size are two fields of one
small message, and the bytes around it stay as they are.
"""

from __future__ import annotations

from ...protobuf import bytes_field, fields, number_field

#: Field numbers from ModelProto down to a Dimension: graph; inputs, outputs and inner values;
#: type; tensor type; shape; dimension (onnx.proto).
_PATH = ((7,), (11, 12, 13), (2,), (1,), (2,), (1,))
_DIM_VALUE, _DIM_PARAM = 1, 2


def set_dimension(model: bytes, name: str, size: int) -> bytes:
    """The model with ``size`` wherever a value's shape has the dimension ``name``.

    Args:
        model: a serialized ONNX ModelProto.

    Raises:
        ValueError: these are not the bytes of a protobuf message.
    """
    return _rewritten(model, name.encode(), size, 0)


def _rewritten(message: bytes, name: bytes, size: int, depth: int) -> bytes:
    if depth == len(_PATH):
        named = any(n == _DIM_PARAM and value == name for n, value, _ in fields(message))
        return number_field(_DIM_VALUE, size) if named else message
    parts = []
    for number, value, raw in fields(message):
        if isinstance(value, bytes) and number in _PATH[depth]:
            raw = bytes_field(number, _rewritten(value, name, size, depth + 1))
        parts.append(raw)
    return b"".join(parts)
