"""Every scheme writes what it says, loads, and computes nearly what float32 computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from seq2edge.quantize import SCHEMES, Options, QuantizeResult, quantize_bundle
from seq2edge.quantize.numerics.gptq import gptq_blocks
from seq2edge.quantize.recipe.layers import find_layers
from seq2edge.quantize.recipe.schemes import QuantizationScheme
from seq2edge.quantize.recipe.weight_formats import WeightOnly
from seq2edge.runtime import BackendError, Bundle, GenerationConfig, Seq2SeqModel
from seq2edge.runtime.backends import load_backend

from .conftest import (
    BundleOf,
    CalibrationOf,
    difference,
    logits,
    models,
    random_sources,
    read_weight,
    reference,
    write_graphs,
)

SHAPES = ("t5", "t5-v1.1", "bart")
BF16 = [scheme for scheme in SCHEMES if scheme.compute == "bfloat16"]
RUNNABLE = [scheme for scheme in SCHEMES if scheme.compute != "bfloat16"]
#: The largest difference of logits in standard deviations, and how many of the most probable
#: tokens are among the twenty most probable ones at least.
ALLOWED = {
    "fp32": (1e-4, 1.0),
    "fp16": (0.004, 0.98),
    "int8": (0.1, 0.8),
    "int8-dynamic": (0.1, 0.8),
    "int8-qdq": (0.1, 0.8),
    "int4": (0.4, 0.7),
}
#: Bits of an element by the start of what the manifest says of a layer.
BITS = {"int4": 4, "int8": 8, "float16": 16, "bfloat16": 16, "float32": 32}


def name_of(scheme: QuantizationScheme) -> str:
    return f"{scheme.name}-{scheme.target}"


def run_nodes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ONNX Runtime from making int8 GEMMs that saturate on x86 without VNNI."""
    options = onnxruntime.SessionOptions

    def plain() -> Any:
        made = options()
        made.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return made

    monkeypatch.setattr(onnxruntime, "SessionOptions", plain)


def quantized(
    scheme: QuantizationScheme, bundle: Path, out: Path, calibration: Any, **options: Any
) -> QuantizeResult:
    return quantize_bundle(
        bundle,
        out,
        scheme.name,
        target=scheme.target,
        options=Options(**options),
        calibration=calibration,
        check=False,
    )


def expected_treatment(scheme: QuantizationScheme, layer: str) -> str:
    """How the manifest's word on a layer begins (all widths are multiples of 16)."""
    encoder = layer.startswith(("encoder.", "cross."))
    ends = layer in ("embedding", "lm_head")
    match scheme.name, scheme.target:
        case "fp16", "cpu":
            return "float16 storage"
        case "int8-dynamic", _:
            return "int8 weights per channel, dynamic int8 inputs"
        case "int8", "cpu" if encoder:
            return "int8 weights per channel, dynamic int8 inputs"
        case "int8", _:
            return "int8 weights, blocks of"
        case "int4", "tensorrt" if ends:
            return "int8 weights per channel"
        case "int4", "tensorrt":
            return "int"  # by the number of outputs and of blocks
        case "int4", _ if ends:
            return "int8 weights, blocks of"
        case "int4", "cpu" if encoder:
            return "int"  # int8 where no block divides the width
        case "int4", _:
            return "int4 weights, blocks of"
        case "int8-qdq", "cpu" if ends:
            return "int8 weights, blocks of"
        case "int8-qdq", "tensorrt" if ends:
            return "float16"
        case "int8-qdq", _:
            return "int8 weights per channel, static int8 inputs (percentile)"
        case _:
            return scheme.compute


def stored_bits(bundle: Bundle, layer: str) -> float:
    """Bits an element of the layer's weight takes in ``weights.bin``, scales and all."""
    places = {
        info.offset: info.length
        for name, info in bundle.manifest.weights.items()
        if name.startswith(f"{layer}.") and not name.endswith(".bias")
    }
    return 8 * sum(places.values())


