"""Linear layers of others' graphs in one form: ``MatMul`` with a constant matrix [in, out]."""

from __future__ import annotations

import onnx_ir as ir

from .rewrite import NodeBuilder

#: Attributes of a ``Gemm`` that is nothing but a product and a sum.
_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}


class PlainMatMulPass(ir.passes.InPlacePass):
    """Makes a ``Gemm`` a ``MatMul`` and an ``Add``, and stores transposed what is transposed.

    Nothing changes in what the graph computes. Branches within the graph are included.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph.all_nodes()):
            builder = NodeBuilder(model, node)
            if node.op_type == "Gemm":
                modified |= _replace_gemm(builder)
            elif node.op_type == "MatMul":
                modified |= _read_transposed(builder)
        return ir.passes.PassResult(model, modified=modified)


def constant_matrix(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant matrix in float32 that a value is."""
    tensor = None if value is None else value.const_value
    if value is None or tensor is None or not value.is_initializer():
        return None
    return tensor if tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2 else None


def _replace_gemm(builder: NodeBuilder) -> bool:
    node = builder.node
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    weight = node.inputs[1]
    if constant_matrix(weight) is None:
        return False
    if any(attributes.get(name, value) != value for name, value in _PLAIN.items()):
        return False
    if attributes.get("transB", 0):
        weight = _transposed(builder, weight)
    inputs, bias = [node.inputs[0], weight], node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        builder.replace("MatMul", inputs)
    else:
        builder.replace("Add", [builder.op("MatMul", inputs), bias])
    return True


def _read_transposed(builder: NodeBuilder) -> bool:
    """Let the node read a constant that a ``Transpose`` turns round as it is stored."""
    node = builder.node
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    producer = None if weight is None else weight.producer()
    if producer is None or producer.op_type != "Transpose":
        return False
    if constant_matrix(producer.inputs[0]) is None:
        return False
    node.replace_input_with(1, _transposed(builder, producer.inputs[0]))
    if not producer.outputs[0].uses() and producer.graph is not None:
        producer.graph.remove(producer, safe=True)
    return True


def _transposed(builder: NodeBuilder, weight: ir.Value | None) -> ir.Value:
    tensor = constant_matrix(weight)
    if weight is None or tensor is None:
        raise AssertionError("only a constant matrix is stored transposed")
    return builder.initializer(f"{weight.name}.transposed", tensor.numpy().T)
