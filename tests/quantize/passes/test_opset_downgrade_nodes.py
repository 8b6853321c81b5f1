"""Single nodes as they are downgraded, and what is refused before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from seq2edge.quantize import DowngradeResult, QuantizationError, downgrade_opset, quantize_bundle
from seq2edge.quantize.passes.opset_downgrade.attention import AttentionPass
from seq2edge.quantize.passes.opset_downgrade.norm import RMSNormalizationPass
from seq2edge.quantize.passes.opset_downgrade.operators import refused_uses
from seq2edge.quantize.passes.opset_downgrade.opset import LowestOpsetPass
from seq2edge.runtime import BundleError, OutputExistsError

from ..conftest import BundleOf, CalibrationOf, models, write_graphs

# Within a node


def one_node(kind: str, attributes: dict[str, Any], /, **inputs: np.ndarray) -> ir.Model:
    """A graph of one node whose output ``y`` is like its first input."""
    values = [
        ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
        )
        for name, array in inputs.items()
    ]
    node = ir.node(kind, values, attributes, name=kind)
    (y,) = node.outputs
    y.name, y.shape = "y", values[0].shape
    y.dtype = values[0].dtype
    graph = ir.Graph(values, [y], nodes=[node], opset_imports={"": 24}, name=kind)
    return ir.Model(graph, ir_version=11)


def run(model: ir.Model, **inputs: np.ndarray) -> np.ndarray:
    """By the reference: ONNX Runtime's CPU kernels compute float16 in float32."""
    found: np.ndarray = ReferenceEvaluator(ir.to_proto(model)).run(None, inputs)[0]
    return found


def test_scores_that_only_their_scale_keeps_in_range() -> None:
    q = np.full((1, 1, 3, 16), 100, np.float16)
    k = q * np.array([1, 0.5, 0.99], np.float16)[:, None]
    assert float(np.finfo(np.float16).max) < 100 * 100 * 16
    v = np.random.default_rng(0).normal(size=q.shape).astype(np.float16)
    # The second query sees one key, the third none: what it gives is not said.
    mask = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0]], np.bool_)[None, None]
    inputs = {"q": q, "k": k, "v": v, "mask": mask}
    model = one_node("Attention", {"scale": 1 / 64}, **inputs)
    assert AttentionPass()(model).modified
    found = run(model, **inputs)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, 0, :2], v[0, 0, :2], atol=2e-3)


def test_squares_that_float16_does_not_hold() -> None:
    x = np.random.default_rng(0).normal(0, 3000, (2, 5, 8)).astype(np.float16)
    weight = np.linspace(-1, 2, 8, dtype=np.float16)
    model = one_node("RMSNormalization", {"epsilon": 0.5, "axis": -1}, x=x, weight=weight)
    assert RMSNormalizationPass()(model).modified
    exact = x.astype(np.float64)
    exact /= np.sqrt(np.square(exact).mean(-1, keepdims=True) + 0.5)
    np.testing.assert_allclose(run(model, x=x, weight=weight), exact * weight, atol=5e-3)


@pytest.mark.parametrize(
    ("kind", "attributes", "dtype", "opset"),
    [
        ("Cast", {"to": 1}, np.int8, 20),
        ("Cast", {"to": 1}, ml_dtypes.int4, 21),
        ("DequantizeLinear", {"axis": 0}, np.int8, 20),
        ("DequantizeLinear", {"axis": 0, "block_size": 2}, np.int8, 21),
        ("Cast", {"to": 1, "round_mode": "up"}, np.int8, None),
        # Of operators that changed, those that mean the same are listed; this one is not.
        ("Round", {}, np.float32, None),
    ],
)
def test_the_lowest_opset_has_the_types_and_attributes(
    kind: str, attributes: dict[str, Any], dtype: Any, opset: int | None
) -> None:
    inputs = {"x": np.ones((4, 2), dtype)}
    if kind == "DequantizeLinear":
        inputs["scales"] = np.ones((2, 2) if "block_size" in attributes else 4, np.float32)
    model = one_node(kind, attributes, **inputs)
    model.graph.outputs[0].dtype = ir.DataType.FLOAT
    if opset is None:
        with pytest.raises(QuantizationError, match="newer than opset 21"):
            LowestOpsetPass()(model)
    else:
        LowestOpsetPass()(model)
        assert model.opset_imports[""] == opset
        onnx.checker.check_model(ir.to_proto(model), full_check=True)


# What cannot be downgraded


def test_a_downgraded_bundle_is_the_last_step(short_of: BundleOf, tmp_path: Path) -> None:
    downgraded = downgrade_opset(short_of("t5"), tmp_path / "downgraded").path
    with pytest.raises(QuantizationError, match=r"was downgraded already \(opset 20\)"):
        downgrade_opset(downgraded, tmp_path / "out")
    with pytest.raises(QuantizationError, match="quantize the bundle that it was made from"):
        quantize_bundle(downgraded, tmp_path / "out", "int8")
    assert list(tmp_path.iterdir()) == [downgraded]


