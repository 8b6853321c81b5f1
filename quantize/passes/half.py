"""Compute in float16 or bfloat16, but for what does not fit.

A node stays in float32 if a value that it reads or writes is too large for float16, or if it
is told to. Norms and softmax accumulate in float32 in any case: the standard's default for
norms (``stash_type``), and an attribute of ``Attention``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .rewrite import insert_before

DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
#: The largest magnitude of float16, and how far calibration text may stay below what other
#: text reaches.
LARGEST_HALF = float(np.finfo(np.float16).max)
HEADROOM = 2.0

#: Smaller constants are stored once more where a float32 node reads them, larger ones cast.
_SMALL = 4096
_FLOAT = ir.DataType.FLOAT


def lower_compute(
    model: ir.Model,
    compute: str,
    exact: Collection[ir.Node],
    too_large: Callable[[ir.Value], bool],
    keep: Collection[str] = (),
    *,
    exact_softmax: bool = True,
) -> list[str]:
    """Make the graph compute in ``compute``; inputs and outputs too, but for the logits.

    Args:
        model: a graph that computes in float32.
        compute: ``float16`` or ``bfloat16``.
        exact: nodes that stay in float32.
        too_large: whether a value does not fit; asked only for float16.
        keep: weights that stay in float32 as they are; their nodes are among ``exact``.
        exact_softmax: say on every ``Attention`` that its softmax is float32's. TensorRT-RTX
            1.7.1 refuses the attribute.

    Returns:
        Names of the values that are float32 because they do not fit.
    """
    half = DTYPES[compute]
    graph = model.graph
    large = set()
    if compute == "float16":
        large = {value for value in _floats(graph) if too_large(value)}
        large |= {value for value in graph.initializers.values() if _exceeds_half(value)}
    stay = set(exact)
    stay |= {node for node in graph if not large.isdisjoint((*node.inputs, *node.outputs))}
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    for node in list(graph):
        wanted = _FLOAT if node in stay else half
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (_FLOAT, half):
                continue
            if value.is_initializer():
                chosen = _constant(model, node, value, wanted, keep, casts)
            else:
                chosen = _cast(model, node, value, wanted, casts)
            node.replace_input_with(index, chosen)
        if wanted is half:
            _retype(node, half)
        if node.op_type == "Attention" and wanted is half and exact_softmax:
            attribute = ir.AttrInt64("softmax_precision", _FLOAT.value)
            node.attributes["softmax_precision"] = attribute
    for value in graph.inputs:
        if value.dtype == _FLOAT:
            value.dtype = half
    _finish_initializers(model, half)
    _finish_outputs(model, half)
    return sorted(str(value.name) for value in large)


def _floats(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from (value for value in node.outputs if value.dtype == _FLOAT)


def _retype(node: ir.Node, half: ir.DataType) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", half.value)
    for value in node.outputs:
        if value.dtype == _FLOAT:
            value.dtype = half


def _cast(
    model: ir.Model,
    node: ir.Node,
    value: ir.Value,
    wanted: ir.DataType,
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    """``value`` as ``wanted``. Producers come first, so its type is settled by now."""
    settled = value.dtype if value.producer() is not None else None
    if settled == wanted or (settled is None and wanted != _FLOAT):
        return value
    return _inserted(model, node, value, wanted, casts)


def _constant(
    model: ir.Model,
    node: ir.Node,
    value: ir.Value,
    wanted: ir.DataType,
    keep: Collection[str],
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    """An initializer as ``wanted``. Halves keep the name; the initializer is halved at the end."""
    if wanted != _FLOAT:
        return value
    tensor = value.const_value
    if tensor is None:
        raise AssertionError(f"{value.name} has no data")
    if value.name in keep or tensor.size <= _SMALL or _exceeds_half(value):
        return _exact_copy(model, value)
    return _inserted(model, node, value, wanted, casts)


def _inserted(
    model: ir.Model,
    node: ir.Node,
    value: ir.Value,
    wanted: ir.DataType,
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    key = value, wanted
    if key not in casts:
        made = insert_before(model, node, "Cast", [value], {"to": wanted.value}).outputs[0]
        made.dtype, made.shape = wanted, value.shape
        casts[key] = made
    return casts[key]


def _exact_copy(model: ir.Model, value: ir.Value) -> ir.Value:
    """The initializer in float32, under a name of its own."""
    name = f"{value.name}.float32"
    initializers = model.graph.initializers
    if name not in initializers:
        copy = ir.Value(
            name=name, type=value.type, shape=value.shape, const_value=value.const_value
        )
        model.graph.register_initializer(copy)
    return initializers[name]


def _finish_initializers(model: ir.Model, half: ir.DataType) -> None:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if value.dtype != _FLOAT or tensor is None or name.endswith(".float32"):
            continue
        if value.uses():
            value.const_value = ir.tensor(halved(tensor.numpy(), half), name=name)
            value.dtype = half


def _exceeds_half(value: ir.Value) -> bool:
    tensor = value.const_value
    if value.dtype != _FLOAT or tensor is None or not tensor.size:
        return False
    return float(np.abs(tensor.numpy()).max()) > LARGEST_HALF


def halved(array: NDArray[Any], half: ir.DataType) -> NDArray[np.generic]:
    """The array in half the bits."""
    if half == ir.DataType.BFLOAT16:
        brain: NDArray[np.generic] = array.astype(ml_dtypes.bfloat16)
        return brain
    halves: NDArray[np.generic] = array.astype(np.float16)
    return halves


def _finish_outputs(model: ir.Model, half: ir.DataType) -> None:
    """Logits in float32 for whoever reads them; what goes back into a graph in half."""
    for index, value in enumerate(model.graph.outputs):
        if value.dtype not in (_FLOAT, half):
            continue
        wanted = _FLOAT if value.name == "logits" else half
        if value.dtype == wanted:
            continue
        node = ir.node("Cast", [value], {"to": wanted.value})
        cast = node.outputs[0]
        cast.name, value.name = value.name, f"{value.name}.computed"
        cast.dtype, cast.shape = wanted, value.shape
        model.graph.append(node)
        model.graph.outputs[index] = cast
