"""The decoder for the CUDA provider computes what the canonical one does; speed is a GPU's affair.

Its operators run on a CPU too, in float16 between casts to float32; in bfloat16 on a GPU alone
(tests/runtime/backends/onnxruntime/test_gpu.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray

from seq2edge.quantize import QuantizationError, quantize_bundle
from seq2edge.quantize.passes.cuda_lowering import lower_for_cuda
from seq2edge.quantize.recipe.options import Options
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.onnxruntime.session import cpu_graphs, cuda_graphs

from ..conftest import BundleOf

SIZES = {"batch": 2, "queries": 3, "slots": 16, "source": 7}
#: Where the three tokens stand, after four others.
FIRST = 4
Arrays = dict[str, NDArray[Any]]


def inputs_of(session: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """A tree step: the tokens see those before them, and the second source is a shorter one."""
    rng = np.random.default_rng(0)
    for spec in session.get_inputs():
        shape = [SIZES.get(size, size) for size in spec.shape]
        batch, queries, slots = (SIZES[name] for name in ("batch", "queries", "slots"))
        if spec.name == "input_ids":
            yield spec.name, rng.integers(3, 90, shape)
        elif spec.name == "position_ids":
            yield spec.name, np.tile(FIRST + np.arange(queries), (batch, 1))
        elif spec.name == "cache_position_ids":
            yield spec.name, np.tile(np.arange(slots), (batch, 1))
        elif spec.name == "write_indices":
            yield spec.name, np.full(batch, FIRST)
        elif spec.name == "attention_mask":
            seen = np.arange(slots) <= FIRST + np.arange(queries)[:, None]
            seen[2, FIRST + 1] = False  # the second and the third token are branches
            yield spec.name, np.broadcast_to(seen, shape).copy()
        elif spec.name == "encoder_attention_mask":
            there = np.ones(shape, np.bool_)
            there[1, ..., 5:] = False
            yield spec.name, there
        else:
            dtype = np.float16 if spec.type == "tensor(float16)" else np.float32
            yield spec.name, rng.standard_normal(shape).astype(dtype)


def computed(path: Path) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the cache is copied here, and not written in place
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(inputs_of(session))), strict=True))


@pytest.mark.parametrize(
    "shape", ["t5", "t5-v1.1", "umt5", "bart", "marian", "pegasus", "mbart-scaled"]
)
def test_the_lowered_decoder_gives_the_same(shape: str, bundle_of: BundleOf, copy_of: Any) -> None:
    folder = copy_of(bundle_of(shape))
    canonical = ir.load(folder / "decoder.onnx")
    lowered, refusal = lower_for_cuda({"decoder": canonical})
    assert refusal is None
    ir.save(lowered["decoder_cuda"], folder / "decoder_cuda.onnx")
    before, operators = (
        Counter(node.op_type for node in model.graph)
        for model in (canonical, lowered["decoder_cuda"])
    )
    assert not operators["Attention"] and operators["MultiHeadAttention"]
    if before["RMSNormalization"]:  # the first one adds nothing
        assert operators["RMSNormalization"] == 1
        added = operators["SkipSimplifiedLayerNormalization"]
        assert added == before["RMSNormalization"] - 1 == before["Add"] - operators["Add"]
    expected, found = (computed(folder / f"{name}.onnx") for name in ("decoder", "decoder_cuda"))
    assert list(found) == list(expected)
    for name, array in expected.items():
        largest = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * largest, err_msg=name)
    # What it was made from is as it was.
    assert any(node.op_type == "Attention" for node in canonical.graph)


@pytest.mark.parametrize("scheme", ["fp16", "bf16", "int8", "int4"])
def test_a_bundle_for_cuda_has_it_beside_the_canonical_one(
    scheme: str, short_of: BundleOf, tmp_path: Path
) -> None:
    quantize_bundle(short_of("t5"), tmp_path / "out", scheme, target="cuda", check=False)
    manifest = Bundle.open(tmp_path / "out").manifest
    lowering = manifest.quantization["lowering"]
    assert lowering == {"graphs": ["decoder_cuda"], "onnxruntime": "1.31"}
    assert manifest.graphs["decoder_cuda"].minimum_onnxruntime == "1.31"
    assert manifest.graphs["decoder_cuda"].precision == manifest.graphs["decoder"].precision
    # Others and older ones take the canonical graph.
    assert cuda_graphs(manifest, "1.31.1")["decoder"].file == "decoder_cuda.onnx"
    assert cuda_graphs(manifest, "1.30.0")["decoder"].file == "decoder.onnx"
    for graphs in (cpu_graphs(manifest, "1.32.0"), cuda_graphs(manifest, "1.31.1")):
        assert set(graphs) == {"encoder", "decoder", "logsumexp"}
    assert cpu_graphs(manifest, "1.32.0")["decoder"].file == "decoder.onnx"


@pytest.mark.parametrize(
    ("scheme", "shape"), [("fp16", "t5"), ("fp16", "bart"), ("int8", "t5"), ("int4", "t5")]
)
def test_it_is_as_near_in_float16(
    scheme: str, shape: str, short_of: BundleOf, tmp_path: Path
) -> None:
    quantize_bundle(short_of(shape), tmp_path / "out", scheme, target="cuda", check=False)
    expected, found = (
        computed(tmp_path / "out" / f"{name}.onnx") for name in ("decoder", "decoder_cuda")
    )
    scale = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=0.01 * scale)


def test_it_can_be_left_out(short_of: BundleOf, tmp_path: Path) -> None:
    options = Options(lowering=False)
    quantize_bundle(
        short_of("bart"), tmp_path / "out", "fp16", target="cuda", options=options, check=False
    )
    manifest = Bundle.open(tmp_path / "out").manifest
    assert "decoder_cuda" not in manifest.graphs and "lowering" not in manifest.quantization
    with pytest.raises(QuantizationError, match="lowering"):
        quantize_bundle(
            short_of("bart"), tmp_path / "other", "fp16", target="tensorrt", options=options
        )
