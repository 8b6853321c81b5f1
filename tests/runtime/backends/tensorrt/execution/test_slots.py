"""A cache of slots on the GPU does what the CPU's does, by the seam's own calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import BackendError, Seq2SeqModel
from seq2edge.runtime.backends import SlotCache, Step

from .conftest import LIMITS, Load

SOURCES = {
    "input_ids": np.array([[5, 6, 7], [9, 8, 0], [4, 3, 2]]),
    "attention_mask": np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool),
}


def logits_after(
    cache: SlotCache, rows: int, slots: range, vocab_size: int
) -> np.ndarray[Any, Any]:
    """The last logits after a token in each of ``slots``, which see all slots before them."""
    step = Step.allocate(rows, 1, cache.max_cache_len, vocab_size=vocab_size)
    step.attention_mask[..., : slots.start] = True
    for slot in slots:
        step.input_ids[:, 0] = np.arange(rows) * 7 + slot
        step.position_ids[:] = step.write_indices[:] = slot
        step.attention_mask[..., slot] = True
        cache.forward(step)
    assert step.logits is not None
    return step.logits.copy()


def new_caches(gpu: Seq2SeqModel, cpu: Seq2SeqModel) -> list[SlotCache]:
    caches: list[SlotCache] = []
    for backend in (gpu._backend, cpu._backend):
        slots: Any = backend
        caches.append(slots.new_cache(backend.encode(SOURCES), LIMITS.max_target_length))
    return caches


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("shape", ["umt5", "bart"])
def test_compacted_slots_and_selected_sources_are_the_cpus(
    shape: str, in_place: bool, on_gpu: Load, on_cpu: Callable[[str], Seq2SeqModel]
) -> None:
    gpu = on_gpu(shape, in_place=in_place)
    with on_cpu(shape) as cpu:
        found, size = [], cpu.manifest.dimensions.vocab_size
        for cache in new_caches(gpu.model, cpu):
            states = [logits_after(cache, 3, range(12), size)]
            cache.compact(np.array([[0, 3, 6, 9], [1, 2, 4, 8], [7, 9, 10, 11]]))
            states.append(logits_after(cache, 3, range(4, 8), size))
            cache.select_batch(np.array([0, 2]))
            states.append(logits_after(cache, 2, range(8, 10), size))
            found.append([*states, cache.cache_position_ids])
        for ours, expected in zip(*found, strict=True):
            np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_steps_without_the_host_are_those_by_way_of_the_host(
    on_gpu: Load, on_cpu: Callable[[str], Seq2SeqModel]
) -> None:
    gpu = on_gpu("t5")
    with on_cpu("t5") as cpu:
        results = []
        for cache in new_caches(gpu.model, cpu):
            step = Step.allocate(3, 1, cache.max_cache_len, feed_back=True)
            step.attention_mask[..., 0] = True
            tokens = [cache.forward_greedy(step, 4)]
            assert step.write_indices.tolist() == [0, 0, 0]  # as it was
            step.write_indices[:] = step.position_ids[:] = 4
            step.attention_mask[..., :5] = True
            results.append([*tokens, cache.forward_greedy(step, 3)])
        for ours, expected in zip(*results, strict=True):
            assert ours.tolist() == expected.tolist()


def test_an_engine_has_the_slots_that_it_was_built_with(on_gpu: Load) -> None:
    gpu = on_gpu("t5")
    backend: Any = gpu.model._backend
    cache = backend.new_cache(backend.encode(SOURCES), 8)
    cache.grow(LIMITS.max_target_length)
    with pytest.raises(BackendError, match="65 cache slots are more than the engine's 64"):
        cache.grow(LIMITS.max_target_length + 1)


def test_outputs_of_the_encoder_can_be_read(
    on_gpu: Load, on_cpu: Callable[[str], Seq2SeqModel]
) -> None:
    gpu = on_gpu("bart")
    with on_cpu("bart") as cpu:
        ours, expected = (m._backend.encode(SOURCES) for m in (gpu.model, cpu))
        for name in ("cross_key.0", "cross_value.1"):
            np.testing.assert_allclose(ours.numpy(name), expected.numpy(name), atol=1e-5)
