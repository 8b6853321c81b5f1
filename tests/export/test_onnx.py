"""The graphs are valid standard ONNX, and the manifest says what is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from seq2edge.runtime import Bundle
from seq2edge.runtime.bundle.manifest import TensorSpec

SHAPES = ["t5", "umt5", "bart"]
GRAPHS = ["encoder", "decoder"]
_SMALL = 4096  # bytes

pytestmark = [
    pytest.mark.parametrize("graph", GRAPHS),
    pytest.mark.parametrize("shape", SHAPES),
]


@pytest.fixture
def bundle(shape: str, bundle_of: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle_of(shape))


@pytest.fixture
def file(graph: str, bundle: Bundle) -> Path:
    return bundle.path(f"{graph}.onnx")


def dimension(size: onnx.TensorShapeProto.Dimension) -> int | str:
    value: int | str = getattr(size, size.WhichOneof("value"))
    return value


def described(values: list[onnx.ValueInfoProto]) -> list[TensorSpec]:
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        found.append(TensorSpec(value.name, dtype.name, tuple(map(dimension, tensor.shape.dim))))
    return found


def stored_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Initializers and constants."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors


def test_the_onnx_checker_accepts_the_file(file: Path) -> None:
    onnx.checker.check_model(str(file), full_check=True)


def test_shape_inference_agrees_with_the_declared_outputs(file: Path) -> None:
    model = onnx.load(file, load_external_data=False)
    declared = described(list(model.graph.output))
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    found = described(list(inferred.graph.output))
    assert [(spec.name, spec.dtype) for spec in found] == [
        (spec.name, spec.dtype) for spec in declared
    ]
    for spec, wanted in zip(found, declared, strict=True):
        assert len(spec.shape) == len(wanted.shape)
        # Inference has names of its own for some dynamic sizes; static ones must agree.
        for size, expected in zip(spec.shape, wanted.shape, strict=True):
            assert size == expected or (isinstance(expected, str) and isinstance(size, str))


def test_the_manifest_declares_the_inputs_and_outputs_of_the_file(
    graph: str, bundle: Bundle, file: Path
) -> None:
    model = onnx.load(file, load_external_data=False)
    info = bundle.manifest.graphs[graph]
    assert list(info.inputs) == described(list(model.graph.input))
    assert list(info.outputs) == described(list(model.graph.output))
    assert info.opset == model.opset_import[0].version
    assert [entry.domain for entry in model.opset_import] == [""]
    assert dict(info.operators) == dict(Counter(node.op_type for node in model.graph.node))


def test_the_interface_is_that_of_the_design(graph: str, shape: str, bundle: Bundle) -> None:
    info = bundle.manifest.graphs[graph]
    dims = bundle.manifest.dimensions
    layers = range(dims.decoder_layers)
    cross = {f"cross_{kind}.{i}" for kind in ("key", "value") for i in layers}
    if graph == "encoder":
        assert info.input_names() == {"input_ids", "encoder_attention_mask"}
        assert {spec.name for spec in info.outputs} == cross
        return
    step = {
        "input_ids",
        "position_ids",
        "attention_mask",
        "write_indices",
        "encoder_attention_mask",
    }
    if shape != "bart":
        step.add("cache_position_ids")  # only relative positions read it
    past = {f"past_{kind}.{i}" for kind in ("key", "value") for i in layers}
    assert info.input_names() == step | past | cross
    present = {name.replace("past", "present") for name in past}
    assert {spec.name for spec in info.outputs} == {"next_token_ids", "logits"} | present
    shapes = {spec.name: spec.shape for spec in (*info.inputs, *info.outputs)}
    cache = ("batch", dims.decoder_heads, "slots", dims.decoder_head_dim)
    assert {shapes[name] for name in past | present} == {cache}
    assert shapes["logits"] == ("batch", "queries", dims.vocab_size)
    assert shapes["attention_mask"] == ("batch", 1, "queries", "slots")


def test_the_graph_is_made_of_the_standard_operators(
    graph: str, shape: str, bundle: Bundle
) -> None:
    operators = bundle.manifest.graphs[graph].operators
    dims = bundle.manifest.dimensions
    norm, other = "RMSNormalization", "LayerNormalization"
    if shape == "bart":
        norm, other = other, norm
    assert other not in operators
    if graph == "encoder":
        assert operators["Attention"] == dims.encoder_layers
        assert "TensorScatter" not in operators
        # BART normalizes the embeddings, T5 the last layer's output.
        assert operators[norm] == 2 * dims.encoder_layers + 1
        return
    assert operators["Attention"] == 2 * dims.decoder_layers
    assert operators["TensorScatter"] == 2 * dims.decoder_layers
    assert operators[norm] == 3 * dims.decoder_layers + 1
    assert operators["ArgMax"] == 1


def test_no_large_tensor_is_stored_in_the_file(file: Path) -> None:
    model = onnx.load(file, load_external_data=False)
    inside = [t for t in stored_tensors(model) if t.data_location != TensorProto.EXTERNAL]
    sizes = {tensor.name: tensor.ByteSize() for tensor in inside}
    assert not {name: size for name, size in sizes.items() if size > _SMALL}
    outside = [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert len(outside) > 10
    assert file.stat().st_size < 100_000


def test_external_tensors_lie_where_the_manifest_says(bundle: Bundle, file: Path) -> None:
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        info = bundle.manifest.weights[tensor.name]
        assert place["location"] == "weights.bin"
        assert (int(place["offset"]), int(place["length"])) == (info.offset, info.length)
        assert tuple(tensor.dims) == info.shape
        assert tensor.data_type == TensorProto.FLOAT
