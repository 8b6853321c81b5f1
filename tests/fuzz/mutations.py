"""Changes to JSON, bytes and graphs, the same for the same random numbers."""

from __future__ import annotations

import copy
import functools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What a value is replaced by.
BAD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 255, 65536, 2**31 - 1, 2**31, 2**53, 2**63, 2**64),
    *(10**30, 10**400, 0.0, 1.5, -1.5, 1e308, float("nan"), float("inf"), "", "a", "0", "batch"),
    *("../../etc/passwd", "/etc/passwd", "..", "encoder.onnx", "weights.bin\0", "x" * 5000, "int4"),
    *("float16", "float64", "object", [], [[]], [0], [-1], [1] * 50, [2**40] * 3, {}, {"a": 1}),
    *([None], [{"a": []}], "never", "byte", "tokenizers", "start", "forced_bos", "concat", "slots"),
]
_SIZES = (0, 1, -1, 2, 7, 2**20, 2**31, 2**40, 2**62, -(2**63))
_OPERATORS = ("Loop", "If", "Scan", "Identity", "MatMul", "Gather", "Reshape", "Expand", "Tile")
_PLACES = ("../x", "/etc/passwd", "", ".", "weights.bin", "encoder.onnx", "a\0b", "x" * 5000)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values within a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from paths(item, (*path, place))


@functools.lru_cache(64)
def _places(data: bytes) -> tuple[tuple[Any, ...], ...]:
    return tuple(paths(json.loads(data)))


def mutate_json(data: bytes, rnd: random.Random) -> tuple[Any, str]:
    """The value that ``data`` holds, with one to three changes, and what they are."""
    value, done = json.loads(data), []
    for _ in range(rnd.choice((1, 1, 1, 2, 3))):
        *folders, last = path = rnd.choice(_places(data))
        parent = value
        try:
            for name in folders:
                parent = parent[name]
            _ = parent[last]
            if isinstance(parent, str):
                continue
        except (KeyError, IndexError, TypeError):
            continue  # a change before has removed it
        what = rnd.random()
        if what < 0.7:
            parent[last] = copy.deepcopy(rnd.choice(BAD))
        elif what < 0.8:
            del parent[last]
        elif isinstance(parent, dict):
            parent[str(rnd.choice(BAD))[:50]] = parent[last]
        else:
            parent.insert(0, copy.deepcopy(rnd.choice(BAD)))
        done.append(f"{'.'.join(map(str, path))}")
    return value, ", ".join(done)


def mutate_bytes(data: bytes, rnd: random.Random, within: int | None = None) -> tuple[bytes, str]:
    """Bytes changed, removed, doubled or put in, among the first ``within``."""
    changed = bytearray(data)
    for _ in range(rnd.choice((1, 1, 2, 8))):
        place = rnd.randrange(min(len(changed), within or len(changed)) + 1)
        size = rnd.choice((1, 1, 2, 4, 16, 200))
        part = slice(place, place + size)
        kind = rnd.randrange(4)
        if kind == 0:
            changed[part] = rnd.randbytes(len(changed[part]))
        elif kind == 1:
            del changed[part]
        elif kind == 2:
            changed[place:place] = changed[part]
        else:
            changed[place:place] = rnd.choice((b"\xff" * 10, b"\x00" * size, rnd.randbytes(size)))
        if not changed:
            break
    return bytes(changed), "bytes"


def mutate_json_file(file: Path, rnd: random.Random) -> str:
    """The file changed, now and then as bytes; what was done."""
    data = file.read_bytes()
    if rnd.random() < 0.1:
        data, what = mutate_bytes(data, rnd)
    else:
        value, what = mutate_json(data, rnd)
        data = json.dumps(value).encode()
    replace(file, data)
    return f"{file.name}: {what}"


