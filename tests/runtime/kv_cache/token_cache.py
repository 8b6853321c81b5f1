"""A fake decoder whose cache holds tokens, and a search over it that checks itself.

The decoder's cache holds tokens instead of keys and values. It reads a step as
the graph does (docs/design.md, section 3) and is stricter than a real one: slots that were
never written, that were left behind by ``pack``, or that came with ``grow`` may not be seen,
and a step that was bound before ``grow`` or ``keep`` may not be run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backends.base import Capabilities, Ids, SlotCache, Step
from seq2edge.runtime.kv_cache.capacity import first_capacity
from seq2edge.runtime.kv_cache.slots import SlotKVCache

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
