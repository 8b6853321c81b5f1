"""Nodes that a step can do without: on small models it costs what its number of nodes costs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..rewrite import MICROSOFT

#: Inputs of MatMulNBits: A, B, scales, zero points, group index, bias.
_BIAS = 5


class HostArgMaxPass(ir.passes.InPlacePass):
    """Leaves the choice of the most probable token to the host: numpy is faster at it (6 us and
    36 us for 51864 tokens), and beam search needs none."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "ArgMax"]
        for node in nodes:
            model.graph.outputs.remove(node.outputs[0])
            model.graph.remove(node, safe=True)
        return ir.passes.PassResult(model, modified=bool(nodes))


class FoldBiasPass(ir.passes.InPlacePass):
    """A bias that is added to the result of ``MatMulNBits`` becomes its own."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in [node for node in model.graph if node.op_type == "Add"]:
            for product, bias in (node.inputs, node.inputs[::-1]):
                if product is not None and bias is not None and _folds(product, bias):
                    _fold(model, node, product, bias)
                    modified = True
                    break
        return ir.passes.PassResult(model, modified=modified)


def _folds(product: ir.Value, bias: ir.Value) -> bool:
    node = product.producer()
    return (
        node is not None
        and node.op_type == "MatMulNBits"
        and len(node.inputs) < _BIAS + 1
        and len(product.uses()) == 1
        and bias.const_value is not None
        and len(bias.const_value.shape) == 1
    )


def _fold(model: ir.Model, add: ir.Node, product: ir.Value, bias: ir.Value) -> None:
    node = product.producer()
    if node is None:
        raise AssertionError("it was just there")
    inputs = [*node.inputs, *[None] * (_BIAS - len(node.inputs)), bias]
    folded = ir.node("MatMulNBits", inputs, node.attributes.copy(), domain=MICROSOFT)
    model.graph.insert_before(add, folded)
    _replace(model, add, folded.outputs[0])
    model.graph.remove(node, safe=True)


class RowsOfHeadPass(ir.passes.InPlacePass):
    """Products over integers take [B, Q, D] as it is: what ``Gemm`` needed around one goes.

    The canonical head makes rows [B*Q, D] of the states and [B, Q, V] of the result, which copies
    all logits where that lies in memory of the caller's (64 rows of 32128: 1.1 ms of 18).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for after in [node for node in model.graph if node.op_type == "Reshape"]:
            chain = _product_over_integers(after.inputs[0])
            before = None if not chain else _producer(chain[-1].inputs[0])
            if before is None or before.op_type != "Reshape" or not _makes_rows(before):
                continue
            chain[-1].replace_input_with(0, before.inputs[0])
            for node in chain:  # they have one more axis now
                for value in node.outputs[:1]:
                    value.shape = None
            _replace(model, after, chain[0].outputs[0])
            modified = True
        return ir.passes.PassResult(model, modified=modified)


#: A product with dynamically rounded inputs, from its end on (``passes/dynamic_quant.py``).
_BEHIND_PRODUCT = ("Add", "Mul", "Cast", "MatMulInteger")


def _product_over_integers(value: ir.Value | None) -> list[ir.Node]:
    """The nodes from the one that gives ``value`` to the one that reads the product's input.

    Nobody else reads what is between them. Empty: another form.
    """
    chain: list[ir.Node] = []
    while True:
        node = _producer(value)
        if node is None or (value is not None and len(value.uses()) != 1):
            return []
        chain.append(node)
        if node.op_type in ("MatMulNBits", "DynamicQuantizeLinear"):
            return chain
        if node.op_type not in _BEHIND_PRODUCT:
            return []
        value = node.inputs[0]


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _makes_rows(reshape: ir.Node) -> bool:
    shape = reshape.inputs[1]
    if shape is None or shape.const_value is None:
        return False
    sizes = np.asarray(shape.const_value.numpy())
    return len(sizes) == 2 and int(sizes[0]) == -1


def _replace(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Give ``value`` to all that read what ``node`` makes, under its name."""
    old = node.outputs[0]
    for place, read in enumerate(node.inputs):
        if read is value:
            node.replace_input_with(place, None)
    value.name, old.name = old.name, None
    value.type, value.shape = old.type, old.shape
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
