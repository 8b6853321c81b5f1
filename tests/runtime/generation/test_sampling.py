"""Sampling draws from the exact distribution, repeatably, and each sequence for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from seq2edge.runtime import Generation, Seq2SeqModel

from ...batches import padded

#: Sources after which many tokens are likely.
SOURCES = {"t5-v1.1": [17, 210, 1], "bart-scaled": [0, 40, 2]}
ROWS = [[5, 6, 7, 1], [200, 13, 77, 150, 22, 1], [17, 210, 1], [300, 301, 9, 9, 1], [8, 1]]
Probabilities = np.ndarray[Any, np.dtype[np.float64]]
#: Draws of a distribution test: so many calls, each with a seed of its own.
CALLS, SAMPLES = 10, 500
#: The one that goes through every option gets 20,000.
MANY_CALLS = 40


class Subject(NamedTuple):
    """A model, its reference in PyTorch, and a source."""

    model: Seq2SeqModel
    reference: Any
    source: list[int]

    def draw(self, count: int, seed: int, samples: int = SAMPLES, **options: Any) -> Any:
        """[samples, count] tokens."""
        found = self.generate(
            max_new_tokens=count, seed=seed, num_return_sequences=samples, **options
        )
        return np.array([row.token_ids for row in found])

    def generate(self, ids: Any = None, batch_size: int | None = None, **options: Any) -> Any:
        sampling = {"do_sample": True, "forced_eos_token_id": None}
        return self.model.generate_ids(
            [self.source] if ids is None else ids,
            config=replace(self.model.generation_config, **{**sampling, **options}),
            batch_size=batch_size,
        )

    def exact(self, warpers: list[Any], after: tuple[int, ...] = ()) -> Probabilities:
        """Probabilities [V] of the token after ``after``, by transformers' own classes."""
        start = self.reference.config.decoder_start_token_id
        tokens = torch.tensor([[start, *after]])
        with torch.inference_mode():
            scores = self.reference(
                input_ids=torch.tensor([self.source]), decoder_input_ids=tokens
            ).logits[:, -1]
        for warper in warpers:
            scores = warper(tokens, scores)
        return torch.softmax(scores[0].double(), -1).numpy()


@pytest.fixture(scope="module")
def subject_of(
    checkpoint_of: Callable[[str], Path],
    bundle_of: Callable[[str], Path],
    reference_of: Callable[[Path], Any],
) -> Iterator[Callable[[str], Subject]]:
    models: dict[str, Seq2SeqModel] = {}

    def get(shape: str) -> Subject:
        if shape not in models:
            models[shape] = Seq2SeqModel.load(bundle_of(shape), num_threads=1)
        return Subject(models[shape], reference_of(checkpoint_of(shape)), SOURCES[shape])

    yield get
    for model in models.values():
        model.close()


@pytest.fixture(scope="module")
def t5(subject_of: Callable[[str], Subject]) -> Subject:
    return subject_of("t5-v1.1")


def chi_square_p(counts: Any, probabilities: Probabilities) -> float:
    """How likely counts [n] are at least so far from what ``probabilities`` [n] expect.

    Cells of fewer than five expected draws are taken together (Cochran's rule).
    """
    expected = probabilities * counts.sum()
    small = expected < 5
    seen = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    halves = torch.tensor([len(wanted) - 1, statistic], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(*halves))


def test_chi_square_p_has_known_values() -> None:
    """Of a table: 95 % and 99.9 % points of one and four degrees of freedom."""
    half = np.array([0.5, 0.5])
    fifth = np.full(5, 0.2)
    for points, probabilities, p in [
        (3.841, half, 0.05),
        (10.828, half, 0.001),
        (9.488, fifth, 0.05),
        (18.467, fifth, 0.001),
    ]:
        # Counts at equal distances from what is expected of 1000 draws, on both sides.
        pairs = len(probabilities) // 2
        distance = np.sqrt(points * 1000 * probabilities[0] / (2 * pairs))
        counts = 1000 * probabilities
        counts[:pairs] += distance
        counts[pairs : 2 * pairs] -= distance
        assert chi_square_p(counts, probabilities) == pytest.approx(p, rel=0.01)


