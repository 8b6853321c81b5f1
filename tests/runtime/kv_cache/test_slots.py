"""What each hypothesis of a tree sees is its own ancestry, whatever is chosen, kept or moved.

The decoder is a fake whose cache holds tokens instead of keys and values. It reads a step as
the graph does (docs/design.md, section 3) and is stricter than a real one: slots that were
never written, that were left behind by ``pack``, or that came with ``grow`` may not be seen,
and a step that was bound before ``grow`` or ``keep`` may not be run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from seq2edge.runtime.backends.base import Capabilities, Ids, SlotCache, Step
from seq2edge.runtime.kv_cache.capacity import first_capacity, grown_capacity
from seq2edge.runtime.kv_cache.slots import SlotKVCache, prefill

VOCAB = 50
MULTIPLE = 16
#: What a slot holds that must not be seen.
NOTHING = -1


def answer(tokens: list[int]) -> int:
    """The fake's most probable token after ``tokens``: all of them and their order count."""
    value = 0
    for token in tokens:
        value = (31 * value + token + 7) % 1_000_003
    return value % VOCAB


def normalizers(answers: Ids) -> NDArray[np.float64]:
    """log(sum(exp(logits))) where the fake's logits are 0 but for its answers'."""
    return np.log(VOCAB - 1 + np.exp(1 + answers / 10))


class TokenCache(SlotCache):
    """A cache that holds the token that was written to each slot."""

    def __init__(self, batch_size: int, max_cache_len: int, *, computes_logsumexp: bool = False):
        super().__init__()
        self._computes_logsumexp = computes_logsumexp
        self._tokens = np.full((batch_size, max_cache_len), NOTHING, np.int64)
        self.cache_position_ids = self._positions(batch_size, max_cache_len)
        #: What each query of the last step saw, its own token last: [B][Q][n].
        self.seen: list[list[list[int]]] = []
        self.grown: list[int] = []
        self.packed: list[int] = []

    def _grow(self, max_cache_len: int) -> None:
        assert max_cache_len > self.max_cache_len
        tokens, positions = self._tokens, self.cache_position_ids
        slots = self.max_cache_len
        self._tokens = np.full((len(tokens), max_cache_len), NOTHING, np.int64)
        self._tokens[:, :slots] = tokens
        self.cache_position_ids = self._positions(len(tokens), max_cache_len)
        self.cache_position_ids[:, :slots] = positions
        self.grown.append(max_cache_len)

    def compact(self, slots: Ids) -> None:
        assert slots.shape[0] == len(self._tokens)
        count = slots.shape[1]
        for array in (self._tokens, self.cache_position_ids):
            array[:, :count] = np.take_along_axis(array, slots, axis=1)
        self._tokens[:, count:] = NOTHING
        self.cache_position_ids[:, count:] = NOTHING
        self.packed.append(count)

    def _select_batch(self, rows: Ids) -> None:
        self._tokens = self._tokens[rows]
        self.cache_position_ids = self.cache_position_ids[rows]

    def _bind(self, step: Step) -> Callable[[], None]:
        batch, num_tokens = step.input_ids.shape
        tokens = self._tokens
        assert batch == len(tokens)
        assert step.attention_mask.shape == (batch, 1, num_tokens, self.max_cache_len)

        def run() -> None:
            assert tokens is self._tokens, "bound to arrays that were replaced"
            for row in range(batch):
                first = int(step.write_indices[row])
                assert 0 <= first <= self.max_cache_len - num_tokens
                self._tokens[row, first : first + num_tokens] = step.input_ids[row]
            self.seen = [[self._sees(step, b, q) for q in range(num_tokens)] for b in range(batch)]
            # Last: next_token_ids may be input_ids.
            step.next_token_ids[:] = [[answer(tokens) for tokens in row] for row in self.seen]
            if step.logits is not None:
                step.logits[:] = 0
                best = step.next_token_ids[..., None]
                np.put_along_axis(step.logits, best, (1 + best / 10).astype(np.float32), axis=2)
                if step.logsumexp is not None and self._computes_logsumexp:
                    step.logsumexp[:] = normalizers(step.next_token_ids)

        return run

    def _sees(self, step: Step, row: int, query: int) -> list[int]:
        slots = np.flatnonzero(step.attention_mask[row, 0, query])
        assert int(step.write_indices[row]) + query in slots, "a token must see itself"
        positions = self.cache_position_ids[row, slots]
        order = np.argsort(positions, kind="stable")
        tokens: list[int] = self._tokens[row, slots[order]].tolist()
        assert NOTHING not in tokens, "a slot that holds nothing is seen"
        assert positions[order].tolist() == list(range(len(slots))), "positions 0..n-1, each once"
        assert step.position_ids[row, query] == len(slots) - 1
        assert slots[order[-1]] == step.write_indices[row] + query, "the last token is the own one"
        return tokens

    @staticmethod
    def _positions(batch_size: int, capacity: int) -> Ids:
        return np.tile(np.arange(capacity, dtype=np.int64), (batch_size, 1))