def replace(file: Path, data: bytes) -> None:
    """Write a file anew: what was there may be a link to a seed."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def mutate_graph(data: bytes, rnd: random.Random) -> tuple[bytes, str]:
    """A model with one to three changes to its nodes, attributes, types and tensors."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    changes = (_node, _attribute, _edge, _dimensions, _version, _copy_node)
    done = [rnd.choice(changes)(model, rnd) for _ in range(rnd.choice((1, 1, 2, 3)))]
    return model.SerializeToString(), ", ".join(done)


def _node(model: Any, rnd: random.Random) -> str:
    node = rnd.choice(model.graph.node)
    if rnd.random() < 0.3:
        node.domain = rnd.choice(("", "com.microsoft", "evil.domain", "ai.onnx.ml"))
    node.op_type = rnd.choice((*_OPERATORS, rnd.choice(model.graph.node).op_type))
    return f"operator {node.op_type}"


def _attribute(model: Any, rnd: random.Random) -> str:
    node = rnd.choice([node for node in model.graph.node if node.attribute] or model.graph.node)
    if not node.attribute:
        return "nothing"
    attribute = rnd.choice(node.attribute)
    attribute.i = rnd.choice(_SIZES)
    if attribute.ints:
        attribute.ints[rnd.randrange(len(attribute.ints))] = rnd.choice(_SIZES)
    attribute.f = rnd.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    if rnd.random() < 0.3:
        attribute.type = rnd.randrange(1, 14)
    if attribute.HasField("t"):
        attribute.t.dims[:] = [rnd.choice(_SIZES)]
    return f"attribute {attribute.name} of {node.op_type}"


def _edge(model: Any, rnd: random.Random) -> str:
    graph = model.graph
    node = rnd.choice(graph.node)
    names = [each for other in graph.node for each in (*other.input, *other.output)]
    side = node.input if rnd.random() < 0.7 else node.output
    if not side:
        return "nothing"
    side[rnd.randrange(len(side))] = rnd.choice((*names[:200], "", "nowhere"))
    return f"edge of {node.op_type}"


def _dimensions(model: Any, rnd: random.Random) -> str:
    graph = model.graph
    value = rnd.choice((*graph.input, *graph.output, *graph.initializer))
    if hasattr(value, "dims"):
        value.dims.append(rnd.choice(_SIZES))
        if rnd.random() < 0.5:
            value.data_type = rnd.randrange(25)
        return f"tensor {value.name}"
    tensor = value.type.tensor_type
    if tensor.shape.dim and rnd.random() < 0.7:
        rnd.choice(tensor.shape.dim).dim_value = rnd.choice(_SIZES)
    else:
        tensor.elem_type = rnd.randrange(25)
    return f"type of {value.name}"


def _version(model: Any, rnd: random.Random) -> str:
    for each in model.opset_import:
        each.version = rnd.choice((0, -1, 1, 13, 20, 99, 2**40))
    model.ir_version = rnd.choice((0, 3, 10, 99, 2**40))
    return "versions"


def _copy_node(model: Any, rnd: random.Random) -> str:
    node = rnd.choice(model.graph.node)
    for _ in range(rnd.choice((1, 1, 1000 if node.ByteSize() < 1000 else 1))):
        model.graph.node.append(node)
    return f"copies of {node.op_type}"


def mutate_external(data: bytes, rnd: random.Random) -> tuple[bytes, str]:
    """A model whose external tensors say other places, offsets, lengths or sizes."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
    if not tensors:
        return mutate_graph(data, rnd)
    done = []
    for tensor in rnd.sample(tensors, min(len(tensors), rnd.choice((1, 1, 3)))):
        entry = rnd.choice(tensor.external_data)
        what = rnd.randrange(4)
        if what == 0:
            tensor.dims[rnd.randrange(len(tensor.dims))] = rnd.choice(_SIZES)
        elif what == 1:
            tensor.external_data.add(key=rnd.choice(("location", "offset", "x")), value="0")
        elif entry.key == "location":
            entry.value = rnd.choice(_PLACES)
        else:
            entry.value = rnd.choice((*map(str, _SIZES), "", "x", "1e3", "0x10", " 1"))
        done.append(f"{tensor.name} {entry.key}")
    return model.SerializeToString(), ", ".join(done)
