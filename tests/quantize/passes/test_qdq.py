"""Static int8: ranges from calibration, and outliers that move into the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from seq2edge.quantize import Options, quantize_bundle
from seq2edge.quantize.calibration import METHODS, Calibration, calibrate
from seq2edge.quantize.passes.smoothquant import SmoothQuantPass
from seq2edge.quantize.recipe.layers import Kind, Layer, find_layers
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
    write_graphs,
)

CopyOf = Callable[[Path], Path]


def static(bundle: Path, out: Path, calibration: Calibration, target: str, **options: Any) -> Path:
    exclude = options.pop("exclude", ())
    quantize_bundle(
        bundle,
        out,
        "int8-qdq",
        target=target,
        options=Options(**options),
        calibration=calibration,
        exclude=exclude,
        check=False,
    )
    return out


def constant(value: ir.Value | None) -> np.ndarray:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


# Ranges


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_inputs_have_the_range_that_was_seen(
    method: str,
    target: str,
    short_of: BundleOf,
    calibration_of: CalibrationOf,
    tmp_path: Path,
) -> None:
    seen = calibration_of("t5").inputs
    out = static(short_of("t5"), tmp_path / "out", calibration_of("t5"), target, method=method)
    positive = 0
    for graph in ("encoder", "decoder"):
        nodes = list(models(out)[graph].graph)
        pairs = [node for node in nodes if node.op_type == "QuantizeLinear"]
        names = [source_of(node.inputs[0]) for node in pairs]
        assert len(names) == len(set(names)) > 4  # one for all layers that read a value
        for node, name in zip(pairs, names, strict=True):
            threshold = seen[graph, name].threshold(method)
            scale, zero = constant(node.inputs[1]), constant(node.inputs[2])
            if target == "tensorrt":
                assert (zero.dtype, zero) == (np.int8, 0)
                expected = threshold / 127
            else:
                # After a ReLU nothing is below zero: all 8 bits go to what is above.
                above = seen[graph, name].minimum >= 0
                positive += above
                assert (zero.dtype, zero) == (np.uint8, 0 if above else 128)
                expected = threshold / (255 if above else 127)
            assert scale.dtype == np.float32
            assert scale == pytest.approx(expected, rel=1e-6)
    assert positive == (5 if target == "cpu" else 0)  # three and two layers


def source_of(value: ir.Value | None) -> str:
    """The name of what is quantized, before a cast from float16."""
    assert value is not None
    node = value.producer()
    if node is not None and node.op_type == "Cast":
        value = node.inputs[0]
    assert value is not None
    return str(value.name)


@pytest.mark.parametrize(("target", "bits"), [("cpu", 7), ("tensorrt", 8)])
def test_weights_have_a_scale_for_each_output(
    target: str, bits: int, short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    out = static(short_of("bart"), tmp_path / "out", calibration_of("bart"), target)
    for layer in find_layers(models(short_of("bart"))):
        if layer.kind is not Kind.LINEAR:
            continue
        values = read_weight(out, f"{layer.name}.int8").astype(np.float32)
        assert np.abs(values).max() == (64 if bits == 7 else 127)
        scales = np.abs(layer.matrix()).max(axis=0) / np.abs(values).max()
        assert np.abs(values * scales - layer.matrix()).max() <= 0.501 * scales.max()


def test_integer_products_compute_in_float32(
    short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    """Beside float16: TensorRT would write the integer sums as float16, where they overflow."""
    out = static(short_of("t5"), tmp_path / "out", calibration_of("t5"), "tensorrt")
    products = 0
    for graph in ("encoder", "decoder"):
        for node in models(out)[graph].graph:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert constant(node.inputs[1]).dtype == np.float32
            if node.op_type == "MatMul":
                products += 1
                reads = [value.producer() for value in node.inputs if value is not None]
                assert [read.op_type for read in reads if read] == ["DequantizeLinear"] * 2
    assert products == 26


def test_every_method_is_near_float32(
    short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    expected, found = reference(short_of("t5-v1.1")), []
    for method in METHODS:
        # Entropy takes a while: only the layers of one stage.
        out = static(
            short_of("t5-v1.1"),
            tmp_path / method,
            calibration_of("t5-v1.1"),
            "cpu",
            method=method,
            exclude=["encoder.*", "cross.*"],
        )
        said = Bundle.open(out).manifest.quantization
        assert said["layers"]["decoder.layers.0.ffn.up"].endswith(f"inputs ({method})")
        assert said["options"] == {"method": method}
        found.append(logits(out))
        assert 0 < difference(found[-1], expected) < 0.1
    assert not np.array_equal(found[0], found[2])


def test_excluded_layers_read_what_they_read_before(
    short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    for target in ("cpu", "tensorrt"):
        out = static(
            short_of("t5-v1.1"),
            tmp_path / target,
            calibration_of("t5-v1.1"),
            target,
            smoothquant=0.5,
            exclude=["*.ffn.gate", "encoder.layers.1.*"],
        )
        said = Bundle.open(out).manifest.quantization["layers"]
        assert said["decoder.layers.0.ffn.gate"] == "float32"
        assert said["decoder.layers.0.ffn.up"].startswith("int8")
        for layer in ("decoder.layers.0.ffn.gate", "encoder.layers.1.self_attention.qkv"):
            (name,) = (
                name
                for name in Bundle.open(out).manifest.weights
                if name.startswith(f"{layer}.weight")
            )
            exact = read_weight(short_of("t5-v1.1"), f"{layer}.weight")
            np.testing.assert_array_equal(read_weight(out, name), exact)


# SmoothQuant


@pytest.fixture
def uneven(short_of: BundleOf, copy_of: CopyOf) -> Callable[[str], Path]:
    """A bundle some of whose channels are much larger than the others behind the norms."""

    def get(shape: str) -> Path:
        copy = copy_of(short_of(shape))
        for name, info in Bundle.open(copy).manifest.weights.items():
            if "norm" in name and name.endswith("weight") and len(info.shape) == 1:
                for channel in (1, 17):
                    scale_weight(copy, name, 30, channel)
        return copy

    return get


def linear(graphs: dict[str, Any]) -> list[Layer]:
    return [layer for layer in find_layers(graphs) if layer.kind is Kind.LINEAR]


def evenness(channels: np.ndarray) -> float:
    return float(channels.max() / np.median(channels))


@pytest.mark.parametrize("shape", ["t5-v1.1", "bart"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_migration_does_not_change_what_is_computed(
    shape: str, alpha: float, uneven: Callable[[str], Path]
) -> None:
    bundle, sources = uneven(shape), [[5, 6, 7, 8, 1], [9, 30, 1]]
    expected, seen = logits(bundle), calibrated(bundle, sources)
    graphs = models(bundle)
    layers = linear(graphs)
    smoothquant = SmoothQuantPass(layers, seen.inputs, alpha)
    for model in graphs.values():
        smoothquant(model)
    known = smoothquant.inputs
    moved = [key for key in known if known[key] is not seen.inputs[key]]
    # BART's norms are read by the residual stream too, but for the encoder's last one.
    assert len(moved) == (1 if shape == "bart" else 3 * 2 + 2 * 3 + 1)
    for layer in layers:
        for use in layer.uses:
            weight = graphs[use.graph].graph.initializers[f"{layer.name}.weight"]
            weight.const_value = layer.weight
    write_graphs(bundle, graphs)
    assert difference(logits(bundle), expected) < 1e-4
    np.testing.assert_allclose(logits(bundle), expected, atol=1e-3 * np.abs(expected).max())
    # What is said of the inputs is what they are now.
    again = calibrate(Bundle.open(bundle), sources, set(seen.inputs))
    for key in moved:
        np.testing.assert_allclose(again.inputs[key].channel_max, known[key].channel_max, rtol=1e-2)
        assert again.inputs[key].tokens == known[key].tokens
        if alpha == 1:
            np.testing.assert_allclose(known[key].channel_max, 1, rtol=1e-4)
        elif alpha == 0.5:
            before = seen.inputs[key].channel_max
            assert evenness(known[key].channel_max) < evenness(before) / 2


def test_migration_leaves_the_calibration_alone(
    short_of: BundleOf, calibration_of: CalibrationOf, tmp_path: Path
) -> None:
    seen = calibration_of("t5").inputs
    before = {key: kept.channel_max.copy() for key, kept in seen.items()}
    for number in range(2):
        static(short_of("t5"), tmp_path / str(number), calibration_of("t5"), "cpu", smoothquant=0.5)
    for key, kept in seen.items():
        np.testing.assert_array_equal(kept.channel_max, before[key])
    files = [(tmp_path / number / "weights.bin").read_bytes() for number in "01"]
    assert files[0] == files[1]


def test_migration_with_channels_that_are_always_zero(
    short_of: BundleOf, copy_of: CopyOf, tmp_path: Path
) -> None:
    copy = copy_of(short_of("t5"))
    scale_weight(copy, "decoder.layers.0.ffn_norm.weight", 0, 5)
    out = static(copy, tmp_path / "out", calibrated(copy), "cpu", smoothquant=0.5)
    assert difference(logits(out), logits(copy)) < 0.1


def test_migration_helps_where_channels_are_uneven(
    uneven: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = uneven("t5-v1.1")
    seen, losses = calibrated(bundle), []
    for alpha in (None, 0.5):
        out = static(bundle, tmp_path / str(alpha), seen, "cpu", smoothquant=alpha, method="minmax")
        losses.append(difference(logits(out), logits(bundle)))
    assert losses[1] < 0.8 * losses[0]
