"""4 bit weights that a graph computes with as int8, unpacked before ONNX Runtime reads the graph.

Nodes of such a graph make int8 of each weight: ``Cast`` to floats, then ``QuantizeLinear`` by each
block's scale (quantize/passes/dynamic_quant.py). ONNX Runtime folds them when it loads, and keeps
all floats, eight times the file, until the last one is folded. Here a block is unpacked at a time,
to the same numbers, and the graph that is loaded has int8 constants in those nodes' places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import WEIGHTS_NAME, GraphInfo, WeightInfo
from ...bundle.reader import Bundle
from ...errors import BackendError
from ..protobuf import bytes_field, bytes_head, fields, number_field

#: Field numbers of onnx.proto: ModelProto; GraphProto; NodeProto; AttributeProto; TensorProto.
_GRAPH = 7
_NODE, _INITIALIZER, _OUTPUT, _VALUE_NAME = 1, 5, 12, 1
_INPUTS, _OUTPUTS, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _INTEGER, _SUBGRAPHS = 1, 3, (6, 11)
_DIMS, _DATA_TYPE, _NAME, _RAW = 1, 2, 8, 9
#: Types of onnx.proto.
_FLOAT, _INT8 = 1, 3
_INLINE: dict[object, str] = {_FLOAT: "float32", _INT8: "int8"}

#: A serialized model must stay below 2 GB.
_LARGEST_MODEL = 2_000_000_000
#: Scales from this one on leave no 4 bit value outside of int8, so that nothing need be clipped.
_LEAST_SCALE = 8 / 127


@dataclass(frozen=True)
class _Node:
    """A node of the standard's own domain, as far as it matters here."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: Mapping[str, int]
    raw: bytes


@dataclass(frozen=True)
class _Weight:
    """One weight [K, N], and the name of the int8 that the graph's first nodes make of it."""

    name: str
    packed: WeightInfo
    scales: NDArray[np.float32]
    block_size: int
    nodes: tuple[_Node, _Node]


def may_be_packed(bundle: Bundle, info: GraphInfo) -> bool:
    """Whether :func:`unpacked_model` may find something in a graph."""
    weights = bundle.manifest.weights.values()
    return "QuantizeLinear" in info.operators and any(w.dtype == "int4" for w in weights)


def unpacked_model(bundle: Bundle, info: GraphInfo) -> bytes | None:
    """A graph of a bundle, which has been checked when it was opened, with int8 weights within it.

    Returns:
        The serialized model; weights that were not unpacked lie in ``weights.bin`` as before.
        None: the graph has none in the form that quantize writes, and can be read as it is.

    Raises:
        BackendError: ``weights.bin`` is not as long as it was.
    """
    if not may_be_packed(bundle, info):
        return None
    model = bundle.path(info.file).read_bytes()
    with bundle.path(WEIGHTS_NAME).open("rb", buffering=0) as file:
        try:
            graph = next(f.value for f in fields(model) if f.number == _GRAPH)
            if not isinstance(graph, bytes):
                return None
            nodes = list(_nodes(graph))
            found = _weights(graph, nodes, bundle.manifest.weights, file)
            rest = _without(graph, found, Counter(name for node in nodes for name in node.inputs))
        except (ValueError, StopIteration):  # ONNX Runtime says what is wrong with it
            return None
        if not found:
            return None
        others = b"".join(field.raw for field in fields(model) if field.number != _GRAPH)
        return _written(others, rest, found, file)


def _nodes(graph: bytes) -> Iterator[_Node]:
    """Nodes of a graph.

    Raises:
        ValueError: one holds a graph, which may read anything.
    """
    for number, message, raw in fields(graph):
        if number != _NODE or not isinstance(message, bytes):
            continue
        names: dict[int, list[str]] = {_INPUTS: [], _OUTPUTS: [], _OPERATOR: [], _DOMAIN: []}
        integers: dict[str, int] = {}
        for part in fields(message):
            if part.number in names and isinstance(part.value, bytes):
                names[part.number].append(part.value.decode())
            elif part.number == _ATTRIBUTE and isinstance(part.value, bytes):
                integers.update(_attribute(part.value))
        operator = ".".join(filter(None, (*names[_DOMAIN], *names[_OPERATOR])))
        yield _Node(operator, tuple(names[_INPUTS]), tuple(names[_OUTPUTS]), integers, raw)


def _attribute(message: bytes) -> dict[str, int]:
    """Its name, and its integer if it has one."""
    name, value = "", 0
    for part in fields(message):
        if part.number in _SUBGRAPHS:
            raise ValueError("a graph within a node")
        if part.number == _ATTRIBUTE_NAME and isinstance(part.value, bytes):
            name = part.value.decode()
        elif part.number == _INTEGER and isinstance(part.value, int):
            value = part.value
    return {name: value}


