"""Quantized bundles become engines whose GEMMs hold integers, not what was dequantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.export import export_module
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.tensorrt import Limits, Options, build_engines

from ....translators import TOKENS, Shape, make_translator, parts_of

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

BundleOf = Callable[[str, str], Path]

_LIMITS = Limits(max_batch=2, max_source_length=48, max_target_length=32, max_num_tokens=4)
#: Ampere, Ada and Blackwell.
_GPUS = ("8.6", "8.9", "12.0")


def gemms(
    bundle: Bundle, folder: Path
) -> tuple[Counter[tuple[str, str]], dict[str, int | None], int]:
    """(weights, inputs) as built, bytes of weights an engine, and GEMMs that lost precision."""
    made = build_engines(bundle, folder, Options(limits=_LIMITS, compute_capabilities=_GPUS))
    found: Counter[tuple[str, str]] = Counter()
    lost = 0
    for engine in made.engines.values():
        for gemm in engine.report.gemms:
            assert gemm.built is not None
            found[gemm.built.weights, gemm.built.inputs] += 1
        lost += len(engine.report.lost)
    return found, {name: e.report.weight_bytes for name, e in made.engines.items()}, lost


@pytest.mark.parametrize("shape", ["t5", "t5-v1.1", "bart", "torch"])
def test_static_int8_is_an_int8_gemm(
    shape: str, tensorrt_bundle_of: BundleOf, tmp_path: Path
) -> None:
    bundle = Bundle.open(tensorrt_bundle_of(shape, "int8-qdq"))
    layers = bundle.manifest.quantization["layers"]
    static = [name for name, what in layers.items() if "static int8 inputs" in what]
    found, _, lost = gemms(bundle, tmp_path / "engines")
    assert lost == 0
    assert found["int8", "int8"] == len(static) > 10
    # The head alone is left, in float16.
    assert sum(found.values()) == len(static) + 1


@pytest.mark.parametrize("shape", ["t5", "bart", "torch"])
def test_int4_weights_reach_the_gemm(
    shape: str, tensorrt_bundle_of: BundleOf, tmp_path: Path
) -> None:
    bundle = Bundle.open(tensorrt_bundle_of(shape, "int4"))
    layers = bundle.manifest.quantization["layers"]
    four = [name for name, what in layers.items() if what.startswith("int4 weights")]
    found, weights, lost = gemms(bundle, tmp_path / "int4")
    assert lost == 0
    assert found["int4", "float16"] == len(four) > 10
    # The head, and layers whose width (T5's 72) no block divides.
    eight = [name for name, what in layers.items() if what == "int8 weights per channel"]
    tables = set(eight) & {"embedding", "decoder_embedding"}
    assert found["int8", "float16"] == len(eight) - (0 if shape != "torch" else len(tables))
    assert len(four) + len(eight) == len(layers)
    half = Bundle.open(tensorrt_bundle_of(shape, "fp16"))
    _, all_weights, _ = gemms(half, tmp_path / "fp16")
    assert weights["encoder"] is not None and all_weights["encoder"] is not None
    assert weights["encoder"] < 0.6 * all_weights["encoder"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_odd_length_stays_int8(
    tied: bool, tensorrt_bundle_of: BundleOf, tmp_path: Path
) -> None:
    if tied:
        path = tensorrt_bundle_of("bart-odd", "int4")
    else:
        shape, path = Shape(norm_first=True, target_vocab=391, layers=(1, 1)), tmp_path / "int4"
        model, parts = make_translator(shape), parts_of(shape)
        export_module(model, tmp_path / "bundle", parts=parts, tokens=TOKENS, validate=False)
        quantize_bundle(tmp_path / "bundle", path, "int4", target="tensorrt")
    bundle = Bundle.open(path)
    assert bundle.manifest.dimensions.vocab_size % 2
    found, _, lost = gemms(bundle, tmp_path / "engines")
    assert lost == 0
    assert found["int8", "float16"] == 1
