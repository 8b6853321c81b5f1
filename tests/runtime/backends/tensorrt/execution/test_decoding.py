"""Every way of decoding gives on a GPU what it gives on the CPU.

The GPU and TensorRT are fakes that check every call and compute with ONNX Runtime, so what is
tested is the driving of them: addresses, order, waits, masks, graphs. Not run on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import GenerationConfig, Seq2SeqModel
from seq2edge.runtime.backends.limits import Limits

from .conftest import LIMITS, Load

OnCpu = Callable[[str], Seq2SeqModel]


def batch(size: int = 4, seed: int = 0) -> Any:
    """Sources of several lengths, padded with 0."""
    random = np.random.default_rng(seed)
    ids = np.zeros((size, 12), np.int64)
    for row in ids:
        length = random.integers(3, 12)
        row[:length] = random.integers(3, 300, length)
    return ids


MODES = {
    "greedy": GenerationConfig(max_new_tokens=20),
    "one token": GenerationConfig(max_new_tokens=1),
    "scores": GenerationConfig(max_new_tokens=12, return_scores=True),
    "beams": GenerationConfig(max_new_tokens=12, num_beams=4, num_return_sequences=2),
    "samples": GenerationConfig(
        max_new_tokens=12, do_sample=True, seed=1, num_return_sequences=3, top_k=20
    ),
    "prefix": GenerationConfig(max_new_tokens=8, decoder_prefix=(7, 9, 11, 13, 15)),
    "forced": GenerationConfig(max_new_tokens=8, forced_bos_token_id=5, forced_eos_token_id=6),
    "no repeats": GenerationConfig(max_new_tokens=12, no_repeat_ngram_size=1),
    "lookup": GenerationConfig(max_new_tokens=20, prompt_lookup_num_tokens=3),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "in_place"), [("t5", True), ("t5", False), ("bart", True)])
def test_tokens_are_those_of_the_cpu(
    mode: str, shape: str, in_place: bool, on_gpu: Load, on_cpu: OnCpu
) -> None:
    sources, config = batch(), MODES[mode]
    expected = on_cpu(shape).generate_ids(sources, config=config)
    found = on_gpu(shape, in_place=in_place).model.generate_ids(sources, config=config)
    assert [f.token_ids for f in found] == [e.token_ids for e in expected]
    assert [f.finish_reason for f in found] == [e.finish_reason for e in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)


def ending_early(model: Seq2SeqModel, sources: Any, config: GenerationConfig) -> Any:
    """A manifest whose end tokens end all sources but the last, one after the other."""
    found = model.generate_ids(sources, config=replace(config, num_return_sequences=1))
    ends = tuple(sequence.token_ids[2 * place + 1] for place, sequence in enumerate(found[:-1]))
    tokens = replace(model.manifest.special_tokens, eos=ends)
    return replace(model.manifest, special_tokens=tokens)


@pytest.mark.parametrize("config", ["greedy", "beams", "lookup"])
@pytest.mark.parametrize("in_place", [True, False])
def test_sources_that_end_leave_the_batch(
    config: str, in_place: bool, on_gpu: Load, on_cpu: OnCpu
) -> None:
    sources = batch()
    cpu, gpu = on_cpu("t5"), on_gpu("t5", in_place=in_place).model
    manifest = ending_early(cpu, sources, MODES[config])
    for model in (cpu, gpu):
        model._bundle.manifest = model.generator._manifest = manifest
    expected = cpu.generate_ids(sources, config=MODES[config])
    lengths = {len(sequence.token_ids) for sequence in expected}
    assert len(lengths) > 1
    found = gpu.generate_ids(sources, config=MODES[config])
    assert [f.token_ids for f in found] == [e.token_ids for e in expected]


def test_an_engine_of_one_query_takes_prompts_token_by_token(on_gpu: Load, on_cpu: OnCpu) -> None:
    config = MODES["prefix"]
    expected = on_cpu("bart").generate_ids(batch(1), config=config)
    found = on_gpu("bart", replace(LIMITS, max_num_tokens=1)).model.generate_ids(
        batch(1), config=config
    )
    assert [f.token_ids for f in found] == [e.token_ids for e in expected]


def test_the_host_waits_once_for_many_greedy_tokens(on_gpu: Load) -> None:
    gpu = on_gpu("t5", replace(LIMITS, max_target_length=128))
    gpu.model.generate_ids(batch(1), max_new_tokens=100)
    # The encoder, the first token, chains of 1, 2, 4 and then 8 steps.
    assert gpu.cuda.calls["cudaStreamSynchronize"] <= 2 + 3 + 12
    (encoder, one, _) = gpu.trt.contexts
    assert encoder.runs == 1
    # A plain run for each of two bindings and one to capture; the rest are graph launches.
    assert one.runs <= 4
    assert gpu.cuda.calls["cudaGraphLaunch"] >= 95


def test_steps_that_the_host_sees_become_graphs_too(on_gpu: Load) -> None:
    gpu = on_gpu("t5")
    gpu.model.generate_ids(batch(1), config=replace(MODES["beams"], max_new_tokens=10))
    assert gpu.cuda.calls["cudaGraphLaunch"] >= 7


def test_generations_may_take_turns(on_gpu: Load, on_cpu: OnCpu) -> None:
    gpu, cpu = on_gpu("t5").model, on_cpu("t5")
    configs = [MODES["greedy"], MODES["scores"], MODES["beams"]]
    expected = [cpu.generate_ids(batch(2, seed), config=c) for seed, c in enumerate(configs)]
    found: list[Any] = [None] * len(configs)

    def generate(place: int) -> None:
        for _ in range(3):
            found[place] = gpu.generate_ids(batch(2, place), config=configs[place])

    threads = [threading.Thread(target=generate, args=(place,)) for place in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert [f.token_ids for f in one] == [e.token_ids for e in other]


def test_memory_is_used_again(on_gpu: Load) -> None:
    gpu = on_gpu("t5")
    for _ in range(2):
        gpu.model.generate_ids(batch(), max_new_tokens=10)
    allocations = gpu.cuda.allocations
    for _ in range(3):
        gpu.model.generate_ids(batch(), max_new_tokens=10)
    assert gpu.cuda.allocations == allocations
    assert len(gpu.cuda.graphs) <= 2


def test_a_source_may_be_as_long_as_the_engine_allows(on_gpu: Load, on_cpu: OnCpu) -> None:
    limits = Limits(max_batch=2, max_source_length=12, max_target_length=20, max_num_tokens=1)
    sources = np.arange(3, 27).reshape(2, 12)
    expected = on_cpu("t5").generate_ids(sources, max_new_tokens=20)
    found = on_gpu("t5", limits).model.generate_ids(sources, max_new_tokens=20)
    assert [f.token_ids for f in found] == [e.token_ids for e in expected]
