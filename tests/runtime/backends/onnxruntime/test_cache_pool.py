"""Caches and bound steps serve one call after the other, and no two at once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from tests.conftest import export_unvalidated
from tests.runtime.generation.copying import copy_of_source, copying_bundle, copying_source

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "logits": {"no_repeat_ngram_size": 30},
    "scores": {"return_scores": True},
    "samples": {"do_sample": True, "num_return_sequences": 2, "seed": 1},
    "beams": {"num_beams": 3},
    "short": {"max_new_tokens": 3},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copying_bundle(tmp_path_factory.mktemp("pool"))


@pytest.fixture
def model(bundle: Path) -> Iterator[Seq2SeqModel]:
    with Seq2SeqModel(Bundle.open(bundle), OrtBackend(Bundle.open(bundle)), None) as loaded:
        yield loaded


def results(model: Seq2SeqModel, source: list[int], options: dict[str, Any]) -> list[list[int]]:
    return [row.token_ids for row in model.generate_ids([source], **options)]


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_calls_in_a_row_are_those_of_a_new_model(
    options: dict[str, Any], model: Seq2SeqModel, bundle: Path
) -> None:
    sources = [copying_source(length, seed) for seed, length in enumerate((9, 9, 30, 9, 30, 80, 9))]
    found = [results(model, source, options) for source in sources]
    for source, expected in zip(sources, found, strict=True):
        with Seq2SeqModel.load(bundle) as other:
            assert results(other, source, options) == expected


def test_a_batch_follows_a_source_and_a_source_a_batch(model: Seq2SeqModel) -> None:
    for count in (1, 3, 1, 3, 2, 1):
        sources = [copying_source(12, seed) for seed in range(count)]
        found = model.generate_ids(sources)
        assert [row.token_ids for row in found] == [copy_of_source(row) for row in sources]


def test_the_steps_of_a_call_serve_the_next_one(
    model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = model.backend
    assert isinstance(backend, OrtBackend)
    session, bound = backend._decoder, []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            if name == "io_binding":
                bound.append(name)
            return getattr(session, name)

    monkeypatch.setattr(backend, "_decoder", Counting())
    model.generate_ids([copying_source(12, 0)])
    first = len(bound)
    assert first
    model.generate_ids([copying_source(12, 1)])
    assert len(bound) == first
    model.generate_ids([copying_source(13, 1)])
    assert len(bound) == 2 * first


def test_a_stream_that_is_left_gives_its_cache_back(model: Seq2SeqModel) -> None:
    call = model.generator.prepare(model.generation_config, sources_of(model, 0))
    steps = model.generator.steps(call)
    next(steps)
    other = copying_source(12, 1)
    assert results(model, other, {}) == [copy_of_source(other)]
    steps.close()
    assert results(model, other, {}) == [copy_of_source(other)]


def sources_of(model: Seq2SeqModel, seed: int) -> Any:
    from seq2edge.runtime.text.sources import checked_sources

    source = copying_source(12, seed)
    return checked_sources([source], [[1] * len(source)], model.manifest)


def test_threads_do_not_share_a_cache(model: Seq2SeqModel) -> None:
    sources = [copying_source(12, seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda source: results(model, source, {}), sources))
    assert found == [[copy_of_source(source)] for source in sources]


def test_what_is_kept_for_other_calls_has_a_bound(tmp_path: Path) -> None:
    """Fault: steps of prompts of all lengths were kept, with logits of each of their tokens."""
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {"vocab_size": 20_000, "d_model": 16, "max_position_embeddings": 64}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 16}
    BartForConditionalGeneration(BartConfig(**sizes)).save_pretrained(tmp_path / "checkpoint")
    export_unvalidated(tmp_path / "checkpoint", tmp_path / "bundle")
    with Seq2SeqModel.load(tmp_path / "bundle", num_threads=1) as model:

        def call(length: int) -> None:
            options = {"decoder_prefix": tuple(range(10, 10 + length)), "max_new_tokens": 2}
            model.generate_ids([[5, 6, 7, 2]], return_scores=True, **options)

        tracemalloc.start()
        try:
            call(1)
            before = tracemalloc.get_traced_memory()[0]
            for length in range(2, 40):
                call(length)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    # The logits of all of these prompts take 62 MB.
    assert grown < 20e6
