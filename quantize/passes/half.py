"""Compute in float16 or bfloat16, but for what does not fit.

A node stays in float32 if a value that it reads or writes is too large for float16, or if it
is told to. Norms and softmax accumulate in float32 in any case: the standard's default for
norms (``stash_type``), and an attribute of ``Attention``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..recipe.layers import Layer
from .rewrite import NodeBuilder, stays_float32

DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
#: The largest magnitude of float16, and how far calibration text may stay below what other
#: text reaches.
LARGEST_HALF = float(np.finfo(np.float16).max)
HEADROOM = 2.0

#: Smaller constants are stored once more where a float32 node reads them, larger ones cast.
_SMALL = 4096
_FLOAT = ir.DataType.FLOAT
#: Outputs that no graph takes.
_READ_BY_HOST = ("logits", "logprobs", "alignment_weights")
_NORMS = ("RMSNormalization", "LayerNormalization")
#: Without a bfloat16 kernel in ONNX Runtime's CUDA provider (1.31.1, run on an H200).
_NO_BFLOAT16 = ("ArgMax",)
#: A norm over the standard deviation is made of these (export/graph/layers.py). They stay in
#: float32, as other norms accumulate: a sum of squares is soon more than float16 holds.
_DEVIATION = ("ReduceMean", "Sub", "ReduceSumSquare", "Sqrt")
_WITHIN = ("ReduceSumSquare", "CastLike", "Div", "Sqrt", "Add")


class HalfPrecisionPass(ir.passes.InPlacePass):
    """Makes a graph compute in ``compute``; inputs and outputs too, but for the logits.

    Args:
        compute: ``float16`` or ``bfloat16``.
        target: for TensorRT, norms have float32 inputs and outputs, as it does not say that it
            sums squares in float32 otherwise, and ``Attention`` does not say that its softmax is
            float32's: TensorRT-RTX 1.7.1 refuses the attribute.
        float32_layers: layers that stay in float32 as they are.
        largest: the largest magnitude of each value over calibration text. None: nobody knows what
            overflows, and the residual stream and the feed-forward outputs stay in float32, where
            T5's do not fit (transformers keeps its ``wo`` in float32: ``_keep_in_fp32_modules``).

    Attributes:
        float32_values: after the call, names of the values that are float32 because they do not
            fit into float16.
    """

    def __init__(
        self,
        compute: str,
        target: str,
        float32_layers: Collection[Layer] = (),
        largest: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self._half = DTYPES[compute]
        self._target = target
        self._layers = float32_layers
        self._largest = largest
        self.float32_values: list[str] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        half, graph = self._half, model.graph
        large = self._too_large(graph)
        stay = {node for node in graph if self._stays(node)} | _deviations(graph) | _angles(graph)
        stay |= {use.node for layer in self._layers for use in layer.uses}
        stay |= {node for node in graph if not large.isdisjoint((*node.inputs, *node.outputs))}
        keep = {f"{layer.name}.weight" for layer in self._layers}
        casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        for node in list(graph):
            dtype = _FLOAT if node in stay else half
            builder = NodeBuilder(model, node)
            for index, value in enumerate(node.inputs):
                if value is None or value.dtype not in (_FLOAT, half):
                    continue
                if value.is_initializer():
                    chosen = _constant(builder, value, dtype, keep, casts)
                else:
                    chosen = _cast(builder, value, dtype, casts)
                node.replace_input_with(index, chosen)
            if dtype is half:
                _retype(node, half)
            if node.op_type == "Attention" and dtype is half and self._target != "tensorrt":
                attribute = ir.AttrInt64("softmax_precision", _FLOAT.value)
                node.attributes["softmax_precision"] = attribute
        for value in graph.inputs:
            if value.dtype == _FLOAT:
                value.dtype = half
        _finish_initializers(model, half)
        _finish_outputs(model, half)
        self.float32_values[:] = sorted(str(value.name) for value in large)
        return ir.passes.PassResult(model, modified=True)

    def _stays(self, node: ir.Node) -> bool:
        exact_norm = self._target == "tensorrt" and node.op_type in _NORMS
        on_cuda = self._target == "cuda" and self._half == ir.DataType.BFLOAT16
        no_kernel = on_cuda and node.op_type in _NO_BFLOAT16
        return exact_norm or no_kernel or stays_float32(node)

    def _too_large(self, graph: ir.Graph) -> set[ir.Value]:
        """Values that do not fit into float16; bfloat16 holds all of float32's range."""
        if self._half != ir.DataType.FLOAT16:
            return set()
        large = {value for value in graph.initializers.values() if _exceeds_half(value)}
        if self._largest is None:
            return large | set(_residual_values(graph))
        limit = LARGEST_HALF / HEADROOM
        return large | {
            value for value in _floats(graph) if self._largest.get(str(value.name), 0.0) > limit
        }


