"""int8 keys and values of the source, a scale for each source and channel.

A step over 1500 positions is bound by reading them (Whisper-base: 36.9 MB in float32, more than all
its 8 bit weights). The encoder quantizes them once; ``GroupQueryAttention`` reads int8. Its own
scales are those of the whole batch, so they are 1 here: each source's scale of the keys is
multiplied into the query, that of the values into the result.

Per-axis ``QuantizeLinear`` took 20 to 50 times as long as what is done here: a product with the
scale's reciprocal, rounded with a scale of 1.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..attention_pattern import AttentionPattern, check_head, remove, take_place
from ..rewrite import NodeBuilder
from .graph_inputs import add_input, graph_input
from .grouped_queries import grouped_attention

_FLOAT, _INT8 = ir.DataType.FLOAT, ir.DataType.INT8
_LARGEST = 127
#: Keeps a channel of zeros from being divided by 0.
_SMALLEST_SCALE = 1e-9


class QuantizeCrossPass(ir.passes.InPlacePass):
    """The encoder's ``cross_key.i`` and ``cross_value.i`` [B, H, S, Dh] become int8.

    Each gets an output ``cross_key_scale.i`` or ``cross_value_scale.i`` [B, 1, H*Dh] more.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        outputs = [value for value in model.graph.outputs if _is_cross(value)]
        for value in outputs:
            _quantize(model, value)
        return ir.passes.PassResult(model, modified=bool(outputs))


def _is_cross(value: ir.Value) -> bool:
    return str(value.name).startswith(("cross_key.", "cross_value."))


def _quantize(model: ir.Model, value: ir.Value) -> None:
    node = value.producer()
    if node is None or value.shape is None:
        raise AssertionError("the encoder computes it")
    heads, head_dim = value.shape[1], value.shape[3]
    if not isinstance(heads, int) or not isinstance(head_dim, int):
        raise AssertionError("both are the model's")
    name = str(value.name)
    end = ir.node("Identity", [value])  # where the new nodes stand
    model.graph.append(end)
    builder = NodeBuilder(model, end)
    axis = builder.constant("positions_axis", [2], ir.DataType.INT64)
    share = builder.constant("share_of_int8", 1 / _LARGEST, _FLOAT)
    least = builder.constant("smallest_scale", _SMALLEST_SCALE, _FLOAT)
    one = builder.constant("scale", 1, _FLOAT)
    zero = builder.constant("zero_point", 0, _INT8)
    row = builder.constant("row", [0, 1, heads * head_dim], ir.DataType.INT64)
    largest = builder.op("ReduceMax", [builder.op("Abs", [value]), axis], {"keepdims": 1})
    scale = builder.op("Max", [builder.op("Mul", [largest, share]), least])
    steps = builder.op("Mul", [value, builder.op("Reciprocal", [scale])])
    rounded = builder.op("QuantizeLinear", [steps, one, zero])
    scales = builder.op("Reshape", [scale, row])
    model.graph.remove(end, safe=True)
    place = list(model.graph.outputs).index(value)
    value.name, rounded.name = f"{name}.float", name
    rounded.type, rounded.shape = ir.TensorType(_INT8), value.shape
    model.graph.outputs[place] = rounded
    scales.name = scale_name(name)
    scales.type = ir.TensorType(_FLOAT)
    scales.shape = ir.Shape(["batch", 1, heads * head_dim])
    model.graph.outputs.append(scales)


def scale_name(name: str) -> str:
    """``cross_key.0`` to ``cross_key_scale.0``."""
    kind, _, layer = name.partition(".")
    return f"{kind}_scale.{layer}"


def lower_to_int8(model: ir.Model, pattern: AttentionPattern) -> None:
    """Cross-attention over such keys and values.

    The present keys and values, which the operator gives back, are bound to the past ones: nothing
    is added to them. It refuses several tokens of several sources: they are attention heads of one
    token (:mod:`.grouped_queries`).
    """
    check_head(pattern)
    inner = pattern.heads * pattern.head_dim
    stored = pattern.node.inputs[1:3]
    builder = NodeBuilder(model, pattern.merged)
    scales = []
    for value in stored:
        if value is None:
            raise AssertionError("attention has keys and values")
        value.type = ir.TensorType(_INT8)
        shape: list[int | str] = ["batch", 1, inner]
        scales.append(add_input(model, scale_name(str(value.name)), _FLOAT, shape))
    ones = np.ones((1, pattern.heads, 1, pattern.head_dim), np.float32)
    unscaled = builder.initializer("no_scale", ones)
    nothing = next((value for value in model.graph.inputs if value.name == "no_key"), None)
    if nothing is None:
        nothing = add_input(model, "no_key", _FLOAT, ["batch", 0, inner])
    keys = [
        nothing,
        nothing,
        *stored,
        graph_input(model, "source_seqlens_k"),
        graph_input(model, "source_length"),
        *[None] * 5,  # no rotary embedding, no bias, no sinks
        unscaled,
        unscaled,
    ]
    query = builder.op("Mul", [pattern.projected, scales[0]])
    outputs = grouped_attention(builder, pattern, query, keys)
    for value, present in zip(stored, outputs[1:], strict=True):
        if value is None:
            raise AssertionError("attention has keys and values")
        present.name, present.type, present.shape = f"present_{value.name}", value.type, value.shape
        model.graph.outputs.append(present)
    take_place(pattern.merged.outputs[0], builder.op("Mul", [outputs[0], scales[1]]))
    remove(model, pattern)
