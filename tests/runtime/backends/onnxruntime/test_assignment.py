"""Which nodes are said to have fallen back to the CPU, on sessions whose nodes are known."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, save

from seq2edge.runtime import BackendError, Bundle, Seq2SeqModel
from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.backends.onnxruntime.assignment import (
    RECORD,
    Node,
    assigned_nodes,
    describe,
    fallbacks,
)
from seq2edge.runtime.backends.onnxruntime.device import OrtDeviceBackend
from seq2edge.runtime.backends.onnxruntime.providers import Target
from seq2edge.runtime.backends.onnxruntime.session import CPU

from .recording import RecordingBinding, RecordingSession

#: In the CPU package as well, and it has kernels for none of a bundle's operators: beside it all
#: nodes fall back to the CPU, as they would beside a CUDA without kernels for them.
AZURE = "AzureExecutionProvider"

Recorded = Callable[..., Any]


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """A function that opens a graph of two matrices' product and of shape arithmetic."""

    def get(**entries: str) -> Any:
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
            helper.make_node("Shape", ["x"], ["rows"], name="shape", end=1),
            helper.make_node("Concat", ["rows", "two"], ["shape"], name="join", axis=0),
            helper.make_node("Reshape", ["y", "shape"], ["z"], name="folded"),
        ]
        value = helper.make_tensor_value_info
        constants = [
            helper.make_tensor("w", TensorProto.FLOAT, [3, 4], np.ones(12, np.float32)),
            helper.make_tensor("two", TensorProto.INT64, [2], [2, 2]),
        ]
        graph = helper.make_graph(
            nodes,
            "known",
            [value("x", TensorProto.FLOAT, ["n", 3])],
            [value("z", TensorProto.FLOAT, ["n", 2, 2])],
            constants,
        )
        opsets = [helper.make_opsetid("", 21)]
        path = tmp_path / "g.onnx"
        save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        options = onnxruntime.SessionOptions()
        # Else the shape of a Reshape becomes a constant.
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        for key, value_ in entries.items():
            options.add_session_config_entry(key, value_)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    return get


def test_nodes_and_their_providers_are_those_of_the_graph(recorded: Recorded) -> None:
    nodes = assigned_nodes(recorded(**RECORD))
    assert nodes is not None
    assert {(node.name, node.operator, node.provider) for node in nodes} == {
        ("product", "MatMul", "CPUExecutionProvider"),
        ("shape", "Shape", "CPUExecutionProvider"),
        ("join", "Concat", "CPUExecutionProvider"),
        ("folded", "Reshape", "CPUExecutionProvider"),
    }


def test_shape_arithmetic_on_the_cpu_is_no_fallback(recorded: Recorded) -> None:
    nodes = assigned_nodes(recorded(**RECORD)) or []
    lost = fallbacks(nodes, ["CUDAExecutionProvider"])
    assert sorted(node.name for node in lost) == ["folded", "product"]
    assert fallbacks(nodes, ["CUDAExecutionProvider", "CPUExecutionProvider"]) == []


def test_a_shape_that_onnxruntime_reorders_is_no_fallback() -> None:
    """Seen on a GPU: Whisper's encoder was said to look something up on the CPU."""
    names = ["Gather", "Gather_token_3", "encoder/positions/Gather_node_9"]
    nodes = [Node(name, "Gather", "CPUExecutionProvider") for name in names]
    assert [node.name for node in fallbacks(nodes, ["CUDAExecutionProvider"])] == names[2:]


def test_an_onnxruntime_that_does_not_tell_is_unknown_not_fine() -> None:
    class Old:
        """A session without get_provider_graph_assignment_info."""

    assert assigned_nodes(Old()) is None


def test_description_counts_operators_and_names_some_nodes() -> None:
    def node(operator: str, name: str) -> Node:
        return Node(name, operator, "CPUExecutionProvider")

    many = [node("Attention", f"a{i}") for i in range(5)]
    text = describe({"encoder": ([], 60), "decoder": ([node("TopK", ""), *many], 74)})
    assert text == "6 of 74 nodes of the decoder: 5 Attention (a0, a1, ...), TopK"
    text = describe({"decoder": ([node(f"Op{i}", "") for i in range(11)], 74)})
    assert text.endswith("Op6, Op7 and 3 of other operators")


class CopyingSession(RecordingSession):
    """Takes copies of inputs when they are bound, as ONNX Runtime does of a GPU's for the CPU."""

    def io_binding(self) -> RecordingBinding:
        return CopyingBinding(self._session.io_binding())


class CopyingBinding(RecordingBinding):
    def __init__(self, real: Any) -> None:
        super().__init__(real)
        self._copies: dict[str, np.ndarray[Any, Any]] = {}

    def bind_input(self, name: str, *where: Any) -> None:
        device, number, element, shape, address = where
        size = int(np.prod(shape)) * np.dtype(element).itemsize
        copy = np.frombuffer(ctypes.string_at(address, size), np.uint8).copy()
        self._copies[name] = copy
        super().bind_input(name, device, number, element, shape, copy.ctypes.data)


@pytest.fixture
def falling_back() -> Target:
    if AZURE not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no second provider that runs nothing")
    return Target("cpu", (AZURE,), lambda _graph, _capture: [(AZURE, {}), CPU], captures=False)


def test_strict_refuses_nodes_that_fell_back_and_names_them(
    falling_back: Target, bundle_of: Callable[[str], Path]
) -> None:
    with pytest.raises(BackendError) as failure:
        OrtDeviceBackend(Bundle.open(bundle_of("t5")), falling_back, strict=True)
    text = str(failure.value)
    for part in (
        "of the encoder: ",
        "of the decoder: ",
        "of the logsumexp: ",
        "4 TensorScatter (",
        "(decoder/",
        "--target cuda",
        "seq2edge downgrade",
    ):
        assert part in text
    assert "Shape (" not in text and "\n" not in text


def test_without_strict_it_warns_and_generates_the_same(
    falling_back: Target, bundle_of: Callable[[str], Path]
) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    with pytest.warns(UserWarning, match=f"runs on the CPU what {AZURE} has no kernels for"):
        backend = OrtDeviceBackend(bundle, falling_back)
    backend._context.sessions["decoder"] = CopyingSession(backend._context.sessions["decoder"])
    models = [Seq2SeqModel(bundle, e, None) for e in (backend, load_backend(bundle, num_threads=1))]
    ids = np.array([[200, 13, 77, 150, 22, 1], [5, 6, 1, 0, 0, 0]])
    for _ in range(2):
        found = [model.generate_ids(ids, max_new_tokens=70) for model in models]
        assert found[0] == found[1]
