"""Caches and bound steps serve one call after the other, and no two at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime import OrtBackend
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
