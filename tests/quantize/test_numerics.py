"""Integers and scales stand for the weights they were made of, within the error of rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2edge.quantize.errors import QuantizationError
from seq2edge.quantize.numerics.gptq import gptq_blocks
from seq2edge.quantize.numerics.rounding import (
    BlockTensors,
    fitting_block,
    pack,
    quantize_blocks,
    quantize_channels,
    unpack,
)
from seq2edge.quantize.recipe.options import BLOCK_SIZES
from seq2edge.quantize.recipe.weight_formats import WeightOnly

#: Inputs that blocks divide, that they do not divide, and fewer than a block.
INPUTS = (16, 40, 48, 100, 256)


def dequantized(tensors: BlockTensors, plan: WeightOnly, inputs: int) -> np.ndarray:
    """[K, N], as the specification of ``MatMulNBits`` has it."""
    outputs, count = tensors.scales.shape
    values = unpack(tensors.packed, plan.bits).reshape(outputs, count, -1).astype(np.float64)
    zeros = np.full((outputs, count), 2 ** (plan.bits - 1), np.float64)
    if tensors.zero_points is not None:
        zeros = unpack(tensors.zero_points, plan.bits)[:, :count].astype(np.float64)
    blocks = (values - zeros[..., None]) * tensors.scales[..., None]
    return blocks.reshape(outputs, -1)[:, :inputs].T


def steps(tensors: BlockTensors, plan: WeightOnly, inputs: int) -> np.ndarray:
    """The width of a step for each weight [K, N]."""
    return np.abs(np.repeat(tensors.scales, plan.block_size, axis=1))[:, :inputs].T


def weights(inputs: int, outputs: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    bits=st.sampled_from([4, 8]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_what_was_packed_is_unpacked(bits: int, shape: tuple[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**bits, shape).astype(np.uint8)
    packed = pack(values, bits)
    assert packed.shape[-1] == -(-shape[1] * bits // 8)
    found = unpack(packed, bits)
    np.testing.assert_array_equal(found[:, : shape[1]], values)
    assert not found[:, shape[1] :].any()


def test_the_lower_half_of_a_byte_comes_first() -> None:
    assert pack(np.array([1, 2, 15]), 4).tolist() == [0x21, 0x0F]


@pytest.mark.parametrize(("size", "most"), [(16, 1.2), (128, 1.05)])
def test_blocks_for_tensorrt_have_positive_scales_and_lose_little(size: int, most: float) -> None:
    weight = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    weight[:size, 0] = 0
    weight[:size, 1] = 1e-9
    plan = WeightOnly(4, size, standard=True)
    found = quantize_blocks(weight, plan)
    assert (found.scales.astype(np.float16) > 0).all()
    errors = [
        np.square(dequantized(tensors, plan, 256) - weight).sum()
        for tensors in (found, quantize_blocks(weight, replace(plan, standard=False)))
    ]
    assert errors[0] < most * errors[1]


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_is_at_most_half_a_step_off(bits: int, symmetric: bool) -> None:
    for inputs in INPUTS:
        for size in BLOCK_SIZES:
            plan, weight = WeightOnly(bits, size, symmetric), weights(inputs)
            tensors = quantize_blocks(weight, plan)
            count = -(-inputs // size)
            assert tensors.packed.shape == (10, count, size * bits // 8)
            assert tensors.scales.shape == (10, count)
            assert (tensors.zero_points is None) == symmetric
            error = np.abs(dequantized(tensors, plan, inputs) - weight)
            step = steps(tensors, plan, inputs)
            # A symmetric grid has one value less above zero than below: what is nearly as
            # large as the largest, with the other sign, is cut off by up to half a step more.
            inside = error <= 0.501 * step
            assert inside.all() if not symmetric else inside.mean() > 0.85
            assert (error <= 1.001 * step).all(), (inputs, size)
            largest = np.abs(weight).max()
            assert step.max() <= largest * 2 / (2**bits - 1) * 1.001


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_weights_of_one_sign_and_of_one_value(symmetric: bool) -> None:
    for weight in (weights(48) ** 2 + 1, -(weights(48) ** 2) - 1, np.full((48, 3), 0.3)):
        plan = WeightOnly(4, 16, symmetric)
        weight = weight.astype(np.float32)
        tensors = quantize_blocks(weight, plan)
        error = np.abs(dequantized(tensors, plan, 48) - weight)
        assert (error <= 0.501 * steps(tensors, plan, 48) + 1e-6).all()


def test_zeros_stay_zeros() -> None:
    nothing = np.zeros((40, 4), np.float32)
    for plan in (WeightOnly(4, 16), WeightOnly(8, 16), WeightOnly(4, 16, False, "k-quant")):
        assert not dequantized(quantize_blocks(nothing, plan), plan, 40).any()


def test_the_order_in_memory_does_not_matter() -> None:
    weight = weights(48)
    for plan in (WeightOnly(4, 32), WeightOnly(8, 32), WeightOnly(4, 32, False, "k-quant")):
        one = quantize_blocks(weight, plan)
        other = quantize_blocks(np.asfortranarray(weight), plan)
        np.testing.assert_array_equal(one.packed, other.packed)
        np.testing.assert_array_equal(one.scales, other.scales)


def k_quant_loss(size: int, symmetric: bool) -> float:
    """The squared error of k-quant, over that of rounding to nearest; large weights count more."""
    weight, losses = weights(256, 100), []
    for plan in (WeightOnly(4, size, False, "k-quant"), WeightOnly(4, size, symmetric)):
        error = dequantized(quantize_blocks(weight, plan), plan, 256) - weight
        losses.append((error**2 * (1 + np.abs(weight))).sum())
    return float(losses[0] / losses[1])


def test_k_quant_loses_less_than_the_default() -> None:
    assert all(k_quant_loss(size, True) < 0.97 for size in (16, 32, 128))


@pytest.mark.parametrize("size", [16, 32])
def test_k_quant_loses_less_than_rounding_with_zero_points(size: int) -> None:
    assert k_quant_loss(size, False) < 1


@pytest.mark.parametrize("kind", ["positive", "negative", "equal"])
def test_k_quant_of_blocks_of_one_sign(kind: str) -> None:
    weight = {
        "positive": weights(16) ** 2 + 1,
        "negative": -(weights(16) ** 2) - 1,
        "equal": np.full((16, 10), 0.3, np.float32),
    }[kind]
    plan = WeightOnly(4, 16, False, "k-quant")
    error = np.abs(dequantized(quantize_blocks(weight, plan), plan, 16) - weight)
    assert error.max() < np.abs(weight).max() / 7.5


def test_the_block_that_stores_fewest_bytes_is_taken() -> None:
    def bytes_of(inputs: int, block: int, bits: int) -> float:
        return -(-inputs // block) * (block * bits / 8 + 4)

    for bits in (4, 8):
        for inputs in (*INPUTS, 72, 96, 512):
            for most in BLOCK_SIZES:
                plan = WeightOnly(bits, most)
                allowed = [b for b in BLOCK_SIZES if b <= most]
                found = fitting_block(inputs, plan, whole=False)
                fewest = min(bytes_of(inputs, b, bits) for b in allowed)
                assert found in allowed and bytes_of(inputs, found, bits) == fewest
                whole = fitting_block(inputs, plan, whole=True)
                dividing = [b for b in allowed if inputs % b == 0]
                assert whole in dividing if dividing else whole == 0


@settings(max_examples=20, deadline=None)
@given(
    bits=st.sampled_from([7, 8]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 5)),
    power=st.integers(-6, 6),
    seed=st.integers(0, 99),
)
def test_channels_have_a_scale_each(
    bits: int, shape: tuple[int, int], power: int, seed: int
) -> None:
    weight = weights(*shape, seed=seed) * np.float32(10.0**power)
    weight[:, 0] = 0
    values, scales = quantize_channels(weight, bits)
    most = 127 if bits == 8 else 64
    assert values.dtype == np.int8 and scales.shape == (shape[1],)
    assert np.abs(values.astype(int)).max(initial=0) <= most
    assert (np.abs(values[:, 1:].astype(int)).max(axis=0) == most).all()
    assert not values[:, 0].any() and scales[0] > 0
    assert (np.abs(values * scales - weight) <= 0.501 * scales).all()


def test_seven_bits_never_overflow_sixteen() -> None:
    values, _ = quantize_channels(np.array([[1.0, -1.0]], np.float32), 7)
    assert 2 * 255 * int(np.abs(values.astype(int)).max()) <= np.iinfo(np.int16).max


def inputs_like(width: int, seed: int, *, rank: int | None = None) -> np.ndarray:
    """Tokens [4 K, K]: independent inputs, or ``rank`` causes and a little of their own."""
    generator = np.random.default_rng(seed)
    own = generator.normal(size=(4 * width, width))
    if rank is None:
        return own.astype(np.float32)
    causes = generator.normal(size=(4 * width, rank)) @ generator.normal(size=(rank, width))
    return (causes + 0.1 * own).astype(np.float32)


def output_errors(x: np.ndarray, weight: np.ndarray, plan: WeightOnly) -> tuple[float, float]:
    """||X (W - Wq)|| of gptq and of rounding to nearest on grids of the same kind."""
    nearest = replace(plan, algorithm="rtn")
    moments = x.T @ x
    found = dequantized(gptq_blocks(weight, moments, plan), plan, len(weight))
    rounded = dequantized(quantize_blocks(weight, nearest), plan, len(weight))
    return (
        float(np.linalg.norm(x @ (weight - found))),
        float(np.linalg.norm(x @ (weight - rounded))),
    )


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("size", [16, 32, 128])
def test_gptq_changes_outputs_less(size: int, symmetric: bool) -> None:
    plan = WeightOnly(4, size, symmetric, "gptq")
    for inputs in (48, 100):
        correlated = inputs_like(inputs, 1, rank=inputs // 4)
        gptq, rtn = output_errors(correlated, weights(inputs, 24), plan)
        assert gptq < 0.6 * rtn
        # With inputs that have little to do with each other there is little to gain.
        gptq, rtn = output_errors(inputs_like(inputs, 2), weights(inputs, 24), plan)
        assert 0.8 * rtn < gptq < rtn


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_gptq_of_unrelated_inputs_is_rounding(symmetric: bool) -> None:
    for inputs, size in ((48, 16), (40, 32), (100, 128)):
        plan, weight = WeightOnly(4, size, symmetric, "gptq"), weights(inputs)
        found = gptq_blocks(weight, 1000 * np.eye(inputs, dtype=np.float32), plan)
        expected = quantize_blocks(weight, replace(plan, algorithm="rtn"))
        np.testing.assert_array_equal(found.scales, expected.scales)
        np.testing.assert_allclose(
            dequantized(found, plan, inputs), dequantized(expected, plan, inputs), atol=1e-6
        )
        assert found.packed.shape == expected.packed.shape
        if found.zero_points is not None and expected.zero_points is not None:
            assert found.zero_points.shape == expected.zero_points.shape


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_gptq_with_inputs_that_were_never_seen(symmetric: bool) -> None:
    x = inputs_like(48, 1, rank=12)
    x[:, [0, 17, 47]] = 0
    plan, weight = WeightOnly(4, 16, symmetric, "gptq"), weights(48, 24)
    found = dequantized(gptq_blocks(weight, x.T @ x, plan), plan, 48)
    assert np.isfinite(found).all()
    assert not found[[0, 17, 47]].any()
    gptq, rtn = output_errors(x, weight, plan)
    assert gptq < 0.6 * rtn


def test_gptq_with_fewer_tokens_than_inputs_and_with_none() -> None:
    plan, weight = WeightOnly(4, 32, False, "gptq"), weights(64, 12)
    gptq, rtn = output_errors(inputs_like(64, 1)[:5], weight, plan)
    assert gptq < rtn
    nothing = gptq_blocks(weight, np.zeros((64, 64), np.float32), plan)
    assert not dequantized(nothing, plan, 64).any()


def test_gptq_leaves_its_arguments_alone() -> None:
    weight, x = weights(48), inputs_like(48, 1)
    moments = x.T @ x
    kept = weight.copy(), moments.copy()
    gptq_blocks(weight, moments, WeightOnly(4, 16, True, "gptq"))
    np.testing.assert_array_equal(weight, kept[0])
    np.testing.assert_array_equal(moments, kept[1])


def test_an_onnxruntime_without_the_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime.capi import _pybind_state as native

    monkeypatch.delattr(native, "quantize_matmul_8bits")
    with pytest.raises(QuantizationError, match=r"8 bits in blocks need onnxruntime 1\.22"):
        quantize_blocks(np.ones((32, 4), np.float32), WeightOnly(bits=8, block_size=32))
