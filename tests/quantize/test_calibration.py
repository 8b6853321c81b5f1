"""Calibration sees what the model computes on the user's text, and keeps what is needed of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2edge.quantize import QuantizationError
from seq2edge.quantize.calibration import (
    METHODS,
    ActivationStatistics,
    calibrate,
    linear_inputs,
)
from seq2edge.quantize.calibration.capture import capture_activations
from seq2edge.quantize.calibration.statistics import BINS
from seq2edge.quantize.recipe.layers import find_layers
from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends import Step, load_backend, slot_backend
from seq2edge.runtime.errors import InputError

from .conftest import BundleOf, CalibrationOf, calibrated, models

SOURCES = [[5, 6, 7, 8, 1], [9, 4, 1], [3, 30, 300, 33, 3, 1]]


# What is seen


@pytest.mark.parametrize("shape", ["t5", "umt5", "bart"])
def test_what_is_captured_is_what_steps_with_the_cache_compute(
    shape: str, short_of: BundleOf
) -> None:
    bundle = Bundle.open(short_of(shape))
    seen: dict[str, list[np.ndarray]] = {}

    def observe(key: tuple[str, str], values: np.ndarray) -> None:
        assert values.dtype == np.float32
        if key[0] == "decoder":
            seen.setdefault(key[1], []).append(values.copy())

    pairs = capture_activations(bundle, SOURCES, observe)
    with Seq2SeqModel.load(bundle.directory) as model:
        outputs = [
            model.generate_ids([source], np.ones((1, len(source))))[0].token_ids
            for source in SOURCES
        ]
    assert [pair.target for pair in pairs] == outputs
    assert [pair.source for pair in pairs] == SOURCES
    start = bundle.manifest.special_tokens.decoder_start
    size = bundle.manifest.dimensions.vocab_size
    backend = load_backend(bundle, num_threads=1)
    for number, (source, output) in enumerate(zip(SOURCES, outputs, strict=True)):
        replayed = seen["logits"][number][0]
        assert replayed.shape == (len(output), size)
        ids = np.array([source])
        encoded = backend.encode({"input_ids": ids, "attention_mask": ids >= 0})
        cache = slot_backend(backend).new_cache(encoded, len(output))
        step = Step.allocate(1, 1, len(output), vocab_size=size)
        for place, token in enumerate([start, *output[:-1]]):
            step.input_ids[:], step.position_ids[:], step.write_indices[:] = token, place, place
            step.attention_mask[..., place] = True
            cache.forward(step)
            assert step.logits is not None
            np.testing.assert_allclose(step.logits[0, 0], replayed[place], atol=1e-4)


def test_texts_do_not_see_each_other(short_of: BundleOf) -> None:
    whole = calibrated(short_of("t5"), SOURCES, moments=True)
    parts = [calibrated(short_of("t5"), [source], moments=True) for source in SOURCES]
    assert whole.origin.texts == 3
    assert whole.origin.tokens == sum(part.origin.tokens for part in parts)
    for key, activation in whole.inputs.items():
        apart = [part.inputs[key] for part in parts]
        assert activation.tokens == sum(each.tokens for each in apart)
        largest = np.max([each.channel_max for each in apart], axis=0)
        np.testing.assert_allclose(activation.channel_max, largest, rtol=1e-4)
        assert activation.moments is not None
        total = sum(each.moments for each in apart)
        np.testing.assert_allclose(activation.moments, total, atol=1e-3 * np.abs(total).max())
    for key, value in whole.largest.items():
        assert value == pytest.approx(max(part.largest[key] for part in parts), rel=1e-4)


@pytest.mark.parametrize("shape", ["t5-v1.1", "bart"])
def test_every_linear_input_and_every_float_is_seen(
    shape: str, short_of: BundleOf, calibration_of: CalibrationOf
) -> None:
    found, graphs = calibration_of(shape), models(short_of(shape))
    assert set(found.inputs) == linear_inputs(find_layers(graphs))
    assert {graph for graph, _ in found.inputs} == {"encoder", "decoder"}
    for graph in ("encoder", "decoder"):
        floats = {
            (graph, value.name)
            for node in graphs[graph].graph
            for value in node.outputs
            if value.dtype is not None and value.dtype.name == "FLOAT"
        }
        assert floats <= set(found.largest)
    for key, activation in found.inputs.items():
        assert activation.largest == pytest.approx(found.largest[key])
        assert activation.histogram.sum() == activation.tokens * len(activation.channel_max)


def test_generation_is_greedy_whatever_the_bundle_says(
    short_of: BundleOf, copy_of: Callable[[Path], Path]
) -> None:
    expected = calibrated(short_of("bart"), SOURCES)
    copy = copy_of(short_of("bart"))
    manifest = json.loads((copy / "seq2edge.json").read_text())
    manifest["generation"].update(
        num_beams=4, num_return_sequences=2, early_stopping=True, length_penalty=2.0
    )
    (copy / "seq2edge.json").write_text(json.dumps(manifest))
    found = calibrated(copy, SOURCES)
    assert (found.origin, found.largest) == (expected.origin, expected.largest)


def test_sources_that_the_model_does_not_take(short_of: BundleOf) -> None:
    for shape, source in (("t5", [384]), ("t5", [-1]), ("bart", [5] * 81)):
        with pytest.raises(InputError):
            calibrated(short_of(shape), [source])
    with pytest.raises(InputError, match="no tokenizer"):
        calibrate(Bundle.open(short_of("t5")), ["some text"], set())


# What is kept


def test_statistics_are_those_of_all_values() -> None:
    generator = np.random.default_rng(0)
    parts = [
        (generator.normal(size=shape) * scale).astype(np.float32)
        for shape, scale in (((3, 7), 1), ((2, 5, 7), 30), ((1, 1, 7), 0.1), ((4, 7), 3))
    ]
    found = ActivationStatistics.empty(7, moments=True)
    for part in parts:
        found.add(part)
    rows = np.concatenate([part.reshape(-1, 7) for part in parts])
    np.testing.assert_array_equal(found.channel_max, np.abs(rows).max(axis=0))
    assert found.largest == np.abs(rows).max()
    assert found.minimum == rows.min()
    assert found.tokens == len(rows)
    assert found.moments is not None
    exact = rows.astype(np.float64).T @ rows
    np.testing.assert_allclose(found.moments, exact, rtol=1e-5, atol=1e-3)
    assert ActivationStatistics.empty(7, moments=False).moments is None


@settings(max_examples=40, deadline=None)
@given(
    scales=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=6),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_histogram_counts_every_value_whatever_it_widens_to(
    scales: list[float], zeros: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    found, values = ActivationStatistics.empty(5, moments=False), []
    for scale in scales:
        part = (generator.normal(size=(8, 5)) * scale).astype(np.float32)
        part[generator.random(part.shape) < zeros] = 0
        found.add(part)
        values.append(np.abs(part).ravel())
    magnitudes = np.concatenate(values)
    if not magnitudes.any():
        assert found.edge == 0
        return
    assert found.edge >= magnitudes.max() > 0
    assert found.histogram.shape == (BINS,)
    assert found.histogram.sum() == magnitudes.size or not values[0].any()
    # Each coarse bin holds what belongs there; values on a border may be on either side.
    edges = np.linspace(0, found.edge, 65)
    coarse = found.histogram.reshape(64, -1).sum(axis=1).cumsum()
    for upper, count in zip(edges[1:], coarse, strict=True):
        below = (magnitudes < upper * (1 - 1e-5)).sum(), (magnitudes <= upper * (1 + 1e-5)).sum()
        unseen = magnitudes.size - found.histogram.sum()
        assert below[0] - unseen <= count <= below[1]


def test_zeros_before_anything_else_do_not_matter() -> None:
    found = ActivationStatistics.empty(2, moments=False)
    found.add(np.zeros((3, 2), np.float32))
    assert [found.threshold(method) for method in METHODS] == [0, 0, 0]
    found.add(np.array([[0.5, -2]], np.float32))
    assert found.threshold("minmax") == 2


def test_tiny_values_are_counted() -> None:
    found = ActivationStatistics.empty(2, moments=False)
    with np.errstate(all="ignore"):
        found.add(np.array([[0, 1e-38]], np.float32))
    assert found.histogram.sum() == 2


def activation_of(values: np.ndarray) -> ActivationStatistics:
    found = ActivationStatistics.empty(values.shape[-1], moments=False)
    for part in np.array_split(values, 4):
        found.add(part.astype(np.float32))
    return found


def thresholds(values: np.ndarray) -> dict[str, float]:
    found = activation_of(values)
    return {method: found.threshold(method) for method in METHODS}


def gaussian(*, outlier: float | None = None) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(400, 100))
    if outlier is not None:
        values[3, 3] = outlier
    return values


def test_thresholds_of_values_without_outliers() -> None:
    uniform = np.random.default_rng(0).uniform(-1, 1, (400, 100))
    assert all(found == pytest.approx(1, abs=0.01) for found in thresholds(uniform).values())
    found = thresholds(gaussian())
    assert found["minmax"] == pytest.approx(np.abs(gaussian()).max())
    assert 3.3 < found["percentile"] < found["minmax"]
    assert 3 < found["entropy"] <= found["minmax"]
    ends = thresholds(np.where(gaussian() > 0, 1.0, -1.0))
    assert all(found == pytest.approx(1) for found in ends.values())


def test_the_percentile_leaves_a_ten_thousandth_above() -> None:
    values = np.abs(gaussian()).ravel()
    threshold = thresholds(gaussian())["percentile"]
    assert 0.5e-4 < (values > threshold).mean() <= 1e-4


def test_one_outlier_only_moves_the_largest() -> None:
    found = thresholds(gaussian(outlier=-40.0))
    assert found["minmax"] == 40
    assert 3.3 < found["percentile"] < 4.5
    assert 2.5 < found["entropy"] < 5


@pytest.mark.parametrize("outlier", [100.0, 600.0])
def test_entropy_leaves_a_far_outlier_out(outlier: float) -> None:
    assert thresholds(gaussian(outlier=outlier))["entropy"] < outlier / 4


def test_many_zeros_do_not_pull_thresholds_down() -> None:
    relu = np.maximum(gaussian() - 1, 0)  # five of six are zeros
    assert (relu == 0).mean() > 0.8
    found = thresholds(relu)
    assert found["minmax"] == pytest.approx(relu.max())
    assert found["percentile"] > 0.75 * relu.max()
    assert found["entropy"] > 0.6 * relu.max()
    assert activation_of(relu).minimum == 0


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(QuantizationError, match="'best'; there are: minmax, percentile, entropy"):
        activation_of(gaussian()).threshold("best")


def test_scaled_statistics_are_those_of_scaled_values() -> None:
    factor = np.random.default_rng(1).uniform(0.1, 9, 100).astype(np.float32)
    found = activation_of(gaussian()).scaled(factor)
    np.testing.assert_allclose(
        found.channel_max, np.abs(gaussian() * factor).max(axis=0), rtol=1e-5
    )
    for method in METHODS:
        assert found.threshold(method) == found.largest