def test_paths_are_checked_first(
    short_of: BundleOf, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = copy_of(short_of("t5"))
    before = sorted(tmp_path.rglob("*"))
    for out, message in ((source, "are the same"), (source / "in", "lie in one another")):
        with pytest.raises(QuantizationError, match=message):
            downgrade_opset(source, out, overwrite=True)
    with pytest.raises(BundleError, match="no such bundle"):
        downgrade_opset(tmp_path / "none", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    out = tmp_path / "out"
    downgrade_opset(source, out)
    with pytest.raises(OutputExistsError, match="already exists"):
        downgrade_opset(source, out)
    assert isinstance(downgrade_opset(source, out, overwrite=True), DowngradeResult)


def changed(bundle: Path, change: Callable[[ir.Graph], None]) -> Path:
    """The copy with another decoder."""
    graphs = models(bundle)
    change(graphs["decoder"].graph)
    write_graphs(bundle, graphs)
    return bundle


@pytest.mark.parametrize(
    ("kind", "attribute", "message"),
    [
        ("Attention", ir.AttrFloat32("softcap", 30.0), "Attention with attribute softcap"),
        ("TensorScatter", ir.AttrString("mode", "circular"), "TensorScatter with attribute mode"),
        ("RMSNormalization", ir.AttrInt64("axis", 1), "RMSNormalization with attribute axis"),
    ],
)
def test_another_form_of_an_operator_is_refused(
    kind: str,
    attribute: ir.Attr,
    message: str,
    short_of: BundleOf,
    copy_of: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    def change(graph: ir.Graph) -> None:
        node = next(node for node in graph if node.op_type == kind)
        node.attributes[attribute.name] = attribute

    source = changed(copy_of(short_of("t5")), change)
    with pytest.raises(QuantizationError, match=rf"decoder/layers\.0/.*: {message}"):
        downgrade_opset(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_operator_that_nothing_lowers_is_named(
    short_of: BundleOf, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    def change(graph: ir.Graph) -> None:
        next(node for node in graph if node.op_type == "Relu").op_type = "Swish"

    source = changed(copy_of(short_of("t5")), change)
    with pytest.raises(QuantizationError, match=r"Relu_node_\d+: Swish, .* newer than opset 21"):
        downgrade_opset(source, tmp_path / "out")


def test_what_tensorrt_does_not_know_is_named(short_of: BundleOf, tmp_path: Path) -> None:
    source = tmp_path / "int8"
    quantize_bundle(short_of("t5"), source, "int8")
    path = source / "seq2edge.json"
    manifest = json.loads(path.read_text())
    manifest["quantization"]["target"] = "tensorrt"
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        QuantizationError, match=r"10\.3 does not take .*GatherBlockQuantized is no"
    ):
        downgrade_opset(source, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["int8"]


@pytest.mark.parametrize(
    ("kind", "attributes", "arrays", "reason"),
    [
        (
            "ScatterND",
            {"reduction": "add"},
            [np.ones(4, np.float32), np.zeros((1, 1), np.int64), np.ones(1, np.float32)],
            "ScatterND with a reduction",
        ),
        ("ReduceMean", {}, [np.ones((2, 2), np.float32), np.ones(1, np.int64)], "input 1 of"),
        (
            "DequantizeLinear",
            {},
            [np.ones((2, 3), ml_dtypes.int4), np.ones(1, np.float32)],
            "int4 with an odd last dimension",
        ),
        (
            "DequantizeLinear",
            {},
            [np.ones((2, 2), np.uint8), np.ones(1, np.float32)],
            "unsigned integers",
        ),
        (
            "DequantizeLinear",
            {},
            [np.ones((2, 2), np.int8), -np.ones(1, np.float32)],
            "a scale that is not positive",
        ),
    ],
)
def test_uses_that_tensorrts_parser_refuses(
    kind: str, attributes: dict[str, Any], arrays: list[np.ndarray], reason: str
) -> None:
    model = one_node(kind, attributes, **{f"x{n}": array for n, array in enumerate(arrays)})
    if kind == "DequantizeLinear":
        model.graph.inputs[1].const_value = ir.tensor(arrays[1], name="x1")
    (found,) = refused_uses(model)
    assert reason in found


def test_a_zero_point_is_not_for_tensorrt(
    short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    quantize_bundle(
        short_of("t5"),
        source,
        "int8-qdq",
        target="tensorrt",
        calibration=calibration_of("t5"),
    )

    def change(graph: ir.Graph) -> None:
        node = next(node for node in graph if node.op_type == "QuantizeLinear")
        node.inputs[2].const_value = ir.tensor(np.array(3, np.int8), name=node.inputs[2].name)

    with pytest.raises(QuantizationError, match="a zero point that is not zero"):
        downgrade_opset(changed(source, change), tmp_path / "out")