def check_record(scheme: QuantizationScheme, source: Path, result: QuantizeResult) -> None:
    """The manifest says of every layer what the file holds of it."""
    before, after = Bundle.open(source), Bundle.open(result.path)
    record = after.manifest.quantization
    assert (record["scheme"], record["target"]) == (scheme.name, scheme.target)
    assert record["compute"] == scheme.compute
    linear = {
        name.removesuffix(".weight")
        for name, info in before.manifest.weights.items()
        if name.endswith(".weight")
        and len(info.shape) == 2
        and not name.endswith(("table.weight", "position_embedding.weight"))
        and "position" not in name
    }
    assert set(record["layers"]) == linear
    assert sum(record["summary"].values()) == len(linear)
    for layer, said in record["layers"].items():
        assert said.startswith(expected_treatment(scheme, layer)), layer
        bits = BITS[said.split()[0]]
        shape = before.manifest.weights[f"{layer}.weight"].shape
        found = stored_bits(after, layer) / (shape[0] * shape[1])
        # At most a float32 scale and a zero point for 16 elements, and one for each output.
        assert bits <= found <= bits + (5 if bits < 16 else 0), (layer, said)


def check_types(scheme: QuantizationScheme, bundle: Path) -> None:
    """What goes from graph to graph and from step to step is of the type computed in."""
    graphs = Bundle.open(bundle).manifest.graphs
    passed = [*graphs["encoder"].outputs, *graphs["decoder"].inputs, *graphs["decoder"].outputs]
    floats = {
        spec.name: spec.dtype
        for spec in passed
        if spec.name.startswith(("past_", "present_", "cross_"))
    }
    assert len({name.split(".")[0] for name in floats}) == 6
    assert set(floats.values()) == {scheme.compute}
    (dtype,) = (spec.dtype for spec in graphs["decoder"].outputs if spec.name == "logits")
    assert dtype == "float32"
    for name in ("encoder", "decoder"):
        assert graphs[name].precision == scheme.precision


