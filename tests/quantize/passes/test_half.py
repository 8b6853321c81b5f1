"""float16: what does not fit stays float32, and so does what is told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from seq2edge.quantize import QuantizationError, quantize_bundle
from seq2edge.runtime import Bundle

from ..conftest import (
    BundleOf,
    CalibrationOf,
    calibrated,
    difference,
    logits,
    models,
    read_weight,
    reference,
    scale_weight,
)

CopyOf = Callable[[Path], Path]
TARGETS = ("cuda", "tensorrt")


@pytest.fixture
def huge(short_of: BundleOf, copy_of: CopyOf) -> Path:
    """A T5 whose residual stream passes 65504 in both graphs, though no weight does."""
    copy = copy_of(short_of("t5"))
    for stage in ("encoder", "decoder"):
        scale_weight(copy, f"{stage}.layers.0.ffn.up.weight", 30)
        scale_weight(copy, f"{stage}.layers.0.ffn.down.weight", 1e4)
    return copy


@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_bfloat16_of_cuda_takes_the_largest_logit_in_float32(
    shape: str, short_of: BundleOf, tmp_path: Path
) -> None:
    """onnxruntime-gpu has no bfloat16 ArgMax, on which loading failed: seen on an H200."""
    quantize_bundle(short_of(shape), tmp_path / "out", "bf16", target="cuda")
    (node,) = (n for n in models(tmp_path / "out")["decoder"].graph if n.op_type == "ArgMax")
    (logits_read,) = node.inputs
    assert logits_read is not None and logits_read.dtype == ir.DataType.FLOAT
    producer = logits_read.producer()
    assert producer is not None and producer.inputs[0].dtype == ir.DataType.BFLOAT16


@pytest.mark.parametrize("target", TARGETS)
def test_values_beyond_float16_stay_float32(target: str, huge: Path, tmp_path: Path) -> None:
    expected, seen = logits(huge), calibrated(huge)
    assert np.isfinite(expected).all() and expected.std() > 0.1
    assert max(seen.largest.values()) > 65504
    out = tmp_path / "out"
    result = quantize_bundle(huge, out, "fp16", target=target, calibration=seen)
    assert difference(logits(out), expected) < 0.01
    assert all(np.isfinite(value).all() for value in encoder_values(out))
    recorded = result.manifest.quantization["float32_values"]
    assert recorded == {graph: list(names) for graph, names in result.float32_values.items()}
    for graph, model in models(out).items():
        if graph not in recorded:
            continue
        large = {
            name for (of, name), value in seen.largest.items() if of == graph and value > 65504
        }
        assert large and large <= set(recorded[graph])
        types = {value.name: value.dtype for node in model.graph for value in node.outputs}
        assert {types[name] for name in recorded[graph]} == {ir.DataType.FLOAT}
        # Only those: the stream before them and most of the layers are float16.
        halves = [name for name, dtype in types.items() if dtype == ir.DataType.FLOAT16]
        assert len(halves) > 2 * len(recorded[graph])


@pytest.mark.parametrize("target", TARGETS)
def test_a_calibration_that_saw_nothing_lets_them_overflow(
    target: str, huge: Path, tmp_path: Path
) -> None:
    """That the model above does need float32 somewhere."""
    seen = calibrated(huge)
    lie = replace(seen, largest=dict.fromkeys(seen.largest, 0.0))
    large = [
        name
        for (graph, name), value in seen.largest.items()
        if graph == "encoder" and value > 2 * 65504
    ]
    for calibration, finite in ((seen, True), (lie, False)):
        out = tmp_path / f"out-{finite}"
        result = quantize_bundle(huge, out, "fp16", target=target, calibration=calibration)
        assert bool(result.float32_values["encoder"]) == finite
        values = encoder_values(out, large)
        assert all(np.isfinite(value).all() == finite for value in values)


def encoder_values(bundle: Path, names: list[str] | None = None) -> list[np.ndarray]:
    """Values within the encoder, in the types that they have there; None: of all its nodes.

    On the CPU, ONNX Runtime computes in float32 and drops casts to float16 between nodes; those
    of a graph's outputs it keeps.
    """
    import onnxruntime

    model = models(bundle)["encoder"]
    found = {str(value.name): value for node in model.graph for value in node.outputs}
    names = list(found) if names is None else names
    own = {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(found[name] for name in names if name not in own)
    tapped = bundle / "tapped.onnx"
    ir.save(model, tapped)
    session = onnxruntime.InferenceSession(tapped, providers=["CPUExecutionProvider"])
    mask = np.ones((1, 1, 1, 8), np.bool_)
    feeds = {"input_ids": np.arange(3, 11)[None], "encoder_attention_mask": mask}
    values: list[np.ndarray] = session.run(names, feeds)
    return values


@pytest.mark.parametrize("target", TARGETS)
def test_without_calibration_the_residual_stream_is_float32(
    target: str, huge: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = quantize_bundle(huge, out, "fp16", target=target)
    assert result.float32_values["encoder"] and result.float32_values["decoder"]
    assert difference(logits(out), logits(huge)) < 0.01
    assert all(np.isfinite(value).all() for value in encoder_values(out))
    assert "calibration" not in result.manifest.quantization


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_what_overflows_with_integer_weights_stays_float32(
    scheme: str, huge: Path, tmp_path: Path
) -> None:
    """The outputs of MatMulNBits are asked about by the names that calibration saw."""
    out = tmp_path / "out"
    quantize_bundle(huge, out, scheme, target="cuda", calibration=calibrated(huge))
    assert difference(logits(out), logits(huge)) < 0.4
    assert all(np.isfinite(value).all() for value in encoder_values(out))


def test_there_is_room_above_what_was_seen(
    short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    seen = calibration_of("t5")
    value = ("encoder", max(name for graph, name in seen.inputs if graph == "encoder"))
    for largest, names in ((32_000.0, []), (33_000.0, [value[1]])):
        changed = replace(seen, largest={**seen.largest, value: largest})
        out = tmp_path / str(largest)
        result = quantize_bundle(short_of("t5"), out, "fp16", target="cuda", calibration=changed)
        assert list(result.float32_values["encoder"]) == names
        assert difference(logits(out), reference(short_of("t5"))) < 0.004


@pytest.mark.parametrize("scheme", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_layers_that_are_excluded_stay_float32(
    shape: str,
    scheme: str,
    short_of: BundleOf,
    calibration_of: CalibrationOf,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    result = quantize_bundle(
        short_of(shape),
        out,
        scheme,
        target="cuda",
        calibration=calibration_of(shape),
        exclude=["encoder.layers.0.*", "*.ffn.down", "embedding"],
    )
    said = result.manifest.quantization["layers"]
    kept = {layer for layer, treatment in said.items() if treatment == "float32"}
    assert {"embedding", "decoder.layers.1.ffn.down"} < kept
    assert {layer for layer in said if layer.startswith("encoder.layers.0.")} < kept
    assert "decoder.layers.0.ffn.up" not in kept
    weights = Bundle.open(out).manifest.weights
    for layer in kept:
        (name,) = (name for name in weights if name.startswith(f"{layer}.weight"))
        assert weights[name].dtype == "float32"
        exact = read_weight(short_of(shape), f"{layer}.weight")
        np.testing.assert_array_equal(read_weight(out, name), exact)
    assert difference(logits(out), reference(short_of(shape))) < 0.4


def test_with_everything_excluded_only_the_rest_is_float16(
    short_of: BundleOf, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = quantize_bundle(short_of("bart"), out, "fp16", target="cuda", exclude=["*"])
    assert set(result.manifest.quantization["layers"].values()) == {"float32"}
    assert 0 < difference(logits(out), reference(short_of("bart"))) < 0.004


def test_weights_beyond_float16_are_refused_as_storage(
    short_of: BundleOf, copy_of: CopyOf, tmp_path: Path
) -> None:
    copy, layer = copy_of(short_of("t5")), "decoder.layers.1.ffn.down"
    scale_weight(copy, f"{layer}.weight", 1e7)
    with pytest.raises(QuantizationError, match=f"more than float16 can .*--exclude {layer}"):
        quantize_bundle(copy, tmp_path / "out", "fp16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", TARGETS)
def test_weights_beyond_float16_stay_as_they_are(
    target: str, short_of: BundleOf, copy_of: CopyOf, tmp_path: Path
) -> None:
    copy, name = copy_of(short_of("t5")), "decoder.layers.1.ffn.down.weight"
    scale_weight(copy, name, 1e7)
    out = tmp_path / "out"
    quantize_bundle(copy, out, "fp16", target=target, calibration=calibrated(copy))
    np.testing.assert_array_equal(read_weight(out, f"{name}.float32"), read_weight(copy, name))
    assert difference(logits(out), reference(copy)) < 0.05
