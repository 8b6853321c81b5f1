"""Speech bundles for the CPU: int8 keys and values of the source, decoded in batches and trees."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Bundle, InputError
from seq2edge.runtime.backends import Step
from seq2edge.runtime.backends.base import Ids
from seq2edge.runtime.backends.onnxruntime import OrtBackend, OrtEncoderOutput
from seq2edge.runtime.kv_cache.slots import SlotKVCache
from tests import whisper_models as whisper
from tests.conftest import export_unvalidated, made_once

PROMPT = [whisper.START, 5, 6, 7]
FEATURES = np.random.default_rng(3).standard_normal((3, 80, 400), np.float32)


@pytest.fixture(scope="module")
def speech_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A Whisper's bundle by scheme; ``float32`` as it was exported. Read only."""
    folder = tmp_path_factory.mktemp("speech")

    def make(scheme: str, path: Path) -> None:
        if scheme == "float32":
            whisper.make_whisper("tiny", folder / "checkpoint")
            export_unvalidated(folder / "checkpoint", path)
        else:
            quantize_bundle(speech("float32"), path, scheme, check=False)

    speech = made_once(folder, make)
    return speech


def backend_of(path: Path, *, lowered: bool = True) -> OrtBackend:
    return OrtBackend(Bundle.open(path), num_threads=1, lowered=lowered)


def encoded(backend: OrtBackend, rows: slice = slice(None)) -> OrtEncoderOutput:
    return backend.encode({"input_features": FEATURES[rows]})


