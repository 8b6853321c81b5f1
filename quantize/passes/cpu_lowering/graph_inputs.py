"""Inputs of a lowered decoder: what the canonical graph computes in every step, given by the host.

Names are those of ONNX Runtime's operators where they have one:

| input | shape | in place of |
| --- | --- | --- |
| ``attention_bias`` | [B, 1, Q, T] float32 | ``attention_mask``: 0 where it is true, else -3e4 |
| ``seqlens_k`` | [B] int32 | ``write_indices``: the last slot that is written |
| ``total_sequence_length`` | int32 | T, the number of slots |
| ``query_seqlens`` | [B] int32 | Q for every row |
| ``encoder_attention_bias`` | [B, 1, Q, S] float32 | ``encoder_attention_mask`` |

With keys and values of the source in int8 (:mod:`.cross_int8`):

| input | shape | holds |
| --- | --- | --- |
| ``cross_key_scale.i`` | [B, 1, H*Dh] float32 | a scale per source and channel |
| ``cross_value_scale.i`` | [B, 1, H*Dh] float32 | the same |
| ``source_seqlens_k`` | [B] int32 | the last position of each source |
| ``source_length`` | int32 | S |
| ``no_key`` | [B, 0, H*Dh] float32 | nothing: no key is added to the source's |
| ``group_queries`` | bool | whether tokens are heads of one (:mod:`.grouped_queries`) |
| ``many_queries`` | bool | whether they are more than the smaller group |
| ``query_padding`` | [6] int64 | what makes a group of [B, Q, H*Dh], as ``Pad`` wants it |
| ``query_count`` | [1] int64 | Q |
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...errors import NotLowerableError

_FLOAT, _BOOL = ir.DataType.FLOAT, ir.DataType.BOOL
_INT32, _INT64 = ir.DataType.INT32, ir.DataType.INT64

#: Type and shape of each.
_INPUTS: dict[str, tuple[ir.DataType, Sequence[int | str]]] = {
    "attention_bias": (_FLOAT, ["batch", 1, "queries", "slots"]),
    "seqlens_k": (_INT32, ["batch"]),
    "total_sequence_length": (_INT32, []),
    "query_seqlens": (_INT32, ["batch"]),
    "encoder_attention_bias": (_FLOAT, ["batch", 1, "queries", "source"]),
    "source_seqlens_k": (_INT32, ["batch"]),
    "source_length": (_INT32, []),
    "group_queries": (_BOOL, []),
    "many_queries": (_BOOL, []),
    "query_padding": (_INT64, [6]),
    "query_count": (_INT64, [1]),
}
#: Inputs of the canonical graph that nothing reads once it is lowered.
REPLACED = ("attention_mask", "write_indices", "encoder_attention_mask")


def graph_input(model: ir.Model, name: str) -> ir.Value:
    """The graph's input of that name, made if it is not there yet."""
    for value in model.graph.inputs:
        if value.name == name:
            return value
    return add_input(model, name, *_INPUTS[name])


def add_input(
    model: ir.Model, name: str, dtype: ir.DataType, shape: Sequence[int | str]
) -> ir.Value:
    """A new input of the graph."""
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    model.graph.inputs.append(value)
    return value


def remove_unread_inputs(model: ir.Model) -> None:
    """Drop the inputs that were replaced.

    Raises:
        NotLowerableError: a node still reads one.
    """
    for value in [value for value in model.graph.inputs if value.name in REPLACED]:
        readers = [use.node.op_type for use in value.uses()]
        if readers:
            raise NotLowerableError(f"{value.name} is read by {', '.join(readers)}")
        model.graph.inputs.remove(value)
