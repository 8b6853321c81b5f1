"""How OpenVINO reads the int8 products of our encoders.

``quantize`` writes them as ``DynamicQuantizeLinear`` and ``MatMulInteger``, which ONNX Runtime
fuses. OpenVINO (2026.4) takes each for itself and gets slower than float32 (425 ms of CPU time for
Whisper tiny.en's encoder, against 225 in bfloat16 and 200 with what is made here). Its own way to
int8 is a product with a constant of int8 whose scales are multiplied onto it; it then rounds
inputs by itself, in groups (``DYNAMIC_QUANTIZATION_GROUP_SIZE``), or computes in bfloat16 or
float32 where that is faster. So inputs pass as they are, and a product becomes one of that form.
"""

from __future__ import annotations

from typing import Any

#: Its inverse stands for the scales of int8 weights, which are multiplied later, as the graph says.
#: A power of two: exact, and not 1, which OpenVINO would leave out and with it what it knows the
#: form by.
_SCALE = 128.0


def add_conversions(core: Any) -> None:
    """Let ``core`` read models with our int8 products. Zero points of weights are 0 in them."""
    from openvino.frontend.onnx import ConversionExtension

    core.add_extension(ConversionExtension("DynamicQuantizeLinear", _passed_on))
    core.add_extension(ConversionExtension("MatMulInteger", _product))


def _passed_on(node: Any) -> list[Any]:
    """The values themselves, as if quantized with the scale 1 and the zero point 0."""
    import numpy as np
    from openvino import opset13 as ops

    scale, zero_point = ops.constant(np.float32(1)), ops.constant(np.uint8(0))
    return [node.get_input(0), scale.output(0), zero_point.output(0)]


def _product(node: Any) -> list[Any]:
    """``values @ weights``, whose weights are an int8 constant [K, N]."""
    import numpy as np
    from openvino import opset13 as ops

    values, weights = node.get_input(0), node.get_input(1)
    outputs = weights.get_partial_shape()[1].get_length()
    scales = ops.constant(np.full((1, outputs), 1 / _SCALE, np.float32))
    scaled = ops.multiply(ops.convert(weights, "f32"), scales)
    product = ops.matmul(values, scaled, transpose_a=False, transpose_b=False)
    return [ops.multiply(product, ops.constant(np.float32(_SCALE))).output(0)]
