"""The engine with arrays on a device gives the CPU engine's results, whatever is asked of it.

The device is the CPU's memory, so this is the same code as on a GPU with another device name;
what a GPU does with it is in test_gpu.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from seq2edge.runtime import Bundle, Choices, Seq2SeqModel
from seq2edge.runtime.backends import Backend, SlotCache, Step, load_backend
from seq2edge.runtime.backends.onnxruntime.buffers import DeviceArray
from seq2edge.runtime.backends.onnxruntime.device import OrtDeviceBackend
from seq2edge.runtime.backends.onnxruntime.session import CPU
from seq2edge.runtime.backends.onnxruntime.top_logits import TopLogits, open_top_logits
from seq2edge.runtime.text.tokenizer import load_tokenizer

from ....batches import assert_same_generations
from .recording import cpu_target

TEXTS = ["a text of some length, longer than others", "x", "three words here", "ab", "12345 67890"]
#: Token ids of sources of different lengths, padded.
IDS = np.array([[200, 13, 77, 150, 22, 1], [5, 6, 1, 0, 0, 0], [300, 301, 9, 9, 1, 0]])
MASK = IDS != 0
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy with scores": {"return_scores": True, "repetition_penalty": 1.2},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "samples": {"do_sample": True, "seed": 7, "num_return_sequences": 3},
    "lookup": {"prompt_lookup_num_tokens": 4},
    "choices": {"constraint": Choices(("first", "second text", "third"))},
    "prefix": {"decoder_prefix": (7, 8, 9)},
}


@dataclass(frozen=True)
class Pair:
    """One bundle in the CPU's engine and in the one under test."""

    expected: Seq2SeqModel
    model: Seq2SeqModel


def pair_of(path: Path, *, captures: bool) -> Pair:
    bundle = Bundle.open(path)
    tokenizer = load_tokenizer(bundle)
    engines: list[Backend] = [
        load_backend(bundle, num_threads=1),
        OrtDeviceBackend(bundle, cpu_target(captures=captures)),
    ]
    return Pair(*(Seq2SeqModel(bundle, backend, tokenizer) for backend in engines))


@pytest.fixture(scope="module", params=[True, False], ids=["graphs", "no graphs"])
def pair(request: pytest.FixtureRequest, lively_of: Callable[[str], Path]) -> Iterator[Pair]:
    found = pair_of(lively_of("t5-v1.1"), captures=request.param)
    yield found
    found.model.close()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_each_way_to_decode_gives_the_cpu_engines_results(pair: Pair, way: dict[str, Any]) -> None:
    config = replace(pair.model.generation_config, max_new_tokens=90, **way)
    expected = pair.expected.generate(TEXTS, config, batch_size=3)
    for _ in range(2):  # the second time with the arrays of the first
        assert_same_generations(pair.model.generate(TEXTS, config, batch_size=3), expected)


