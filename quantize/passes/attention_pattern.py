"""Attention in the canonical decoder, with the reshaping around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import NotLowerableError

#: ``GroupQueryAttention``'s kernel takes heads of a multiple of so many numbers.
_HEAD_MULTIPLE = 8
#: What an ``Attention`` of ours says, and what it says in half precision.
_ATTRIBUTES, _OF_HALVES = frozenset({"scale"}), frozenset({"softmax_precision"})


@dataclass(frozen=True)
class AttentionPattern:
    """One ``Attention`` node, what its heads were split from, and what they are merged to.

    Attributes:
        node: inputs [B, H, Q, Dh], [B, H, T, Dh] twice, and a mask or none.
        projected: [B, Q, n*H*Dh], the linear layer's output that the query comes from.
        merged: the node that makes [B, Q, H*Dh] of the result.
        heads, head_dim: H and Dh.
    """

    node: ir.Node
    projected: ir.Value
    merged: ir.Node
    heads: int
    head_dim: int

    @property
    def mask(self) -> ir.Value | None:
        return self.node.inputs[3] if len(self.node.inputs) > 3 else None

    @property
    def writes_cache(self) -> bool:
        """Whether it is self-attention, over keys that this step adds to."""
        return (
            _producer(self.node.inputs[1]).op_type == "TensorScatter" if self._computed else False
        )

    @property
    def _computed(self) -> bool:
        key = self.node.inputs[1]
        return key is not None and key.producer() is not None


def find_attention(model: ir.Model, *, halves: bool = False) -> list[AttentionPattern]:
    """All of a decoder's, in the graph's order.

    Args:
        halves: in half precision, where the softmax is said to be float32's.

    Raises:
        NotLowerableError: one of another form.
    """
    allowed = _ATTRIBUTES | _OF_HALVES if halves else _ATTRIBUTES
    return [_pattern(node, allowed) for node in model.graph if node.op_type == "Attention"]


def check_head(pattern: AttentionPattern) -> None:
    """Refuse a head size that ``GroupQueryAttention`` does not take.

    Raises:
        NotLowerableError: it is none.
    """
    if pattern.head_dim % _HEAD_MULTIPLE:
        raise NotLowerableError(f"heads of {pattern.head_dim} are no multiple of {_HEAD_MULTIPLE}")


def take_place(old: ir.Value, new: ir.Value) -> None:
    """Give ``new`` to all that read ``old``, under its name."""
    new.name, old.name = old.name, None
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove(model: ir.Model, pattern: AttentionPattern, writes: Sequence[ir.Node] = ()) -> None:
    """The nodes that nothing reads any more; what fed them goes with the unused ones."""
    (turned,) = [use.node for use in pattern.node.outputs[0].uses()]
    for node in (pattern.merged, turned, pattern.node, *writes):
        model.graph.remove(node, safe=True)


def _pattern(node: ir.Node, allowed: frozenset[str]) -> AttentionPattern:
    scale = node.attributes.get("scale")
    if scale is None or scale.as_float() != 1.0:
        raise NotLowerableError("attention has a scale; export the checkpoint again")
    if not set(node.attributes) <= allowed:
        raise NotLowerableError("attention has attributes that bundles of this version do not")
    query = _producer(node.inputs[0])
    if query.op_type == "Split":
        query = _producer(query.inputs[0])
    reshape = _producer(_expect(query, "Transpose").inputs[0])
    projected = _expect(reshape, "Reshape").inputs[0]
    shape = reshape.inputs[1]
    turned = _only_reader(node.outputs[0], "Transpose")
    merged = _only_reader(turned.outputs[0], "Reshape")
    whole = merged.inputs[1]
    if projected is None or shape is None or whole is None:
        raise AssertionError("a Reshape has two inputs")
    if shape.const_value is None or whole.const_value is None:
        raise NotLowerableError("the number of heads is not known")
    head_dim = int(shape.const_value.numpy()[-1])
    heads = int(whole.const_value.numpy()[-1]) // head_dim
    return AttentionPattern(node, projected, merged, heads, head_dim)


def _producer(value: ir.Value | None) -> ir.Node:
    node = None if value is None else value.producer()
    if node is None:
        raise NotLowerableError("attention reads what is not computed in the graph")
    return node


def _expect(node: ir.Node, op_type: str) -> ir.Node:
    if node.op_type != op_type:
        raise NotLowerableError(f"{node.op_type} stands where {op_type} was expected")
    return node


def _only_reader(value: ir.Value, op_type: str) -> ir.Node:
    uses = value.uses()
    if len(uses) != 1:
        raise NotLowerableError(f"{value.name} is read by {len(uses)} nodes")
    return _expect(next(iter(uses)).node, op_type)