def step_logits(
    backend: OrtBackend, source: OrtEncoderOutput, trees: Ids
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits after the prompt [B, 1, V], and those of a step of a token for each hypothesis."""
    batch, width = trees.shape
    cache = SlotKVCache(
        backend.new_cache(source, 16),
        [PROMPT] * batch,
        width=width,
        max_slots=40,
        vocab_size=whisper.VOCABULARY,
        logsumexp=True,
        capabilities=backend.capabilities,
    )
    if cache.logits is None:
        raise AssertionError("they were asked for")
    first = cache.logits.copy()
    cache.forward(trees)
    return first, cache.logits.copy()


@pytest.mark.parametrize("width", [1, 3])
def test_float32_steps_are_the_canonical_graphs(
    width: int, speech_of: Callable[[str], Path]
) -> None:
    trees = np.arange(3 * width).reshape(3, width) + 9
    results = []
    for lowered in (False, True):
        backend = backend_of(speech_of("fp32"), lowered=lowered)
        results.append(step_logits(backend, encoded(backend), trees))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("scheme", ["int8", "int4", "int8-dynamic"])
def test_keys_and_values_of_the_source_are_int8(
    scheme: str, speech_of: Callable[[str], Path]
) -> None:
    graphs = Bundle.open(speech_of(scheme)).manifest.graphs
    stored = {spec.name: spec.dtype for spec in graphs["encoder_cpu"].outputs}
    assert stored["cross_key.0"] == stored["cross_value.1"] == "int8"
    assert {spec.dtype for spec in graphs["encoder"].outputs} == {"float32"}
    exact = encoded(backend_of(speech_of(scheme), lowered=False))
    rounded = encoded(backend_of(speech_of(scheme)))
    for name in ("cross_key.0", "cross_value.1"):
        floats, found = exact.numpy(name), rounded.numpy(name)
        half_steps = np.abs(floats).max(axis=2, keepdims=True) / 127 * 0.51
        assert (np.abs(found - floats) <= half_steps).all()


def test_steps_over_int8_sources_compute_nearly_the_same(
    speech_of: Callable[[str], Path],
) -> None:
    trees = np.array([[20, 21, 22], [23, 24, 25], [26, 27, 28]])
    results = []
    for lowered in (False, True):
        backend = backend_of(speech_of("int8"), lowered=lowered)
        results.append(step_logits(backend, encoded(backend), trees))
    for ours, theirs in zip(*results, strict=True):
        assert np.abs(ours - theirs).max() < 0.05 * theirs.std()


@pytest.mark.parametrize("width", [1, 3])
def test_a_batch_is_its_sources_one_by_one(width: int, speech_of: Callable[[str], Path]) -> None:
    backend = backend_of(speech_of("int8"))
    trees = np.arange(3 * width).reshape(3, width) + 30
    source = encoded(backend)
    together = step_logits(backend, source, trees)
    for row in range(3):
        alone = step_logits(backend, source.rows(np.array([row])), trees[row : row + 1])
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[row : row + 1], theirs, atol=2e-4)


def test_greedy_steps_go_on_with_some_of_the_sources(speech_of: Callable[[str], Path]) -> None:
    backend = backend_of(speech_of("int8"))
    source = encoded(backend)

    def greedy(rows: list[int], kept: list[int]) -> list[list[int]]:
        cache = backend.new_cache(source.rows(np.array(rows)), 16)
        step = Step.allocate(len(rows), 1, 16, feed_back=True)
        step.input_ids[:] = whisper.START
        found = []
        for number in range(8):
            if number == 4:
                cache.select_batch(np.array(kept))
                tokens = step.next_token_ids[kept]
                step = Step.allocate(len(kept), 1, 16, feed_back=True)
                step.input_ids[:] = tokens
            step.position_ids[:] = step.write_indices[:] = number
            step.attention_mask[..., : number + 1] = True
            cache.forward(step)
            found.append(step.next_token_ids[:, 0].tolist())
        return found

    (*_, last) = greedy([0, 1, 2], [0, 2])
    assert last == [greedy([0], [0])[-1][0], greedy([2], [0])[-1][0]]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize("lowered", [False, True])
def test_a_call_that_has_ended_keeps_nothing_of_its_source(
    lowered: bool, tokens: int, rows: int, speech_of: Callable[[str], Path]
) -> None:
    """It goes at once, not when Python looks for cycles: a window's keys and values are large."""
    backend = backend_of(speech_of("int8"), lowered=lowered)
    cache = backend.new_cache(encoded(backend, slice(rows)), 32)
    step = Step.allocate(rows, tokens, 32)
    step.input_ids[:] = whisper.START
    step.attention_mask[..., :tokens] = True
    for _ in range(2):
        cache.forward(step)
    gone = weakref.ref(cache)
    gc.disable()
    try:
        del cache, step
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_no_scores_of_a_whole_window_lie_in_memory(
    scheme: str, speech_of: Callable[[str], Path]
) -> None:
    """The encoder attends by blocks, to the same values."""
    canonical, lowered = (
        backend_of(speech_of(scheme), lowered=lowered) for lowered in (False, True)
    )
    operators = Bundle.open(speech_of(scheme)).manifest.graphs["encoder_cpu"].operators
    assert "Attention" not in operators
    for rows in (slice(1), slice(None)):
        exact, found = encoded(canonical, rows), encoded(lowered, rows)
        for name in ("cross_key.0", "cross_value.1"):
            floats = exact.numpy(name)
            error = np.abs(found.numpy(name) - floats).max()
            assert error < (1e-5 if scheme == "fp32" else 0.03) * np.abs(floats).max()


def test_a_window_may_take_what_attention_by_blocks_takes(
    speech_of: Callable[[str], Path],
) -> None:
    """Scores of three windows of 2000 positions with 4 heads would be 192 MB, several times."""
    bundle, memory = Bundle.open(speech_of("int8")), 100_000_000
    inputs = {"input_features": np.zeros((3, 80, 4000), np.float32)}
    for lowered in (False, True):
        backend = OrtBackend(bundle, num_threads=1, lowered=lowered, max_memory=memory)
        if lowered:
            backend._memory.check_encoder(inputs)
        else:
            with pytest.raises(InputError, match="attention of 3 sources"):
                backend.encode(inputs)


def test_times_of_words_read_the_int8_source(speech_of: Callable[[str], Path]) -> None:
    ids = np.array([[*PROMPT, 30, 31]])
    weights = []
    for lowered in (False, True):
        backend = backend_of(speech_of("int8"), lowered=lowered)
        source = encoded(backend, slice(1))
        outputs = backend.run_graph("alignment", {"input_ids": ids}, source)
        weights.append(outputs["alignment_weights"])
    np.testing.assert_allclose(weights[1], weights[0], atol=0.02)
    assert weights[1].shape[-1] == 200