def _deviations(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of norms over the standard deviation, up to the quotient."""
    if not any(node.op_type == "Sqrt" for node in graph):
        return set()
    nodes = {node for node in graph if node.op_type in _DEVIATION}
    for node in graph:  # in order: the sum with epsilon comes before the quotient
        producers = {value.producer() for value in node.inputs if value is not None}
        sums = {p for p in producers if p in nodes and p.op_type in _WITHIN}
        if sums and node.op_type in _WITHIN:
            nodes.add(node)
    return nodes


def _angles(graph: ir.Graph) -> set[ir.Node]:
    """Sines and cosines of positions, and what they are taken of: an angle of 1000 in float16 is
    off by up to a quarter."""
    nodes: set[ir.Node] = set()
    waiting = [node for node in graph if node.op_type in ("Sin", "Cos")]
    while waiting:
        node = waiting.pop()
        nodes.add(node)
        producers = (value.producer() for value in node.inputs if value is not None)
        waiting += [node for node in producers if node is not None and node not in nodes]
    return nodes


def _residual_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Sums of two values that were computed, and feed-forward outputs that go into them."""
    for node in graph:
        (output, *_), inputs = node.outputs, [value for value in node.inputs if value is not None]
        if output.dtype != _FLOAT:
            continue
        computed = not any(value.is_initializer() for value in inputs)
        feed_forward = any(".ffn.down." in str(value.name) for value in inputs)
        if (node.op_type == "Add" and computed) or feed_forward:
            yield output


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
    builder: NodeBuilder,
    value: ir.Value,
    dtype: ir.DataType,
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    """``value`` as ``dtype``. Producers come first, so its type is settled by now."""
    settled = value.dtype if value.producer() is not None else None
    if settled == dtype or (settled is None and dtype != _FLOAT):
        return value
    return _inserted(builder, value, dtype, casts)


def _constant(
    builder: NodeBuilder,
    value: ir.Value,
    dtype: ir.DataType,
    keep: Collection[str],
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    """An initializer as ``dtype``. Halves keep the name; the initializer is halved at the end."""
    if dtype != _FLOAT:
        return value
    tensor = value.const_value
    if tensor is None:
        raise AssertionError(f"{value.name} has no data")
    if value.name in keep or tensor.size <= _SMALL or _exceeds_half(value):
        return _exact_copy(builder.model, value)
    return _inserted(builder, value, dtype, casts)


def _inserted(
    builder: NodeBuilder,
    value: ir.Value,
    dtype: ir.DataType,
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    key = value, dtype
    if key not in casts:
        made = builder.op("Cast", [value], {"to": dtype.value}, dtype=dtype)
        made.shape = value.shape
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
    """What the host reads in float32; what goes back into a graph in half."""
    for index, value in enumerate(model.graph.outputs):
        if value.dtype not in (_FLOAT, half):
            continue
        dtype = _FLOAT if value.name in _READ_BY_HOST else half
        if value.dtype == dtype:
            continue
        node = ir.node("Cast", [value], {"to": dtype.value})
        cast = node.outputs[0]
        cast.name, value.name = value.name, f"{value.name}.computed"
        cast.dtype, cast.shape = dtype, value.shape
        model.graph.append(node)
        model.graph.outputs[index] = cast
