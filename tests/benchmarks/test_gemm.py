"""The products that the processor's limit is measured with."""

from __future__ import annotations

import base64

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from seq2edge.benchmarks.gemm import MODELS, Gemm, multiply

TYPES = {
    "float32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
    "float16": ("MatMul", TensorProto.FLOAT16, TensorProto.FLOAT16, TensorProto.FLOAT16),
    "int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
}


@pytest.mark.parametrize("precision", MODELS)
def test_models_are_those_that_onnx_makes(precision: str) -> None:
    operator, a, b, c = TYPES[precision]
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "g",
        [
            helper.make_tensor_value_info("a", a, ["m", "k"]),
            helper.make_tensor_value_info("b", b, ["k", "n"]),
        ],
        [helper.make_tensor_value_info("c", c, ["m", "n"])],
    )
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model.producer_name = ""
    assert onnx.load_from_string(base64.b64decode(MODELS[precision])) == model


def test_products_are_right() -> None:
    a, b = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4) - 6
    operands = {
        "float32": (a.astype(np.float32), b.astype(np.float32)),
        "float16": (a.astype(np.float16), b.astype(np.float16)),
        "int8": (a.astype(np.uint8), b.astype(np.int8)),
    }
    for precision, given in operands.items():
        assert (multiply(onnxruntime, precision, given, 1)() == a @ b).all()


def test_rates_are_of_what_is_asked_for() -> None:
    gemm = Gemm(1, MODELS)
    assert gemm.threads == 1
    rates = gemm.measure()
    assert list(rates) == list(MODELS)
    assert min(rates.values()) > 1e8
