"""The layer report tells GEMMs of few bits from those whose weights are dequantized first."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from seq2edge.runtime.backends.tensorrt import Gemm, GraphReport, Limits, load_library
from seq2edge.runtime.backends.tensorrt.builder.build_log import read_log
from seq2edge.runtime.backends.tensorrt.builder.network import AskedGemm, NetworkSummary, Precision
from seq2edge.runtime.backends.tensorrt.builder.plan import Target, build_plan
from seq2edge.runtime.backends.tensorrt.builder.report import make_report
from seq2edge.runtime.backends.tensorrt.library import Message
from seq2edge.runtime.bundle.manifest import (
    Dimensions,
    FileInfo,
    GraphInfo,
    Manifest,
    SpecialTokens,
    TensorSpec,
)
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.bundle.tokenizer_info import TokenizerInfo

_INPUTS, _OUTPUTS, _BLOCK = 128, 64, 32


class GraphOfGemms:
    """A graph whose GEMMs all read one float16 input [batch, 128]."""

    def __init__(self) -> None:
        self.input = self._value("x", ir.DataType.FLOAT16, ("batch", _INPUTS))
        self.nodes: list[ir.Node] = []
        self.weights: list[ir.Value] = []
        self.outputs: list[ir.Value] = []

    def gemm(self, name: str, x: ir.Value, weights: ir.Value) -> None:
        """Gemm with weights [outputs, inputs]."""
        out = self.node("Gemm", [x, weights], {"transB": 1}, name)
        out.type, out.shape = ir.TensorType(ir.DataType.FLOAT16), ir.Shape(("batch", None))
        self.outputs.append(out)

    def node(
        self, kind: str, inputs: list[ir.Value], attributes: dict[str, int], name: str
    ) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}.out"
        self.nodes.append(node)
        return node.outputs[0]

    def weight(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor)
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
        self.weights.append(value)
        return value

    def dequantized(
        self, name: str, array: np.ndarray, scales: np.ndarray, attributes: dict[str, int]
    ) -> ir.Value:
        """Weights in ``array``'s type, read through scales."""
        stored = [self.weight(name, array), self.weight(f"{name}.scales", scales)]
        return self.node("DequantizeLinear", stored, attributes, f"{name}.dequantized")

    def quantized_input(self) -> ir.Value:
        """The input through int8, with the float32 scale that keeps its GEMMs in range."""
        scale = self.weight("x.scale", np.float32(0.02))
        integers = self.node(
            "QuantizeLinear", [self.input, scale], {"output_dtype": int(ir.DataType.INT8)}, "xq"
        )
        half = {"output_dtype": int(ir.DataType.FLOAT16)}
        return self.node("DequantizeLinear", [integers, scale], half, "xd")

    def build(self, folder: Path) -> GraphReport:
        """Build it for SM 86."""
        graph = ir.Graph(
            [self.input],
            self.outputs,
            nodes=self.nodes,
            initializers=self.weights,
            opset_imports={"": 24},
            name="gemms",
        )
        path = folder / "gemms.onnx"
        ir.save(ir.Model(graph, ir_version=11), path)
        spec = TensorSpec("x", "float16", ("batch", _INPUTS))
        info = GraphInfo(path.name, 24, "float16", (spec,), (), {}, 0)
        manifest = Manifest(
            family="none",
            dimensions=Dimensions(8, 8, 1, 1, 1, 8),
            special_tokens=SpecialTokens(0, 0, (1,)),
            tokenizer=TokenizerInfo(),
            graphs={"encoder": info},
            weights={},
            files={path.name: FileInfo(path.stat().st_size, "")},
        )
        library = load_library("tensorrt-rtx")
        plan = build_plan(
            Bundle(folder, manifest),
            "encoder",
            Target(library, (library.module.ComputeCapability.SM86,), Limits(16, 1, 1, 1), None),
            lambda *_: None,
        )
        return plan.report

    @staticmethod
    def _value(name: str, dtype: ir.DataType, shape: tuple[int | str, ...]) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> GraphReport:
    """One GEMM of each form that quantized bundles have, and one that is no good."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    rng = np.random.default_rng(0)
    floats = rng.standard_normal((_OUTPUTS, _INPUTS))
    bytes_ = rng.integers(-127, 128, (_OUTPUTS, _INPUTS)).astype(np.int8)
    nibbles = rng.integers(-7, 8, (_OUTPUTS, _INPUTS)).astype(ml_dtypes.int4)
    half = {"output_dtype": int(ir.DataType.FLOAT16)}
    blocked = {"axis": 1, "block_size": _BLOCK}
    channels = np.full(_OUTPUTS, 0.01, np.float32)
    blocks = np.full((_OUTPUTS, _INPUTS // _BLOCK), 0.1, np.float16)
    graph = GraphOfGemms()
    x = graph.input
    graph.gemm("float16", x, graph.weight("w", floats.astype(np.float16)))
    inputs = graph.quantized_input()
    graph.gemm("int8", inputs, graph.dequantized("w8", bytes_, channels, {"axis": 0, **half}))
    weights = graph.dequantized("w8only", bytes_, channels.astype(np.float16), {"axis": 0})
    graph.gemm("int8-weights", x, weights)
    weights = graph.dequantized("w4", nibbles, blocks, blocked)
    graph.gemm("int4", x, weights)
    # Its number of outputs is odd: TensorRT-RTX 1.7.1 writes the weights out in float16.
    weights = graph.dequantized("w4odd", nibbles[1:], blocks[1:], blocked)
    graph.gemm("int4-odd", x, weights)
    return graph.build(tmp_path_factory.mktemp("gemms"))


def test_each_gemm_is_reported_as_asked_and_as_built(report: GraphReport) -> None:
    gemms = {gemm.name: gemm for gemm in report.gemms}
    assert {name: gemm.asked for name, gemm in gemms.items()} == {
        "float16": Precision("float16", "float16"),
        "int8": Precision("int8", "int8"),
        "int8-weights": Precision("int8", "float16"),
        "int4": Precision("int4", "float16"),
        "int4-odd": Precision("int4", "float16"),
    }
    for name in ("float16", "int8", "int8-weights", "int4"):
        assert gemms[name].built == gemms[name].asked, name
        assert gemms[name].kept
    assert gemms["int8"].kind == "gemm"


def test_weights_that_are_dequantized_before_the_gemm_are_found(report: GraphReport) -> None:
    assert [gemm.name for gemm in report.lost] == ["int4-odd"]
    assert report.lost[0].built == Precision("float16", "float16")


def test_weight_bytes_are_those_of_the_stored_weights(report: GraphReport) -> None:
    elements = _OUTPUTS * _INPUTS
    stored = elements * (2 + 1 + 1 + 0.5 + 0.5)
    assert report.weight_bytes is not None
    # Scales and padding come to it; weights in float16 would be twice as much.
    assert stored <= report.weight_bytes < 1.2 * stored
    assert report.plan_bytes > report.weight_bytes


def test_without_the_builders_log_it_says_only_what_was_asked() -> None:
    asked = AskedGemm("up", Precision("int8", "int8"))
    summary = NetworkSummary((asked,), attentions=("self",), cache_updates=2)
    log = read_log([Message("VERBOSE", "Layers:\nName: a new format of the list, LayerType: gemm")])
    report = make_report(summary, log, plan_bytes=10)
    assert report.gemms == (Gemm("up", asked.precision, None, ""),)
    assert report.gemms[0].kept is None
    assert report.lost == ()
    assert (report.attentions, report.fused_attentions, report.profiles) == (1, None, ())
    assert (report.weight_bytes, report.cache_updates) == (None, 2)
