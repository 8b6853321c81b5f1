"""Beam search that draws: transformers' candidates, scores and rules, with random numbers of ours.

torch's random numbers cannot be had here, so both sides are given the same ones: each place of a
beam x token table has its own, once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.generation import generator
from seq2edge.runtime.generation.config import GenerationConfig
from seq2edge.runtime.generation.sampling import Sampler

SHAPES = ("t5-v1.1", "bart-scaled")
SOURCES = {
    "t5-v1.1": [[5, 6, 7, 1], [200, 13, 77, 1]],
    "bart-scaled": [[0, 7, 8, 2], [0, 300, 13, 2]],
}
NEW_TOKENS = 8
#: A vocabulary's worth of numbers for each of the beams that a test has at most.
_PLACES = 4 * 400


class Subject(NamedTuple):
    model: Seq2SeqModel
    reference: Any
    source: list[list[int]]

    def found(self, **options: Any) -> Any:
        config = replace(self.model.generation_config, do_sample=True, **options)
        return self.model.generate_ids(self.source, config=config)

    def expected(self, **options: Any) -> Any:
        ids = torch.tensor(self.source)
        with torch.inference_mode():
            return self.reference.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )


@pytest.fixture(scope="module", params=SHAPES)
def subject(
    request: pytest.FixtureRequest,
    variant_of: Callable[..., tuple[Path, Path]],
    reference_of: Callable[[Path], Any],
) -> Iterator[Subject]:
    """A model with so many end tokens that some of the hypotheses end early."""
    shape = request.param
    ends = [1 if shape.startswith("t5") else 2, *range(10, 380, 40)]
    checkpoint, bundle = variant_of(shape, eos_token_id=ends)
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        yield Subject(model, reference_of(checkpoint), SOURCES[shape])


class SharedNoise:
    """Gumbel noise by step and place, the same for both sides; sources draw in turn."""

    def __init__(self) -> None:
        self._table = np.random.default_rng(5).gumbel(size=(64, _PLACES))
        self.steps = {0: 0, 1: 0}
        self.theirs = 0

    def ours(self, places: Any, stream: int) -> Any:
        step = self.steps[stream]
        self.steps[stream] += 1
        return self._table[step, places]

    def multinomial(self, probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
        """torch.multinomial without replacement, with this noise."""
        noise = torch.tensor(self._table[self.theirs, : probabilities.shape[1]])
        self.theirs += 1
        return (torch.log(probabilities.double()) + noise).topk(num_samples).indices


OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 0, "temperature": 1.7},
    {"top_k": 12, "top_p": 0.9, "typical_p": 0.95},
    {"top_k": 0, "top_h": 0.9, "min_p": 0.01},
    {"top_k": 0, "epsilon_cutoff": 0.003, "eta_cutoff": 0.01, "temperature": 1.5},
    {"top_k": 30, "repetition_penalty": 1.4, "renormalize_logits": True, "suppress_tokens": [7]},
    {"length_penalty": 2.0, "early_stopping": True},
    {"length_penalty": 0.0, "early_stopping": "never", "no_repeat_ngram_size": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_the_same_random_numbers_the_beams_are_those_of_transformers(
    options: dict[str, Any], subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    # All sources in one search, as there: the noise is shared out by their places in it.
    monkeypatch.setattr(generator, "row_backend", lambda _backend: None)
    for beams, results in product((2, 4), (1, 2)):
        shared = SharedNoise()
        monkeypatch.setattr(Sampler, "_gumbel", shared.ours)
        monkeypatch.setattr(torch, "multinomial", shared.multinomial)
        given = {"num_beams": beams, "num_return_sequences": results} | options
        found = subject.found(max_new_tokens=NEW_TOKENS, **given)
        expected = subject.expected(max_new_tokens=NEW_TOKENS, **given)
        rows = [_cut(row, subject) for row in expected.sequences.tolist()]
        assert [row.token_ids for row in found] == rows
        scores = [row.score for row in found]
        assert scores == pytest.approx(expected.sequences_scores.tolist(), abs=1e-3)
        seen |= {tuple(row) for row in rows}
        assert shared.theirs > 2
    assert len(seen) >= 4


def _cut(row: list[int], subject: Subject) -> list[int]:
    ends = subject.model.manifest.special_tokens.eos
    last = next((i for i, token in enumerate(row) if i and token in ends), len(row))
    return row[1 : last + 1]


def test_candidates_are_drawn_in_proportion_without_replacement() -> None:
    """The first one of two has its probability, the pair that of a draw without replacement."""
    chances = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    sampler = Sampler(GenerationConfig(do_sample=True, num_beams=2, seed=3), [[5]])
    with np.errstate(divide="ignore"):
        totals = np.log(chances) - 7  # not normalized
    count = 20_000
    pairs = [tuple(sampler.draw_candidates(totals, 2, 0).tolist()) for _ in range(count)]
    assert all(first < second for first, second in pairs)  # the best one first
    for first, second in product(range(4), range(4)):
        if first < second:
            p, q = chances[first], chances[second]
            expected = p * q / (1 - p) + q * p / (1 - q)
            share = pairs.count((first, second)) / count
            assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / count)
    assert sampler.draw_candidates(totals, 9, 0).tolist() == [0, 1, 2, 3]
    assert sampler.draw_candidates(np.full(3, -np.inf), 2, 0).tolist() == []


def test_a_seed_repeats_the_beams_of_a_source_in_any_company(subject: Subject) -> None:
    options = {"num_beams": 3, "num_return_sequences": 2, "temperature": 5.0, "top_k": 0}

    def rows(seed: int | None, sources: list[list[int]]) -> list[list[int]]:
        one = subject._replace(source=sources)
        return [row.token_ids for row in one.found(seed=seed, max_new_tokens=8, **options)]

    together = rows(4, subject.source)
    assert together == rows(4, subject.source)
    assert together[2:] == rows(4, subject.source[1:])
    assert together != rows(5, subject.source)
    assert rows(None, subject.source) != rows(None, subject.source)


def test_where_one_token_is_left_the_beams_are_those_of_a_search(subject: Subject) -> None:
    """Two candidates a beam, and no noise between them."""
    cold = {"num_beams": 2, "temperature": 1e-3, "max_new_tokens": 6}
    sampled = subject.found(**cold)
    searched = subject.model.generate_ids(
        subject.source,
        config=replace(subject.model.generation_config, num_beams=2, max_new_tokens=6),
    )
    assert [row.token_ids for row in sampled] == [row.token_ids for row in searched]
