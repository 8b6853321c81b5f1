"""What each hypothesis of a tree sees is its own ancestry, whatever is chosen, kept or moved."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2edge.runtime.backends.base import Ids, Step
from seq2edge.runtime.kv_cache.capacity import first_capacity, grown_capacity
from seq2edge.runtime.kv_cache.slots import prefill

from .token_cache import (
    MULTIPLE,
    VOCAB,
    Search,
    TokenCache,
    answer,
    rounded_up,
)


def random_parents(rng: np.random.Generator, batch: int, width: int, mixing: float) -> Ids:
    """Parents of each hypothesis: itself, or with probability ``mixing`` one of the best few."""
    best = rng.integers(1, width + 1)
    others = rng.integers(0, best, (batch, width))
    return np.where(rng.random((batch, width)) < mixing, others, np.arange(width))


TOKENS = st.integers(0, VOCAB - 1)
PROMPTS = st.lists(TOKENS, min_size=1, max_size=4) | st.lists(TOKENS, min_size=1, max_size=70)


class Plan(NamedTuple):
    """How a search is led: ``mixing`` is how often a hypothesis changes its parent, ``leaving``
    how often sources leave, ``feeding`` whether the tree's own answers are its next tokens,
    ``normalizer`` whether it is asked for, and whether the decoder computes it."""

    width: int
    prompts: list[list[int]]
    steps: int
    mixing: float
    leaving: float
    feeding: bool
    logits: bool
    normalizer: tuple[bool, bool]
    seed: int


def plans(widths: st.SearchStrategy[int]) -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        width=widths,
        prompts=st.lists(PROMPTS, min_size=1, max_size=4)
        | st.builds(lambda prompt, batch: [prompt] * batch, PROMPTS, st.integers(1, 4)),
        steps=st.integers(0, 70),
        mixing=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        leaving=st.sampled_from([0.0, 0.05, 0.5]),
        feeding=st.booleans(),
        logits=st.booleans(),
        normalizer=st.tuples(st.booleans(), st.booleans()),
        seed=st.integers(0, 2**32 - 1),
    )


def lead(plan: Plan) -> Search:
    """Lead a search to its end; it checks itself after each step."""
    rng, width = np.random.default_rng(plan.seed), plan.width
    wanted, computed = plan.normalizer
    search = Search.start(
        plan.prompts,
        width,
        plan.steps,
        logits=plan.logits,
        logsumexp=wanted,
        computed=computed,
    )
    for step in range(plan.steps):
        batch = len(search.texts)
        if rng.random() < plan.leaving:
            batch = int(rng.integers(1, batch + 1))
            search.select_batch(rng.permutation(len(search.texts))[:batch])
        own = rng.random() < 0.2
        parents = None if own else random_parents(rng, batch, width, plan.mixing)
        # Greedy decoding hands the tree its own array back.
        fed = plan.feeding and (step > 0 or width == 1)
        tokens = search.tree.next_token_ids if fed else rng.integers(0, VOCAB, (batch, width))
        search.forward(tokens, parents)
    return search


@settings(deadline=None, max_examples=150)
@given(plans(st.integers(2, 8)))
def test_each_hypothesis_sees_its_own_ancestry(plan: Plan) -> None:
    lead(plan)


@settings(deadline=None, max_examples=50)
@given(plans(st.just(1)))
def test_a_single_hypothesis_sees_its_own_text(plan: Plan) -> None:
    assert lead(plan).cache.packed == []  # a chain leaves no slot behind


@pytest.mark.parametrize("batch", [1, 3])
def test_hypotheses_that_descend_from_one_are_packed_and_see_the_same(batch: int) -> None:
    rng = np.random.default_rng(batch)
    search = Search.start([[3, 1, 4]] * batch, width=6, steps=120)
    for _ in range(120):
        parents = np.tile(rng.integers(0, 6, (batch, 1)), (1, 6))
        search.forward(rng.integers(0, VOCAB, (batch, 6)), parents)
    assert len(search.cache.packed) >= 5
    # 123 tokens of one ancestor and six at their ends; without packing it would be 723.
    assert search.cache.max_cache_len == 256


def test_sources_are_packed_each_by_what_it_needs() -> None:
    rng = np.random.default_rng(0)
    search = Search.start([[5]] * 3, width=4, steps=60)
    for step in range(60):
        # One source descends from its best, one changes every 25 steps, one stays in pairs.
        parents = np.array([[0] * 4, [0] * 4 if step % 25 == 24 else [0, 1, 2, 3], [0, 0, 1, 1]])
        search.forward(rng.integers(0, VOCAB, (3, 4)), parents)
    assert len(search.cache.packed) >= 1
    assert len(search.cache.grown) >= 1


def test_hypotheses_that_stay_apart_take_all_slots_and_no_more() -> None:
    search = Search.start([[9, 9, 9]] * 2, width=5, steps=50)
    for step in range(50):
        search.forward(np.full((2, 5), step % VOCAB), None)
    assert search.cache.packed == []
    assert search.cache.grown == [128, 256]
    assert search.cache.max_cache_len == rounded_up(3 + 5 * 50) == 256


def test_packing_goes_on_after_sources_left() -> None:
    rng = np.random.default_rng(1)
    search = Search.start([[2, 2]] * 4, width=4, steps=100)
    for step in range(100):
        if step in (30, 60):
            search.select_batch(np.array([2, 0] if step == 30 else [1]))
        size = len(search.texts)
        search.forward(rng.integers(0, VOCAB, (size, 4)), np.full((size, 4), step % 4))
    assert len(search.texts) == 1
    assert len(search.cache.packed) >= 3


def test_sources_that_change_places_keep_their_slots() -> None:
    rng = np.random.default_rng(2)
    search = Search.start([[8]] * 2, width=4, steps=80)
    places, packed = [0, 1], 0  # which source stands where
    for step in range(80):
        # The first source descends from its best; in the other one a hypothesis stays apart.
        apart = [0, 0, 0, 3 if step % 8 else 0]
        parents = np.array([[0] * 4 if source == 0 else apart for source in places])
        search.forward(rng.integers(0, VOCAB, (2, 4)), parents)
        if len(search.cache.packed) > packed:
            packed = len(search.cache.packed)
            search.select_batch(np.array([1, 0]))
            places.reverse()
    assert packed >= 3


@settings(deadline=None, max_examples=30)
@given(st.lists(PROMPTS, min_size=1, max_size=3), st.booleans())
def test_prefill_lets_each_prompt_token_see_those_before_it(
    prompts: list[list[int]], logits: bool
) -> None:
    longest = max(map(len, prompts))
    decoder = TokenCache(len(prompts), first_capacity(longest, longest))
    step = prefill(decoder, prompts, VOCAB if logits else None)
    for seen, prompt in zip(decoder.seen, prompts, strict=True):
        assert seen[: len(prompt)] == [prompt[: end + 1] for end in range(len(prompt))]
    check_ends(step, prompts, logits)


@settings(deadline=None, max_examples=30)
@given(st.lists(PROMPTS, min_size=1, max_size=3), st.booleans(), st.integers(1, 20))
def test_prefill_in_parts_gives_what_follows_each_prompt(
    prompts: list[list[int]], logits: bool, most: int
) -> None:
    longest = max(map(len, prompts))
    decoder = TokenCache(len(prompts), first_capacity(longest, longest))
    step = prefill(decoder, prompts, VOCAB if logits else None, max_num_tokens=most)
    assert all(len(row) <= most for row in decoder.seen)
    check_ends(step, prompts, logits)


def check_ends(step: Step, prompts: list[list[int]], logits: bool) -> None:
    expected = [[answer(prompt)] for prompt in prompts]
    assert step.next_token_ids.tolist() == expected
    assert (step.logits is not None) == logits
    if step.logits is not None:
        assert step.logits.argmax(axis=2).tolist() == expected


def test_the_fake_refuses_a_slot_that_holds_nothing() -> None:
    decoder = TokenCache(1, 16)
    step = Step.allocate(1, 1, 16)
    step.attention_mask[..., :2] = True
    step.write_indices[:] = 0
    with pytest.raises(AssertionError, match="holds nothing"):
        decoder.forward(step)


def test_the_fake_refuses_a_step_of_another_cache() -> None:
    decoder = TokenCache(1, 16)
    step = Step.allocate(1, 1, 16)
    step.attention_mask[..., 0] = True
    run = decoder._bind(step)
    run()
    decoder.grow(32)
    with pytest.raises(AssertionError, match="were replaced"):
        run()


SLOTS = st.integers(1, 5000)


@given(SLOTS, SLOTS)
def test_first_capacity_has_room_for_the_prompt_and_starts_small(one: int, other: int) -> None:
    prompt, slots = sorted((one, other))
    capacity = first_capacity(slots, prompt)
    assert capacity % MULTIPLE == 0
    assert capacity >= prompt
    assert capacity <= max(64, rounded_up(prompt))
    assert capacity <= rounded_up(slots)


@given(SLOTS, SLOTS, SLOTS)
def test_grown_capacity_has_room_and_stays_within_the_bound(a: int, b: int, c: int) -> None:
    capacity, needed, slots = sorted((rounded_up(a), b, c))
    capacity = rounded_up(capacity)
    grown = grown_capacity(capacity, slots, needed)
    assert grown % MULTIPLE == 0
    assert grown >= needed
    assert grown <= rounded_up(slots)
    # Growing copies the cache, so it doubles, but for the last time.
    assert grown >= min(2 * capacity, rounded_up(slots))
    assert grown <= max(2 * capacity, rounded_up(needed))


@given(SLOTS, SLOTS, st.integers(1, 8))
def test_a_cache_that_fills_up_is_copied_a_few_times_only(one: int, other: int, width: int) -> None:
    prompt, slots = sorted((one, other))
    capacity, copies, used = first_capacity(slots, prompt), 0, prompt
    while used + width <= slots:
        if used + width > capacity:
            capacity, copies = grown_capacity(capacity, slots, used + width), copies + 1
        used += width
        assert used <= capacity <= rounded_up(slots)
    assert copies <= 7  # 64 * 2 ** 7 > 5000
