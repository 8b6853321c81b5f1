"""Quantized bundles compute nearly what their float32 bundle computes, in fewer bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.quantize import Options, QuantizationError, quantize_bundle
from seq2edge.runtime import (
    Bundle,
    BundleError,
    GenerationConfig,
    OutputExistsError,
    Seq2SeqModel,
)

from .conftest import keep_weights, logits

BundleOf = Callable[[str], Path]
SHAPES = ["t5", "t5-v1.1", "umt5", "bart", "bart-scaled"]
#: Scheme, options and the largest mean |difference| of logits, in standard deviations of them.
SCHEMES: dict[str, tuple[str, Options, float]] = {
    "fp16": ("fp16", Options(), 0.002),
    "int8": ("int8", Options(), 0.1),
    "int4": ("int4", Options(block_size=32), 0.4),
    "int4 k-quant": ("int4", Options(block_size=32, algorithm="k-quant"), 0.4),
}


def operators(path: Path, graph: str) -> set[str]:
    return set(Bundle.open(path).manifest.graphs[graph].operators)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_stay_near_float32s(
    shape: str, name: str, bundle_of: BundleOf, tmp_path: Path
) -> None:
    scheme, options, allowed = SCHEMES[name]
    quantize_bundle(bundle_of(shape), tmp_path / "out", scheme, options=options, check=False)
    Bundle.open(tmp_path / "out").verify()
    expected, found = logits(bundle_of(shape)), logits(tmp_path / "out")
    difference = np.abs(found - expected).mean() / expected.std()
    assert 0 < difference < allowed


def test_more_bits_and_smaller_blocks_lose_less(bundle_of: BundleOf, tmp_path: Path) -> None:
    expected = logits(bundle_of("bart"))

    def loss(scheme: str, **options: Any) -> float:
        out = tmp_path / f"{scheme}-{options}"
        quantize_bundle(bundle_of("bart"), out, scheme, options=Options(**options), check=False)
        return float(np.abs(logits(out) - expected).mean())

    rounded = loss("int4", block_size=32)
    assert loss("fp16") < loss("int8") < rounded
    assert loss("int4", block_size=16, symmetric=False) < rounded


def test_operators_are_those_of_the_scheme(bundle_of: BundleOf, tmp_path: Path) -> None:
    quantize_bundle(bundle_of("t5"), tmp_path / "int8", "int8")
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= operators(tmp_path / "int8", "encoder")
    decoder = operators(tmp_path / "int8", "decoder")
    assert {"MatMulNBits", "GatherBlockQuantized"} <= decoder
    assert not {"MatMul", "Gemm"} & (decoder | operators(tmp_path / "int8", "encoder"))


def test_a_tied_embedding_is_stored_once(bundle_of: BundleOf, tmp_path: Path) -> None:
    quantize_bundle(bundle_of("t5"), tmp_path / "out", "int8")
    weights = Bundle.open(tmp_path / "out").manifest.weights
    rows, packed = weights["embedding.packed_rows"], weights["embedding.packed"]
    assert (rows.offset, rows.length) == (packed.offset, packed.length)
    assert (len(rows.shape), len(packed.shape)) == (2, 3)


def test_the_manifest_says_what_was_done(bundle_of: BundleOf, tmp_path: Path) -> None:
    result = quantize_bundle(
        bundle_of("t5"), tmp_path / "out", "int4", exclude=["decoder.layers.1.*", "encoder.*qkv"]
    )
    before, after = Bundle.open(bundle_of("t5")).manifest, Bundle.open(tmp_path / "out").manifest
    assert after == result.manifest
    layers = after.quantization["layers"]
    kept = {name for name, treatment in layers.items() if treatment == "float32"}
    assert {name.split(".ffn")[0].split(".self")[0].split(".cross")[0] for name in kept} == {
        "decoder.layers.1",
        *(f"encoder.layers.{n}" for n in range(3)),
    }
    assert layers["embedding"].startswith("int8")
    assert after.parameters == before.parameters
    assert after.graphs["decoder"].precision == "int4"
    assert after.graphs["logsumexp"] == before.graphs["logsumexp"]
    for name in kept:
        assert after.weights[f"{name}.weight"].dtype == "float32"


def test_text_comes_out_of_a_quantized_bundle(bundle_of: BundleOf, tmp_path: Path) -> None:
    source = [[5, 6, 7, 8, 1]]
    config = GenerationConfig(max_new_tokens=20, num_beams=3)
    with Seq2SeqModel.load(bundle_of("t5-v1.1")) as model:
        expected = model.generate_ids(source, config=config)[0]
    quantize_bundle(bundle_of("t5-v1.1"), tmp_path / "out", "fp16")
    with Seq2SeqModel.load(tmp_path / "out") as model:
        found = model.generate_ids(source, config=config)[0]
    assert found.token_ids == expected.token_ids
    assert found.score == pytest.approx(expected.score, abs=0.02)


def test_what_cannot_be_quantized_is_refused(bundle_of: BundleOf, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(match: str, scheme: str = "int8", path: Path | None = None, **more: Any) -> None:
        with pytest.raises(QuantizationError, match=match):
            quantize_bundle(path or bundle_of("t5"), out, scheme, **more)
        assert not list(tmp_path.glob("out*")) + list(tmp_path.glob(".*"))

    refused("unknown scheme 'int3' for 'cpu'; there are: fp32, fp16, int8, int8-dynamic", "int3")
    refused("unknown target 'abacus'; there are: cpu, cuda, tensorrt", target="abacus")
    refused("block size 48; allowed", options=Options(block_size=48))
    refused("method means nothing to int8 for cpu", options=Options(method="entropy"))
    both = Options(method="entropy", smoothquant=0.5)
    refused("method 'entropy' with smoothquant", "int8-qdq", options=both)
    refused("algorithm 'best'", "int4", options=Options(algorithm="best"))
    refused("pattern 'nothing.*' matches no layer; layers are named like", exclude=["nothing.*"])
    done = tmp_path / "done"
    quantize_bundle(bundle_of("t5"), done, "int8")
    refused("quantized already", "int4", path=done)


def test_weights_that_are_not_finite_are_named(bundle_of: BundleOf, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_of("t5"), tmp_path / "copy"))
    place = Bundle.open(copy).manifest.weights["decoder.layers.0.ffn.up.weight"]
    with (copy / "weights.bin").open("r+b") as file:
        file.seek(place.offset + 40)
        file.write(np.float32("nan").tobytes())
    keep_weights(copy)
    with pytest.raises(QuantizationError, match=r"not finite .* decoder\.layers\.0\.ffn\.up"):
        quantize_bundle(copy, tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_kept(bundle_of: BundleOf, tmp_path: Path) -> None:
    quantize_bundle(bundle_of("t5"), tmp_path / "out", "int8")
    with pytest.raises(OutputExistsError, match="--force"):
        quantize_bundle(bundle_of("t5"), tmp_path / "out", "int4")
    assert Bundle.open(tmp_path / "out").manifest.quantization["scheme"] == "int8"
    quantize_bundle(bundle_of("t5"), tmp_path / "out", "int4", overwrite=True)
    assert Bundle.open(tmp_path / "out").manifest.quantization["scheme"] == "int4"


def test_a_damaged_bundle_is_not_quantized(bundle_of: BundleOf, tmp_path: Path) -> None:
    # The copy would have hashes of its own, and nobody could tell any more.
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle_of("t5"), damaged)
    weights = damaged / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BundleError, match=r"changed since it was written .*weights.bin"):
        quantize_bundle(damaged, tmp_path / "out", "int8")
    assert not (tmp_path / "out").exists()