Temperature, TopK = theirs.TemperatureLogitsWarper, theirs.TopKLogitsWarper
TopP, MinP = theirs.TopPLogitsWarper, theirs.MinPLogitsWarper
#: Options, and transformers' warpers for them in its order. top_k is 50 unless it is set.
WARPED: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "defaults": ({}, [TopK(50)]),
    "plain": ({"top_k": 0}, []),
    "warm": ({"top_k": 0, "temperature": 1.7}, [Temperature(1.7)]),
    "cool": ({"top_k": 0, "temperature": 0.5}, [Temperature(0.5)]),
    "top_k": ({"top_k": 7}, [TopK(7)]),
    "top_p": ({"top_k": 0, "top_p": 0.8}, [TopP(0.8)]),
    "min_p": (
        {"top_k": 0, "temperature": 3.0, "min_p": 0.1},
        [Temperature(3.0), MinP(0.1)],
    ),
    "all": (
        {"temperature": 2.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
        [Temperature(2.5), TopK(40), TopP(0.9), MinP(0.05)],
    ),
    "after a processor": (
        {"suppress_tokens": [275, 22], "sequence_bias": {9: 5.0}, "top_k": 0, "top_p": 0.95},
        [
            theirs.SequenceBiasLogitsProcessor({(9,): 5.0}),
            theirs.SuppressTokensLogitsProcessor([275, 22]),
            TopP(0.95),
        ],
    ),
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, "t5-v1.1") for name in WARPED), ("plain", "bart-scaled"), ("top_p", "bart-scaled")],
)
def test_draws_have_the_exact_distribution(
    name: str, shape: str, subject_of: Callable[[str], Subject]
) -> None:
    subject = subject_of(shape)
    options, warpers = WARPED[name]
    exact = subject.exact(warpers)
    calls = MANY_CALLS if name == "all" else CALLS
    draws = np.concatenate([subject.draw(1, seed, **options) for seed in range(calls)])
    counts = np.bincount(draws[:, 0], minlength=len(exact))
    assert counts.sum() == calls * SAMPLES
    # None that may not come has come, and all that should have.
    assert not counts[exact == 0].any()
    assert counts[exact > 20 / counts.sum()].all()
    assert chi_square_p(counts, exact) > 1e-3
    # So many draws tell this distribution from a warmer one.
    other = np.where(exact > 0, exact, 1) ** 0.6 * (exact > 0)
    assert chi_square_p(counts, other / other.sum()) < 1e-6


def test_pairs_of_tokens_have_the_exact_joint_distribution(t5: Subject) -> None:
    """The second token is drawn for what each sample has drawn before, not for another."""
    warpers = [Temperature(2.0), TopK(4)]
    first = t5.exact(warpers)
    joint = np.zeros((len(first), len(first)))
    for token in np.flatnonzero(first):
        joint[token] = first[token] * t5.exact(warpers, (int(token),))
    draws = np.concatenate([t5.draw(2, seed, temperature=2.0, top_k=4) for seed in range(CALLS)])
    counts = np.zeros_like(joint)
    np.add.at(counts, (draws[:, 0], draws[:, 1]), 1)
    assert np.count_nonzero(joint) == 16
    assert not counts[joint == 0].any()
    assert chi_square_p(counts.ravel(), joint.ravel()) > 1e-3


def test_scores_are_those_of_the_distribution_that_is_drawn_from(t5: Subject) -> None:
    options, warpers = WARPED["all"]
    exact = t5.exact(warpers)
    found = t5.generate(
        **options, seed=1, num_return_sequences=50, max_new_tokens=1, return_scores=True
    )
    drawn = [row.token_ids[0] for row in found]
    assert [row.score for row in found] == pytest.approx(np.log(exact[drawn]).tolist(), abs=1e-3)
    assert len(set(drawn)) > 5


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"temperature": 1e-4}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str
)
def test_where_only_one_token_is_left_sampling_is_greedy(
    options: dict[str, float], t5: Subject
) -> None:
    greedy = t5.generate(do_sample=False, max_new_tokens=20)[0]
    sampled = t5.generate(**options, max_new_tokens=20, num_return_sequences=3)
    assert [row.token_ids for row in sampled] == [greedy.token_ids] * 3


# What a seed makes repeatable.


def grouped(found: list[Generation], each: int) -> list[list[list[int]]]:
    """Tokens of each source's samples."""
    rows = [row.token_ids for row in found]
    return [rows[start : start + each] for start in range(0, len(rows), each)]