@pytest.mark.parametrize("scheme", RUNNABLE, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_scheme_does_what_it_says(
    shape: str,
    scheme: QuantizationScheme,
    short_of: BundleOf,
    calibration_of: CalibrationOf,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    source, out = short_of(shape), tmp_path / "out"
    result = quantized(scheme, source, out, calibration_of(shape))
    Bundle.open(out).verify()
    check_record(scheme, source, result)
    check_types(scheme, out)
    if scheme.name == "int8-qdq":
        run_nodes_as_they_are(monkeypatch)
    found, expected = logits(out), reference(source)
    assert np.isfinite(found).all()
    largest, same = ALLOWED[scheme.name]
    assert 0 < difference(found, expected) < largest
    # One token may be the first of all, and a near one take its place: it stays near the top.
    first = np.take_along_axis(found, expected.argmax(-1)[..., None], axis=-1)
    assert ((found > first).sum(axis=-1) < 20).mean() >= same


@pytest.mark.parametrize("scheme", RUNNABLE, ids=name_of)
def test_text_is_generated_step_by_step(
    scheme: QuantizationScheme, short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    quantized(scheme, short_of("t5-v1.1"), tmp_path / "out", calibration_of("t5-v1.1"))
    equal = []
    with Seq2SeqModel.load(tmp_path / "out") as model:
        for ids in random_sources(384, 6):
            (whole,) = model.generate_ids([ids], max_new_tokens=12)
            for length in (3, 6, 9):
                # The same text, run at once in place of step by step.
                prefix = GenerationConfig(
                    decoder_prefix=tuple(whole.token_ids[:length]), max_new_tokens=1
                )
                (next_one,) = model.generate_ids([ids], config=prefix)
                equal.append(next_one.token_ids[-1:] == whole.token_ids[length : length + 1])
    # A dynamic scale is that of all tokens of a run.
    assert np.mean(equal) >= (0.6 if scheme.name == "int8-dynamic" else 0.9)


@pytest.mark.parametrize("scheme", BF16, ids=name_of)
@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_bfloat16(
    shape: str, scheme: QuantizationScheme, short_of: BundleOf, tmp_path: Path
) -> None:
    source, out = short_of(shape), tmp_path / "out"
    result = quantized(scheme, source, out, None)
    check_record(scheme, source, result)
    check_types(scheme, out)
    assert result.float32_values == {"encoder": [], "decoder": []}
    for name, info in Bundle.open(out).manifest.weights.items():
        if info.dtype == "bfloat16":
            exact = read_weight(source, name)
            np.testing.assert_allclose(read_weight(out, name), exact, rtol=2**-8, atol=1e-30)
    # ONNX Runtime has no bfloat16 on the CPU: the same graph with these weights in float32.
    assert 0 < difference(logits(in_float32(out)), reference(source)) < 0.02


def in_float32(bundle: Path) -> Path:
    """Turn a bfloat16 bundle into one that has the same values as float32."""
    graphs = models(bundle)
    for model in graphs.values():
        graph = model.graph
        for node in graph:
            if node.op_type == "Cast" and node.attributes["to"].as_int() == 16:
                node.attributes["to"] = ir.AttrInt64("to", 1)
            for value in node.outputs:
                if value.dtype == ir.DataType.BFLOAT16:
                    value.dtype = ir.DataType.FLOAT
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            if value.dtype == ir.DataType.BFLOAT16:
                value.dtype = ir.DataType.FLOAT
                if value.const_value is not None:
                    array = value.const_value.numpy()
                    assert array.dtype == ml_dtypes.bfloat16
                    value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
    path = bundle / "seq2edge.json"
    path.write_text(path.read_text().replace('"bfloat16"', '"float32"'))
    write_graphs(bundle, graphs)
    return bundle


# Widths and vocabularies that do not suit


@pytest.mark.parametrize("scheme", [s for s in RUNNABLE if s.name in ALLOWED], ids=name_of)
@pytest.mark.parametrize("shape", ["t5-odd", "bart-odd", "t5-v1.1-odd"])
def test_odd_widths_and_vocabularies(
    shape: str,
    scheme: QuantizationScheme,
    short_of: BundleOf,
    calibration_of: CalibrationOf,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if scheme.name == "int8-qdq":
        run_nodes_as_they_are(monkeypatch)
    expected = reference(short_of(shape))
    for bits in (None, 4) if scheme.name == "int4" else (None,):
        out = tmp_path / str(bits)
        quantized(scheme, short_of(shape), out, calibration_of(shape), head_bits=bits)
        found = logits(out)
        assert found.shape == expected.shape
        assert 0 < difference(found, expected) < ALLOWED[scheme.name][0]


@pytest.mark.parametrize("scheme", [s for s in RUNNABLE if s.name == "int4"], ids=name_of)
def test_head_and_embedding_of_4_bits(
    scheme: QuantizationScheme, short_of: BundleOf, tmp_path: Path
) -> None:
    for shape in SHAPES:
        sizes, losses = [], []
        for bits in (8, 4):
            out = tmp_path / f"{shape}-{bits}"
            result = quantized(scheme, short_of(shape), out, None, head_bits=bits, block_size=16)
            said = result.manifest.quantization["layers"]
            assert said["embedding"].startswith(f"int{bits} weights")
            assert said.get("lm_head", said["embedding"]).startswith(f"int{bits} weights")
            sizes.append((out / "weights.bin").stat().st_size)
            losses.append(difference(logits(out), reference(short_of(shape))))
        elements = 384 * 48 if shape != "bart" else 400 * 64
        tables = 2 if shape == "t5-v1.1" else 1
        assert sizes[0] - sizes[1] >= tables * elements * 0.3
        # The head is a small part of what 4 bits lose, and chance may make it less.
        assert losses[0] < 1.1 * losses[1]
        assert losses[1] < 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"symmetric": False, "head_bits": 4},
        {"algorithm": "k-quant", "head_bits": 4, "block_size": 32},
        {"algorithm": "gptq", "head_bits": 4},
        {"algorithm": "gptq", "symmetric": True, "block_size": 32},
    ],
    ids=["asymmetric", "k-quant", "gptq", "gptq-symmetric"],
)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_ways_to_round_to_4_bits(
    target: str,
    options: dict[str, Any],
    short_of: BundleOf,
    calibration_of: CalibrationOf,
    tmp_path: Path,
) -> None:
    for shape in ("t5-v1.1", "t5-odd"):
        out = tmp_path / shape
        found = quantize_bundle(
            short_of(shape),
            out,
            "int4",
            target=target,
            options=Options(**options),
            calibration=calibration_of(shape),
        )
        assert 0 < difference(logits(out), reference(short_of(shape))) < 0.45
        zero = "symmetric" if options.get("symmetric") else "asymmetric"
        said = [text for text in found.manifest.quantization["layers"].values() if "int4" in text]
        assert said and all(f", {zero}, " in text for text in said)
        assert found.manifest.quantization["options"] == options


def test_gptq_takes_each_layers_own_inputs(
    short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    source, out = short_of("bart"), tmp_path / "out"
    result = quantize_bundle(
        source,
        out,
        "int4",
        target="cuda",
        options=Options(algorithm="gptq", symmetric=True, head_bits=4),
        calibration=calibration_of("bart"),
    )
    inputs = calibration_of("bart").inputs
    for layer in find_layers(models(source)):
        plan = result.formats[layer.name]
        assert isinstance(plan, WeightOnly)
        (use,) = [use for use in layer.uses if use.node.op_type != "Gather"]
        value = use.node.inputs[0]
        assert value is not None
        moments = inputs[use.graph, str(value.name)].moments
        assert moments is not None and plan.algorithm == "gptq"
        expected = gptq_blocks(layer.matrix(), moments, plan)
        found = read_weight(out, f"{layer.name}.packed")
        np.testing.assert_array_equal(found, expected.packed)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_the_encoder_of_int4_computes_as_int8(
    symmetric: bool, short_of: BundleOf, tmp_path: Path
) -> None:
    for shape in ("t5", "bart-odd"):
        out = tmp_path / shape
        options = Options(symmetric=symmetric, block_size=32)
        quantize_bundle(short_of(shape), out, "int4", options=options)
        operators = Bundle.open(out).manifest.graphs["encoder"].operators
        assert "MatMulNBits" not in operators and "MatMul" not in operators
        assert operators["MatMulInteger"] >= 8
        assert difference(logits(out), reference(short_of(shape))) < 0.4


def test_4_bits_are_an_eighth_of_the_file(short_of: BundleOf, tmp_path: Path) -> None:
    for target in ("cpu", "cuda"):
        out = tmp_path / target
        quantize_bundle(
            short_of("bart"),
            out,
            "int4",
            target=target,
            options=Options(head_bits=4, block_size=128),
        )
        after, before = (
            sum(
                info.length
                for name, info in Bundle.open(path).manifest.weights.items()
                if ".layers." in name and "norm" not in name and "bias" not in name
            )
            for path in (out, short_of("bart"))
        )
        assert before / 8 <= after < before / 8 * (1.5 if target == "cpu" else 1.3)


def test_bfloat16_is_refused_by_the_cpu(short_of: BundleOf, tmp_path: Path) -> None:
    quantize_bundle(short_of("t5"), tmp_path / "out", "bf16", target="cuda")
    with pytest.raises(BackendError, match="bfloat16, which onnxruntime cannot do on a CPU"):
        load_backend(Bundle.open(tmp_path / "out"), num_threads=1)
