"""The graphs, cast to float16, build into TensorRT engines (on the CPU, for SM 86).

TensorRT-RTX builds engines without a GPU, so the graphs cannot drift out of what TensorRT
takes without this test noticing. Running the engines needs a GPU and is not done here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from seq2edge.runtime import Bundle

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

#: Dynamic dimensions of the graphs: (minimum, optimum, maximum) of the profile. The cache is
#: static in T and in place only with a fixed number of slots.
_BATCH, _SOURCE, _SLOTS = (1, 1, 4), (1, 64, 128), (64, 64, 64)
_DIMENSIONS = {"batch": _BATCH, "source": _SOURCE, "slots": _SLOTS, "queries": (1, 1, 4)}


def to_float16(path: Path, folder: Path) -> Path:
    """The graph with float16 weights, inputs and outputs."""
    model = ir.load(path)
    graph = model.graph
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(tensor.numpy().astype("float16"), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    values = [*graph.inputs, *graph.outputs, *(out for node in graph for out in node.outputs)]
    for value in values:
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    out = folder / path.name
    ir.save(model, out)
    return out


def fix_slots(path: Path, slots: int) -> None:
    """Make the cache's T a constant, which TensorRT's in-place cache update demands."""
    model = ir.load(path)
    for value in [*model.graph.inputs, *model.graph.outputs]:
        assert value.shape is not None
        sizes = [slots if str(size) == "slots" else size for size in value.shape]
        value.shape = ir.Shape(sizes)
    for node in model.graph:
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None
    ir.save(model, path)


def build(path: Path) -> list[str]:
    """Build an engine for SM 86; the names of the layers that the parser made."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path))
    errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert parsed and not errors, errors
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    for value in ir.load(path).graph.inputs:
        profile.set_shape(value.name, *(_shape(value, kind) for kind in range(3)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, "TensorRT could not build the engine; its log is above"
    return [network.get_layer(i).type.name for i in range(network.num_layers)]


def _shape(value: ir.Value, kind: int) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(
        size if isinstance(size, int) else _DIMENSIONS[str(size.value)][kind]
        for size in value.shape
    )


@pytest.mark.parametrize("shape", ["t5", "umt5", "bart"])
def test_float16_graphs_build_for_sm86(
    shape: str, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = bundle_of(shape)
    dimensions = Bundle.open(bundle).manifest.dimensions
    encoder = build(to_float16(bundle / "encoder.onnx", tmp_path))
    assert encoder.count("ATTENTION_INPUT") == dimensions.encoder_layers
    path = to_float16(bundle / "decoder.onnx", tmp_path)
    fix_slots(path, _SLOTS[0])
    decoder = build(path)
    # Self and cross attention; keys and values.
    assert decoder.count("ATTENTION_INPUT") == 2 * dimensions.decoder_layers
    assert decoder.count("KV_CACHE_UPDATE") == 2 * dimensions.decoder_layers
