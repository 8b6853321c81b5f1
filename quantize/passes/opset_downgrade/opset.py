"""The oldest operator set that takes a graph as it is."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ...errors import QuantizationError

#: Operator sets to try. Older ones lack ``Gelu``; 21 has 4 bit types and blocks.
OPSETS = (20, 21)

#: Operators that have another version between the first of OPSETS and 24. In these, what was
#: there before means the same: types, and attributes with a default, were added (compared with
#: the texts and defaults in onnx 1.23's schemas). Any other has to be looked at first.
_ONLY_EXTENDED = frozenset(
    {
        "Cast",
        "CastLike",
        "Constant",
        "Conv",
        "Cos",
        "DequantizeLinear",
        "Identity",
        "Pad",
        "QuantizeLinear",
        "Reshape",
        "Shape",
        "Sin",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)


class LowestOpsetPass(ir.passes.InPlacePass):
    """Gives a graph the lowest of ``OPSETS`` that takes all its nodes, and its IR version.

    Raises:
        QuantizationError: a node that none of them takes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        present = model.opset_imports[""]
        for opset in OPSETS:
            refused = [node for node in model.graph if not _takes(opset, present, node)]
            if not refused:
                model.opset_imports[""] = opset
                imports = [onnx.helper.make_opsetid("", opset)]
                model.ir_version = onnx.helper.find_min_ir_version_for(imports)
                return ir.passes.PassResult(model, modified=True)
        raise QuantizationError(
            f"{refused[0].name}: {refused[0].op_type}, as it is used there, is newer than opset"
            f" {OPSETS[-1]}, and there is no replacement for it"
        )


def _takes(opset: int, present: int, node: ir.Node) -> bool:
    """Whether the node is one of that operator set: attributes, inputs and their types."""
    if node.domain:
        return True  # not the standard's: it has versions of its own
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        newest = onnx.defs.get_schema(node.op_type, present, "")
    except onnx.defs.SchemaError:
        return False
    changed = schema.since_version != newest.since_version
    if changed and node.op_type not in _ONLY_EXTENDED:
        return False
    if not set(node.attributes) <= set(schema.attributes):
        return False
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        return False
    signature = (list(schema.inputs), list(schema.outputs))
    return all(
        value is None or value.dtype is None or _type_name(value.dtype) in formal.types
        for values, kinds in zip((node.inputs, node.outputs), signature, strict=True)
        for value, formal in zip(values, _repeated(kinds, len(values)), strict=True)
    )


def _repeated(
    kinds: list[onnx.defs.OpSchema.FormalParameter], count: int
) -> list[onnx.defs.OpSchema.FormalParameter]:
    """A kind for each of ``count`` values; the last may stand for several (``Concat``)."""
    return kinds[:count] + kinds[-1:] * (count - len(kinds))


def _type_name(dtype: ir.DataType) -> str:
    """ONNX's text for a tensor of that type."""
    return f"tensor({dtype.name.lower()})"