def _weights(
    graph: bytes, nodes: list[_Node], places: Mapping[str, WeightInfo], file: BinaryIO
) -> list[_Weight]:
    """Those that can be unpacked here with the same result."""
    made_by = {name: node for node in nodes for name in node.outputs}
    used = Counter(name for node in nodes for name in node.inputs)
    for part in fields(graph):
        if part.number == _OUTPUT and isinstance(part.value, bytes):
            names = (f.value for f in fields(part.value) if f.number == _VALUE_NAME)
            used.update(name.decode() for name in names if isinstance(name, bytes))
    inline = dict(_inline(graph))

    def constant(name: str, kind: str) -> NDArray[Any] | None:
        place = places.get(name)
        if place is None:
            found = inline.get(name)
            return found if found is not None and found.dtype == kind else None
        return _read(file, place).view(kind).reshape(place.shape) if place.dtype == kind else None

    found = []
    for node in nodes:
        cast = made_by.get(node.inputs[0]) if node.inputs else None
        if node.operator != "QuantizeLinear" or len(node.inputs) != 3 or cast is None:
            continue
        packed = places.get(cast.inputs[0]) if cast.operator == "Cast" else None
        size = node.integers.get("block_size", 0)
        if (
            packed is None
            or packed.dtype != "int4"
            or cast.integers != {"to": _FLOAT}
            or used[node.inputs[0]] != 1
            or node.integers != {"axis": 0, "block_size": size}
        ):
            continue
        scales = constant(node.inputs[1], "float32")
        zeros = constant(node.inputs[2], "int8")
        if scales is None or zeros is None or not _fits(packed, scales.shape, size):
            continue
        if np.isfinite(scales).all() and scales.all() and not zeros.any():
            found.append(_Weight(node.outputs[0], packed, scales, size, (cast, node)))
    return found


def _inline(graph: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and values of constants that lie in the file itself: float32 and int8."""
    for number, message, _ in fields(graph):
        if number != _INITIALIZER or not isinstance(message, bytes):
            continue
        parts = list(fields(message))
        one = {part.number: part.value for part in parts}
        name, raw, kind = one.get(_NAME), one.get(_RAW), one.get(_DATA_TYPE)
        if isinstance(name, bytes) and isinstance(raw, bytes) and kind in _INLINE:
            sizes = [part.value for part in parts if part.number == _DIMS]
            dims = [size for size in sizes if isinstance(size, int)]
            yield name.decode(), np.frombuffer(raw, _INLINE[kind]).reshape(dims)


def _fits(packed: WeightInfo, scales: tuple[int, ...], size: int) -> bool:
    """Whether it is a matrix of whole bytes with a scale for each block of ``size`` rows."""
    if len(packed.shape) != 2 or size < 2 or size % 2:
        return False
    rows, columns = packed.shape
    return not rows * columns % 2 and scales == (-(-rows // size), columns)


def _without(graph: bytes, found: list[_Weight], used: Counter[str]) -> bytes:
    """The graph without the nodes that are done here, and without what only they read."""
    nodes = {node.raw for weight in found for node in weight.nodes}
    inputs = {name for weight in found for node in weight.nodes for name in node.inputs}
    dropped = {name.encode() for name in inputs if used[name] == 1}
    kept = []
    for number, value, raw in fields(graph):
        if number == _NODE and raw in nodes:
            continue
        if number == _INITIALIZER and isinstance(value, bytes):
            names = {part.value for part in fields(value) if part.number == _NAME}
            if names & dropped:
                continue
        kept.append(raw)
    return b"".join(kept)


def _written(others: bytes, rest: bytes, found: list[_Weight], file: BinaryIO) -> bytes | None:
    """The model of a graph's ``rest`` and the int8 weights; None: it would be too large."""
    heads = []
    for weight in found:
        rows, columns = weight.packed.shape
        head = number_field(_DIMS, rows) + number_field(_DIMS, columns)
        head += number_field(_DATA_TYPE, _INT8) + bytes_field(_NAME, weight.name.encode())
        head += bytes_head(_RAW, rows * columns)
        heads.append(bytes_head(_INITIALIZER, len(head) + rows * columns) + head)
    values = [weight.packed.shape[0] * weight.packed.shape[1] for weight in found]
    size = len(rest) + sum(map(len, heads)) + sum(values)
    if size > _LARGEST_MODEL:
        return None
    start = others + bytes_head(_GRAPH, size) + rest
    model = np.empty(len(start) + size - len(rest), np.uint8)
    model[: len(start)] = np.frombuffer(start, np.uint8)
    place = len(start)
    for weight, head, count in zip(found, heads, values, strict=True):
        model[place : place + len(head)] = np.frombuffer(head, np.uint8)
        place += len(head)
        _unpack(weight, file, model[place : place + count].view(np.int8))
        place += count
    return model.tobytes()


def _unpack(weight: _Weight, file: BinaryIO, out: NDArray[np.int8]) -> None:
    """Fill ``out`` [K * N] with the values that ``QuantizeLinear`` would give."""
    rows, columns = weight.packed.shape
    packed = _read(file, weight.packed).view(np.int8)
    floats = np.empty(min(rows, weight.block_size) * columns, np.float32)
    clipped = np.abs(weight.scales).min() < _LEAST_SCALE
    for block, scales in enumerate(weight.scales):
        first = block * weight.block_size * columns
        values = out[first : first + len(floats)]
        pairs = packed[first // 2 : (first + len(values) + 1) // 2]
        # The first of two values is in the low bits; shifts keep the sign.
        np.right_shift(pairs << 4, 4, out=values[::2])
        np.right_shift(pairs, 4, out=values[1::2])
        quotients = floats[: len(values)].reshape(-1, columns)
        np.divide(values.reshape(-1, columns), scales, out=quotients, dtype=np.float32)
        np.rint(quotients, out=quotients)
        if clipped:
            np.clip(quotients, -128, 127, out=quotients)
        np.copyto(values.reshape(-1, columns), quotients, casting="unsafe")


def _read(file: BinaryIO, place: WeightInfo) -> NDArray[np.uint8]:
    """The bytes of a tensor: read, not mapped."""
    file.seek(place.offset)
    data = np.empty(place.length, np.uint8)
    count = file.readinto(data)  # type: ignore[attr-defined]  # of unbuffered files
    if count != place.length:
        raise BackendError(f"{file.name} was cut while it was read; copy the bundle again")
    return data