#: Different samples of a source, most likely.
LIVELY: dict[str, Any] = {
    "temperature": 2.0,
    "seed": 11,
    "num_return_sequences": 3,
    "max_new_tokens": 24,
}


@pytest.fixture(scope="module")
def ending(
    t5: Subject, variant_of: Callable[..., tuple[Path, Path]], reference_of: Callable[[Path], Any]
) -> Iterator[Subject]:
    """A model with so many end tokens that samples end here and there."""
    checkpoint, bundle = variant_of("t5-v1.1", eos_token_id=[1, *range(20, 384, 20)])
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        yield t5._replace(model=model, reference=reference_of(checkpoint))


@pytest.mark.parametrize("each", [1, 3])
def test_a_seed_gives_the_same_samples_in_any_company(each: int, ending: Subject) -> None:
    """Sources leave the batch when they are done, and others stay."""
    order = [3, 0, 4, 2, 1]
    left_early = False
    for seed in range(4):
        options = {**LIVELY, "seed": seed, "num_return_sequences": each, "max_new_tokens": 40}
        together = grouped(ending.generate(padded(ROWS), **options), each)
        alone = [grouped(ending.generate([row], **options), each)[0] for row in ROWS]
        assert together == alone
        mixed = ending.generate(padded([ROWS[place] for place in order]), **options)
        assert grouped(mixed, each) == [together[place] for place in order]
        size = 1 + seed
        batches = ending.generate(padded(ROWS), batch_size=size, **options)
        assert grouped(batches, each) == together
        steps = [max(map(len, rows)) for rows in together]
        left_early |= sorted(steps)[len(steps) // 2] < max(steps) != steps[0]
    assert left_early


def test_samples_of_a_source_differ(t5: Subject) -> None:
    (samples,) = grouped(t5.generate(**{**LIVELY, "num_return_sequences": 20}), 20)
    assert len({tuple(row) for row in samples}) == 20
    assert len({row[0] for row in samples}) > 5


def test_one_seed_gives_one_result_and_another_seed_another(t5: Subject) -> None:
    results = [
        [tuple(row.token_ids) for row in t5.generate(**{**LIVELY, "seed": seed})]
        for seed in (0, 1, 2, 2**32, 2**64 + 1, 0)
    ]
    assert results[0] == results[-1]
    assert len({row for result in results[:-1] for row in result}) == 15


def test_without_a_seed_each_call_draws_anew(t5: Subject) -> None:
    once, again = (t5.generate(**{**LIVELY, "seed": None}) for _ in range(2))
    assert len({tuple(row.token_ids) for row in [*once, *again]}) == 6


def test_streams_of_sources_samples_seeds_and_steps_do_not_repeat_each_other(t5: Subject) -> None:
    """With equal scores a token is the random number itself, so that a copy would show."""
    size = t5.model.manifest.dimensions.vocab_size
    count, steps = 500, 3

    def draw(seed: int, ids: list[list[int]]) -> Any:
        found = t5.generate(
            ids,
            seed=seed,
            top_k=0,
            logits_processors=[lambda _, scores: np.zeros_like(scores)],
            suppress_tokens=(),
            num_return_sequences=count,
            max_new_tokens=steps,
        )
        rows = [(row.token_ids + [0] * steps)[:steps] for row in found]
        return np.array(rows).reshape(len(ids), count, steps)

    # Neighbours in every respect: one token differs, in any place, or the seed does.
    rows = [[5, 6, 7, 1], [5, 6, 8, 1], [6, 6, 7, 1], [5, 7, 6, 1]]
    drawn = np.concatenate([draw(seed, rows) for seed in (0, 1)])
    chains = drawn.transpose(0, 2, 1).reshape(-1, count).astype(float)  # [8 * steps, count]
    # Sample n of one against sample n + 1 of the others, too.
    chains = np.concatenate([chains, np.roll(chains, 1, axis=1)])
    correlation = np.corrcoef(chains) - np.eye(len(chains))
    assert np.abs(correlation).max() < 0.22  # 4.9 standard deviations of independent ones
    equal = (chains[:, None] == chains[None]).mean(axis=2)[~np.eye(len(chains), dtype=bool)]
    assert equal.max() < 10 / size
    counts = np.bincount(drawn[..., 0].ravel() // 24, minlength=size // 24)
    assert chi_square_p(counts, np.full(size // 24, 24 / size)) > 1e-3
