"""The decoder as ONNX Runtime runs it best on an NVIDIA GPU, beside the canonical one.

A step of one token is a few hundred kernels of a microsecond each, so what counts is how many there
are. ``MultiHeadAttention`` takes queries [B, Q, H*Dh] and keys as the cache holds them, where the
standard's ``Attention`` transposes queries there and results back, and clears rows that see
nothing. ``SkipSimplifiedLayerNormalization`` adds what an RMSNormalization reads; ONNX Runtime
itself does that to LayerNormalization alone. A step of T5-small: 0.50 ms before.

Source: the operators' documentation (ONNX Runtime, docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..errors import NotLowerableError
from .attention_pattern import AttentionPattern, find_attention, remove, take_place
from .rewrite import MICROSOFT, NodeBuilder, apply_passes
from .unused_initializers import RemoveUnusedInitializersPass

#: The oldest ONNX Runtime that it was run with on a GPU.
MINIMUM_ONNXRUNTIME = "1.31"
#: What a slot that is not seen adds to its score, as the canonical graph has it.
_UNSEEN = -30000.0
_QKV = 3


def lower_for_cuda(models: Mapping[str, ir.Model]) -> tuple[dict[str, ir.Model], str | None]:
    """A copy of the decoder in the form for CUDA, by the name that a manifest gives it.

    It reads the same weights by the same names, and has the same inputs and outputs. ``models``
    stay as they are.

    Returns:
        The graphs, and why there are none; None where there are.
    """
    if "decoder" not in models:
        return {}, "there is no decoder"
    decoder = models["decoder"].clone()
    try:
        apply_passes(decoder, [CudaAttentionPass(), SkipNormalizationPass()])
    except NotLowerableError as reason:
        return {}, str(reason)
    apply_passes(decoder, [RemoveUnusedNodesPass(), RemoveUnusedInitializersPass()])
    return {"decoder_cuda": decoder}, None


class CudaAttentionPass(ir.passes.InPlacePass):
    """Replaces every ``Attention`` of a decoder by ``MultiHeadAttention``.

    Raises:
        NotLowerableError: a graph of another form.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = find_attention(model, halves=True)
        biases: dict[ir.Value, ir.Value] = {}
        for pattern in found:
            _replace(model, pattern, biases)
        return ir.passes.PassResult(model, modified=bool(found))


def _replace(model: ir.Model, pattern: AttentionPattern, biases: dict[ir.Value, ir.Value]) -> None:
    query = _query(model, pattern)
    inputs = [query, *pattern.node.inputs[1:3]]
    mask = pattern.mask
    if mask is not None:
        if mask.dtype == ir.DataType.BOOL:
            if mask not in biases:
                biases[mask] = _bias(model, pattern.node, mask)
            mask = biases[mask]
        inputs += [None, None, mask]
    (merged,) = NodeBuilder(model, pattern.merged).outputs(
        "MultiHeadAttention",
        inputs,
        {"num_heads": pattern.heads, "scale": 1.0},
        domain=MICROSOFT,
    )
    take_place(pattern.merged.outputs[0], merged)
    remove(model, pattern)


def _query(model: ir.Model, pattern: AttentionPattern) -> ir.Value:
    """[B, Q, H*Dh], not transposed; keys and values of self-attention still are."""
    together = pattern.node.inputs[0].producer() if pattern.node.inputs[0] is not None else None
    if together is None or together.op_type != "Split":
        return pattern.projected  # cross-attention's, alone
    if together.attributes.get_int("num_outputs", 0) != _QKV:
        raise NotLowerableError("query, key and value are not thirds of one product")
    builder = NodeBuilder(model, together)
    split = {"axis": 2, "num_outputs": _QKV}
    query, *others = builder.outputs("Split", [pattern.projected], split, count=_QKV)
    heads, size = pattern.heads, pattern.head_dim
    shape = builder.initializer(f"heads_{heads}x{size}", np.array([0, 0, heads, size]))
    for old, value in zip(together.outputs[1:], others, strict=True):
        parted = builder.op("Reshape", [value, shape])
        turned = builder.op("Transpose", [parted], {"perm": [0, 2, 1, 3]})
        turned.type, turned.shape = old.type, old.shape
        old.replace_all_uses_with(turned)
    return query


def _bias(model: ir.Model, node: ir.Node, mask: ir.Value) -> ir.Value:
    """The mask as what is added to scores."""
    dtype = node.outputs[0].dtype
    if dtype is None:
        raise NotLowerableError("the type of attention is not known")
    builder = NodeBuilder(model, node)
    seen, unseen = (
        builder.initializer(f"bias_{name}", np.array(value, dtype.numpy()))
        for name, value in (("seen", 0.0), ("unseen", _UNSEEN))
    )
    return builder.op("Where", [mask, seen, unseen], dtype=dtype, shape=mask.shape)


class SkipNormalizationPass(ir.passes.InPlacePass):
    """Lets an RMSNormalization add what it reads, where that is a sum of two computed values."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        pairs = [(node, added) for node in model.graph if (added := _sum_before(node)) is not None]
        for node, added in pairs:
            epsilon = node.attributes["epsilon"].as_float()
            output, total = (
                ir.Value(name=node.outputs[0].name),
                ir.Value(name=added.outputs[0].name),
            )
            made = ir.Node(
                MICROSOFT,
                "SkipSimplifiedLayerNormalization",
                [*added.inputs, node.inputs[1]],
                [ir.AttrFloat32("epsilon", epsilon)],
                # The second and the third are for training.
                outputs=[output, ir.Value(name=""), ir.Value(name=""), total],
            )
            model.opset_imports.setdefault(MICROSOFT, 1)
            model.graph.insert_before(added, made)
            for old, new in ((node.outputs[0], output), (added.outputs[0], total)):
                old.name = None
                new.type, new.shape = old.type, old.shape
                old.replace_all_uses_with(new, replace_graph_outputs=True)
            model.graph.remove([node, added], safe=True)
        return ir.passes.PassResult(model, modified=bool(pairs))


def _sum_before(node: ir.Node) -> ir.Node | None:
    """The Add that a norm over the last axis reads, if both can be one node."""
    if node.op_type != "RMSNormalization" or node.attributes.get_int("axis", -1) != -1:
        return None
    total, weight = node.inputs[0], node.inputs[1]
    added = None if total is None else total.producer()
    if added is None or added.op_type != "Add" or weight is None or total is None:
        return None
    parts = [value for value in added.inputs if value is not None]
    alike = {str(value.shape) for value in (*parts, total)}
    types = {value.dtype for value in (*parts, total, weight)}
    return added if len(alike) == 1 and len(types) == 1 else None
