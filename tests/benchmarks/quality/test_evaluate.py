"""Evaluation scores what the model generates, whatever the batches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.benchmarks.quality.data import Example
from seq2edge.benchmarks.quality.evaluate import evaluate, one_each, predictions
from seq2edge.benchmarks.quality.metrics import load_metric
from seq2edge.runtime import InputError, Seq2SeqModel

SOURCES = ["one", "another text", "a", "words of some length", "?!"]


@pytest.fixture(scope="module")
def model(reference_bundle: Path) -> Iterator[Seq2SeqModel]:
    with Seq2SeqModel.load(reference_bundle, num_threads=1) as loaded:
        yield loaded


def test_generated_texts_are_scored(model: Seq2SeqModel) -> None:
    config = replace(model.generation_config, max_new_tokens=12)
    texts = [found.text or "" for found in model.generate(SOURCES, config)]
    # The model's own outputs as targets, but for two of them.
    targets = [texts[0], "wrong", texts[2], texts[3], "wrong"]
    examples = [Example(s, (t,)) for s, t in zip(SOURCES, targets, strict=True)]
    metric = load_metric("exact")
    done: list[tuple[int, int]] = []
    found = evaluate(
        model,
        examples,
        metric,
        config=config,
        batch_size=2,
        progress=lambda *counts: done.append(counts),
    )
    assert found.value == 60
    assert found.texts == texts
    assert 0 <= found.interval.low < 60 < found.interval.high <= 100
    assert done == [(2, 5), (4, 5), (5, 5)]


def test_what_cannot_be_scored_is_refused_before_anything_runs(
    model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Seq2SeqModel, "generate", None)
    with pytest.raises(InputError, match="example 1"):
        evaluate(model, [Example("a", ("ж",))], load_metric("rouge"))


def test_options_give_one_repeatable_text_a_source(model: Seq2SeqModel) -> None:
    own = replace(model.generation_config, do_sample=True, num_return_sequences=3, max_new_tokens=8)
    config = one_each(own)
    first, second = (model.generate(SOURCES, config) for _ in range(2))
    assert len(first) == len(SOURCES)
    assert first == second
    beams = one_each(own, num_beams=2, max_new_tokens=5)
    found = model.generate(SOURCES, beams)
    assert len(found) == len(SOURCES)
    assert all(len(one.token_ids) <= 5 and one.score is not None for one in found)


def test_predictions_repeat_the_examples() -> None:
    examples = [Example("a", ("b",)), Example("é", ("c", "d"))]
    lines = predictions(examples, ["x", "y\nz"]).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"source": "a", "target": "b", "prediction": "x"},
        {"source": "é", "target": ["c", "d"], "prediction": "y\nz"},
    ]