@dataclass
class Search:
    """A tree, its decoder, and the texts of its hypotheses as plain lists: [B][W][n]."""

    cache: TokenCache
    tree: SlotKVCache
    texts: list[list[list[int]]]
    bound: int

    @classmethod
    def start(
        cls,
        prompts: list[list[int]],
        width: int,
        steps: int,
        *,
        logits: bool = True,
        logsumexp: bool = False,
        computed: bool = False,
    ) -> Search:
        longest = max(map(len, prompts))
        most = longest + width * steps
        decoder = TokenCache(
            len(prompts), first_capacity(most, longest), computes_logsumexp=computed
        )
        tree = SlotKVCache(
            decoder,
            prompts,
            width=width,
            max_slots=most,
            vocab_size=VOCAB if logits else None,
            logsumexp=logsumexp,
            capabilities=Capabilities(computes_logsumexp=computed),
        )
        assert (tree.logits is not None) == logits
        assert (tree.logsumexp is not None) == (logits and logsumexp)
        ends = zip(decoder.seen, prompts, strict=True)
        assert [row[len(prompt) - 1] for row, prompt in ends] == prompts
        texts = [[list(prompt)] * width for prompt in prompts]
        search = cls(decoder, tree, texts, rounded_up(most))
        search.check([[answer(prompt)] for prompt in prompts])
        return search

    def forward(self, tokens: Ids, parents: Ids | None) -> None:
        own = list(range(len(self.texts[0])))
        chosen = [own] * len(self.texts) if parents is None else parents.tolist()
        self.texts = [
            [[*row[parent], token] for parent, token in zip(ancestors, new, strict=True)]
            for row, ancestors, new in zip(self.texts, chosen, tokens.tolist(), strict=True)
        ]
        self.tree.forward(tokens, parents)
        assert self.cache.seen == self.texts
        self.check([[answer(text) for text in row] for row in self.texts])

    def select_batch(self, sources: Ids) -> None:
        before = self.tree.next_token_ids.tolist()
        self.tree.select_batch(sources)
        self.texts = [self.texts[source] for source in sources]
        self.check([before[source] for source in sources])

    def check(self, answers: list[list[int]]) -> None:
        """The tree gives the answers to what was seen, and its cache keeps to its bound."""
        assert self.tree.next_token_ids.tolist() == answers
        if self.tree.logits is not None:
            assert self.tree.logits.argmax(axis=2).tolist() == answers
        if self.tree.logsumexp is not None:
            expected = normalizers(np.array(answers))
            np.testing.assert_allclose(self.tree.logsumexp, expected, rtol=1e-5)
        assert self.cache.max_cache_len <= self.bound
        assert self.cache.max_cache_len % MULTIPLE == 0


def rounded_up(slots: int) -> int:
    return -(-slots // MULTIPLE) * MULTIPLE


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
