"""Which operators TensorRT 10.3's ONNX parser takes.

Source: onnx-tensorrt, docs/operators.md at 10.1-GA (opsets 9 to 20), and for the restrictions
onnxOpImporters.cpp there. 10.3's parser is a later one of the same major version and takes all
of this, so that the table is a safe bound for it. An opset above 20 is not refused as such, and
4 bit ``DequantizeLinear`` of opset 21 is imported.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

_NAMES = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool
    BatchNormalization Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND
    Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization GRU HardSigmoid HardSwish Hardmax Identity If ImageScaler
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or
    Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike
    RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile
    TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
#: Operators of the ONNX standard that the table marks as supported.
TENSORRT_OPERATORS = frozenset(_NAMES.split())

#: Inputs that have to be constant, by their place.
_CONSTANT_INPUTS = {"ReduceMean": (1,), "Slice": (3,), "Unsqueeze": (1,)}

_QUANTIZERS = ("DequantizeLinear", "QuantizeLinear")


def unknown_operators(model: ir.Model) -> list[str]:
    """Types of operators that TensorRT's parser does not know, sorted."""
    return sorted(
        {
            node.op_type
            for node in model.graph
            if node.domain or node.op_type not in TENSORRT_OPERATORS
        }
    )


def refused_uses(model: ir.Model) -> Iterator[str]:
    """What the parser refuses although it knows the operator, a line for each."""
    for node in model.graph:
        for index in _CONSTANT_INPUTS.get(node.op_type, ()):
            if index < len(node.inputs) and not _is_constant(node.inputs[index]):
                yield f"{node.name}: input {index} of {node.op_type} is not constant"
        if node.op_type == "ScatterND" and "reduction" in node.attributes:
            yield f"{node.name}: ScatterND with a reduction"
        if node.op_type in _QUANTIZERS:
            yield from (f"{node.name}: {what}" for what in _quantizer_problems(node))


def _quantizer_problems(node: ir.Node) -> Iterator[str]:
    values, scales, *rest = node.inputs
    stored = None if scales is None else scales.const_value
    if stored is not None and not (stored.numpy().astype(np.float32) > 0).all():
        yield "a scale that is not positive"
    zeros = rest[0] if rest else None
    if zeros is not None and (zeros.const_value is None or zeros.const_value.numpy().any()):
        yield "a zero point that is not zero"
    types = {value.dtype for value in (values, zeros, *node.outputs) if value is not None}
    if types & {ir.DataType.UINT8, ir.DataType.UINT4}:
        yield "unsigned integers"
    if values is not None and values.dtype == ir.DataType.INT4 and values.shape is not None:
        last = values.shape[-1]
        if isinstance(last, int) and last % 2:
            yield "int4 with an odd last dimension"


def _is_constant(value: ir.Value | None) -> bool:
    if value is None or value.const_value is not None:
        return True
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant"
