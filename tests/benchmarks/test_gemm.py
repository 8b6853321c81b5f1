"""The products that the processor's limit is measured with."""

from __future__ import annotations

import base64

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from seq2edge.benchmarks.gemm import MODELS, measure_gemm, multiply

TYPES = {
    "MatMul": (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
    "MatMulInteger": (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_those_that_onnx_makes(name: str) -> None:
    a, b, c = TYPES[name]
    graph = helper.make_graph(
        [helper.make_node(name, ["a", "b"], ["c"])],
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
    assert onnx.load_from_string(base64.b64decode(MODELS[name])) == model


def test_products_are_right() -> None:
    a, b = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4) - 6
    floats = (a.astype(np.float32), b.astype(np.float32))
    integers = (a.astype(np.uint8), b.astype(np.int8))
    for name, operands in (("MatMul", floats), ("MatMulInteger", integers)):
        assert (multiply(onnxruntime, name, operands, 1)() == a @ b).all()


def test_rates_are_of_the_threads_asked_for() -> None:
    found = measure_gemm(1)
    assert found.threads == 1
    assert min(found.float32, found.int8) > 1e8