@pytest.mark.parametrize(
    ("way", "moved"),
    [
        ("greedy", 3),
        ("samples", 3 * 3 * 384),
        ("beams", 3 * 4 * 52),  # for 4 beams and 12 end tokens, and not of all 384
    ],
)
def test_a_step_moves_no_more_than_is_looked_at(
    way: str, moved: int, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of a GPU's step take as long as a tenth of its work; all beams' logits far more."""
    written, read = [], []
    write_array, read_array = DeviceArray.write, DeviceArray.read

    def write(array: DeviceArray, values: np.ndarray[Any, Any]) -> None:
        written.append(array)
        write_array(array, values)

    def get(array: DeviceArray) -> np.ndarray[Any, Any]:
        read.append(array.shape)
        return read_array(array)

    config = replace(pair.model.generation_config, max_new_tokens=12, **WAYS[way])
    pair.model.generate_ids(IDS, MASK, config)
    monkeypatch.setattr(DeviceArray, "write", write)
    monkeypatch.setattr(DeviceArray, "read", get)
    pair.model.generate_ids(IDS, MASK, config)
    assert max(map(math.prod, read)) == moved
    source_and_cleared_cache = 2 + 1 + 4
    assert len(written) <= source_and_cleared_cache + 12


def test_the_best_logits_are_the_largest_ones_in_falling_order() -> None:
    rng = np.random.default_rng(0)
    logits = DeviceArray(onnxruntime, "cpu", (3, 4, 1000), "float32")
    session = open_top_logits(onnxruntime, [CPU])
    best = TopLogits(onnxruntime, "cpu", session, logits, 9)
    for _ in range(2):  # of what the array holds now
        values = rng.standard_normal(logits.shape).astype(np.float32)
        logits.write(values)
        found, token_ids = best.find()
        np.testing.assert_array_equal(found, -np.sort(-values)[..., :9])
        np.testing.assert_array_equal(np.take_along_axis(values, token_ids, 2), found)


def test_streams_give_the_same_pieces(pair: Pair) -> None:
    config = replace(pair.model.generation_config, do_sample=True, seed=3, max_new_tokens=60)
    pieces = [[list(m.stream(text, config)) for text in TEXTS] for m in (pair.model, pair.expected)]
    assert pieces[0] == pieces[1]
    assert sum(map(bool, pieces[1])) > 2


@pytest.mark.parametrize("shape", ["bart-scaled", "umt5"])
@pytest.mark.parametrize("way", ["greedy", "beams", "samples", "lookup"])
def test_other_models_over_growing_caches(
    shape: str, way: str, bundle_of: Callable[[str], Path]
) -> None:
    # A BART with 80 positions makes 79 tokens; caches start with 64 slots. UMT5's 150 tokens of
    # 4 beams do not fit without packing.
    pair = pair_of(bundle_of(shape), captures=True)
    config = pair.model.generation_config
    config = replace(config, **WAYS[way], max_new_tokens=79 if shape == "bart-scaled" else 150)
    found = [m.generate_ids(IDS, MASK, config) for m in (pair.model, pair.expected)]
    assert_same_generations(found[0], found[1])
    assert max(len(row.token_ids) for row in found[1]) > 64


def test_a_source_at_the_models_limit_is_not_padded_beyond_it(
    bundle_of: Callable[[str], Path],
) -> None:
    pair = pair_of(bundle_of("bart"), captures=True)
    ids = np.tile(np.arange(10, 90), (1, 1))  # BART has a position for each of 80
    found = [m.generate_ids(ids, max_new_tokens=6) for m in (pair.model, pair.expected)]
    assert_same_generations(found[0], found[1])


def test_float16_of_a_cuda_bundle(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    from seq2edge.quantize import quantize_bundle

    path = tmp_path / "half"
    quantize_bundle(bundle_of("t5-v1.1"), path, "fp16", target="cuda")
    pair = pair_of(path, captures=False)  # the same sums, so the same roundings
    config = replace(pair.model.generation_config, max_new_tokens=70, num_beams=3)
    found = [m.generate_ids(IDS, MASK, config) for m in (pair.model, pair.expected)]
    assert_same_generations(found[0], found[1])


def test_threads_share_one_engine(pair: Pair) -> None:
    config = replace(pair.model.generation_config, max_new_tokens=40)
    expected = [pair.expected.generate(text, config) for text in TEXTS]
    with ThreadPoolExecutor(len(TEXTS)) as pool:
        found = list(pool.map(lambda text: pair.model.generate(text, config), TEXTS * 3))
    for one, other in zip(found, expected * 3, strict=True):
        assert_same_generations(one, other)


def states(backend: Backend) -> list[np.ndarray[Any, Any]]:
    """Logits after steps on a cache that was packed, grown and cut to some rows."""
    decoder = backend.new_cache(backend.encode({"input_ids": IDS, "attention_mask": MASK}), 16)
    found = [steps(decoder, 3, slots=range(0, 12))]
    decoder.compact(np.array([[0, 3, 6, 9], [1, 2, 4, 8], [11, 10, 9, 8]]))
    found.append(steps(decoder, 3, slots=range(4, 8)))
    decoder.grow(32)
    found.append(steps(decoder, 3, slots=range(8, 20)))
    decoder.select_batch(np.array([2, 0]))
    found.append(steps(decoder, 2, slots=range(20, 24)))
    assert decoder.max_cache_len == 32
    return [*found, decoder.cache_position_ids]


def steps(decoder: SlotCache, rows: int, slots: range) -> np.ndarray[Any, Any]:
    """The last logits after a token in each of ``slots``, which see all slots before them."""
    step = Step.allocate(rows, 1, decoder.max_cache_len, vocab_size=384)
    step.attention_mask[..., : slots.start] = True
    for slot in slots:
        step.input_ids[:, 0] = np.arange(rows) * 7 + slot
        step.position_ids[:] = step.write_indices[:] = slot
        step.attention_mask[..., slot] = True
        decoder.forward(step)
    assert step.logits is not None
    return step.logits


def test_packing_growing_and_keeping_rows_is_the_cpu_engines(
    bundle_of: Callable[[str], Path],
) -> None:
    bundle = Bundle.open(bundle_of("umt5"))
    expected = states(load_backend(bundle, num_threads=1))
    for captures in (True, False):
        found = states(OrtDeviceBackend(bundle, cpu_target(captures=captures)))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4, rtol=0)


def test_a_closed_engine_says_so(bundle_of: Callable[[str], Path]) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    model = Seq2SeqModel(bundle, OrtDeviceBackend(bundle, cpu_target()), None)
    model.close()
    model.close()
    with pytest.raises(RuntimeError, match="the model was closed; load it again"):
        model.generate_ids(IDS, MASK)
