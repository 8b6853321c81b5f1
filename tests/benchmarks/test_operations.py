"""Operations of a graph: what the profiler's shapes add up to is what the weights say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from seq2edge.benchmarks.operations import Operations, operations_of
from seq2edge.benchmarks.stepper import step_operations
from seq2edge.benchmarks.workload import Workload
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Bundle

#: 2 sources of 5 tokens, and a step that sees 8 slots.
WORK = Workload(source_length=5, new_tokens=8, batch_size=2, runs=1, warmup=1, threads=1)


def weights(path: Path, graph: str) -> int:
    """Elements of all matrices that a float32 graph multiplies by."""
    model = onnx.load(
        path / Bundle.open(path).manifest.graphs[graph].file, load_external_data=False
    )
    sizes = {one.name: one.dims[0] * one.dims[1] for one in model.graph.initializer if one.dims[1:]}
    return sum(
        sizes[node.input[1]] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")
    )


def expected(path: Path) -> dict[str, tuple[int, int]]:
    """Operations of products and of attention, of the encoder and of a step."""
    sizes = Bundle.open(path).manifest.dimensions
    width = sizes.decoder_heads * sizes.decoder_head_dim
    # Scores, and their products with values; in the encoder of 5 with 5.
    encoder = sizes.encoder_layers * 2 * width * 5 * 5
    step = sizes.decoder_layers * 2 * width * (8 + 5)
    return {
        "encoder": (2 * 2 * 5 * weights(path, "encoder"), 2 * 2 * encoder),
        "step": (2 * 2 * weights(path, "decoder"), 2 * 2 * step),
    }


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_they_are_those_of_all_weights_and_of_attention(
    bundle_of: Callable[[str], Path], family: str
) -> None:
    path = bundle_of(family)
    found = step_operations(path, WORK)
    for part, (linear, attention) in expected(path).items():
        assert found[part].attention == attention
        assert found[part].by_precision == {"float32": linear + attention}
        assert found[part].not_counted == {}


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic", "int4"])
def test_quantized_products_are_int8(
    bundle_of: Callable[[str], Path], tmp_path: Path, scheme: str
) -> None:
    path = bundle_of("t5")
    quantize_bundle(path, tmp_path / scheme, scheme, check=False)
    found = step_operations(tmp_path / scheme, WORK)
    for part, (linear, attention) in expected(path).items():
        assert found[part].total == linear + attention
        assert found[part].by_precision["int8"] == linear
        assert found[part].by_precision["float32"] == found[part].attention == attention


def test_they_grow_with_rows_and_attention_with_lengths(bundle_of: Callable[[str], Path]) -> None:
    path = bundle_of("t5")
    one = step_operations(path, WORK)
    more = step_operations(path, replace(WORK, batch_size=6, source_length=10, new_tokens=16))
    linear = {part: found.total - found.attention for part, found in one.items()}
    assert more["step"].total - more["step"].attention == 3 * linear["step"]
    assert more["step"].attention == 6 * one["step"].attention
    assert more["encoder"].attention == 12 * one["encoder"].attention


def test_a_model_that_hears_has_convolutions(speaking_bundle: Path) -> None:
    work = Workload(audio_seconds=2, new_tokens=8, runs=1, warmup=1, threads=1)
    found = step_operations(speaking_bundle, work)["encoder"]
    assert found.not_counted == {}
    manifest = Bundle.open(speaking_bundle).manifest
    sizes = manifest.dimensions
    mels = int(manifest.graphs["encoder"].inputs[0].shape[1])
    width, positions = sizes.d_model, 100
    # Kernels of 3: all 200 frames of mels, and every second one of the first one's output.
    convolutions = 3 * (mels * width * 2 * positions + width * width * positions)
    linear = weights_of_products(speaking_bundle) * positions
    attention = sizes.encoder_layers * 2 * width * positions * positions
    assert found.by_precision == {"float32": 2 * (convolutions + linear + attention)}


def weights_of_products(path: Path) -> int:
    return weights(path, "encoder")


def node(operator: str, *shapes: dict[str, list[int]]) -> dict[str, Any]:
    *inputs, output = shapes
    return {"op_name": operator, "input_type_shape": inputs, "output_type_shape": [output]}


def test_what_is_not_known_is_named() -> None:
    nodes = [
        node("Gemm", {"float16": [2, 8]}, {"float16": [4, 8]}, {"float16": [2, 4]}),
        node("NewFusedMatMul", {"float": [2, 8]}, {"float": [2, 4]}),
        node("Conv", {"float": [1, 3, 8]}, {"float": [1, 4, 8]}),  # its weights were packed
        node("Softmax", {"float": [2, 4]}, {"float": [2, 4]}),
    ]
    assert operations_of(nodes) == Operations(
        {"float16": 2 * 2 * 4 * 8}, not_counted={"NewFusedMatMul": 1, "Conv": 1}
    )
