"""Prompt-lookup decoding: greedy decoding that guesses several tokens and verifies them at once.

Where the last n tokens of the output occurred before, in the output or in the source, the
tokens that followed there are a guess for what comes next. They are run as one tree step of Q
tokens; those that greedy decoding would have chosen are kept, and the first one that it would
not is replaced by its choice. The result is greedy decoding's, token for token.

Source: Saxena 2023, "Prompt Lookup Decoding"; verification: Leviathan et al. 2023, "Fast
Inference from Transformers via Speculative Decoding", in the greedy case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np

from ..engines import Decoder, Step
from ..engines.base import Ids
from .cache import first_capacity, grown_capacity
from .call import Call, Results, Sequence, selection
from .processors import Rows
from .scores import Scores, log_normalizer
from .stopping import LENGTH
from .tree import prefill

#: Tokens. In the worst case one step in so many runs a guess that is wrong.
_LONGEST_PAUSE = 16


class Guesser:
    """N-grams of one source and its output, each with where it was last followed by what.

    Args:
        source: the source's tokens.
        longest: tokens of the longest n-gram that is matched; longer matches are tried first.
        most: tokens of the longest guess.
    """

    def __init__(self, source: SequenceOf[int], longest: int, most: int) -> None:
        self._longest = longest
        self._most = most
        #: Guess length: doubled by a guess that was right to its end.
        self._length = most
        #: After a guess whose first token was wrong no other is made for so many tokens; the
        #: number doubles each time, so that text with nothing to copy costs next to nothing.
        self._pause = 0
        self._waiting = 0
        self._source = list(source)
        self._output: list[int] = []
        self._in_source = self._index(self._source)
        self._in_output: dict[tuple[int, ...], int] = {}

    def append(self, tokens: SequenceOf[int]) -> None:
        """Learn the next tokens of the output."""
        for token in tokens:
            output = self._output
            # N-grams that end before this token are now followed by something.
            for size in range(1, min(self._longest, len(output)) + 1):
                self._in_output[tuple(output[-size:])] = len(output)
            output.append(token)
            self._waiting -= 1

    def guess(self, most: int) -> list[int]:
        """What may come next: up to ``most`` tokens, often none."""
        count = min(most, self._length)
        if count < 1 or self._waiting > 0:
            return []
        for size in range(min(self._longest, len(self._output)), 0, -1):
            key = tuple(self._output[-size:])
            if key in self._in_source:
                start = self._in_source[key]
                return self._source[start : start + count]
            if key in self._in_output:
                start = self._in_output[key]
                return self._output[start : start + count]
        return []

    def learn(self, guessed: int, right: int) -> None:
        """Adapt to how many of the ``guessed`` tokens were right, after ``append``."""
        if right:
            self._pause = 0
            longer = 2 * self._length if right == guessed else right + 1
            self._length = min(self._most, longer)
        elif guessed:
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause + 1)
            self._waiting = self._pause
            self._length = max(1, self._length // 2)

    def _index(self, tokens: list[int]) -> dict[tuple[int, ...], int]:
        found: dict[tuple[int, ...], int] = {}
        for size in range(1, self._longest + 1):
            for end in range(size, len(tokens)):
                found[tuple(tokens[end - size : end])] = end
        return found


@dataclass
class _Row:
    """One source: its sequence, what it may still grow by, and its slots in use."""

    sequence: Sequence
    guesser: Guesser
    remaining: int
    used: int
    last: int = 0
    guess: list[int] = field(default_factory=list)


def decode_with_lookup(call: Call) -> Iterator[Results]:
    """Greedy decoding with guesses; yields all sequences after each step.

    Raises:
        InputError: the options together forbid every token.
    """
    return _Loop(call).run()


class _Loop:
    def __init__(self, call: Call) -> None:
        config = call.config
        self._call = call
        self._most = config.prompt_lookup_num_tokens or 0
        self._reads_logits = bool(call.processors or config.return_scores)
        self._rows = [
            _Row(
                Sequence([*config.decoder_prefix]),
                Guesser(source, config.max_matching_ngram_size, self._most),
                call.new_tokens,
                len(call.prompt),
            )
            for source in call.sources
        ]
        self._active = list(range(call.batch_size))
        self._results: Results = [[row.sequence] for row in self._rows]
        #: Bound steps by their number of tokens, until the cache is another one.
        self._steps: dict[int, tuple[Step, Callable[[], None]]] = {}

    def run(self) -> Iterator[Results]:
        call = self._call
        for token in call.forced:
            for row in self._rows:
                self._append(row, token, 0.0)
        if not self._unfinished():
            yield self._results
            return
        most_slots = len(call.prompt) + call.new_tokens + self._most
        decoder = call.engine.decoder(call.source, first_capacity(most_slots, len(call.prompt)))
        step = None
        while self._unfinished():
            if step is None:
                vocab_size = call.vocab_size if self._reads_logits else None
                step = prefill(decoder, call.batch_size, call.prompt, vocab_size)
                self._verify(step, np.full(call.batch_size, len(call.prompt) - 1), prompt=True)
            else:
                kept = selection([not row.sequence.finish_reason for row in self._running()])
                if kept is not None:
                    self._active = [self._active[place] for place in kept]
                    decoder.keep(kept)
                    self._steps.clear()
                step = self._step(decoder, most_slots)
                self._verify(step, np.zeros(len(self._active), np.int64))
            interrupted = call.stopping.interrupted()
            if interrupted is not None:
                for row in self._rows:
                    row.sequence.finish_reason = row.sequence.finish_reason or interrupted
            yield self._results

    def _running(self) -> list[_Row]:
        return [self._rows[source] for source in self._active]

    def _unfinished(self) -> bool:
        return any(row.sequence.finish_reason is None for row in self._rows)

    def _step(self, decoder: Decoder, most_slots: int) -> Step:
        """Guess, and run each row's last token and guess."""
        rows = self._running()
        for row in rows:
            # Not even a right guess may pass the limit; the token after it needs a place too.
            most = 0 if row.sequence.finish_reason else min(row.remaining - 1, self._most)
            row.guess = row.guesser.guess(most)
        queries = 1 + max(len(row.guess) for row in rows)
        used = np.array([row.used for row in rows])
        needed = int(used.max()) + queries
        if needed > decoder.capacity:
            decoder.grow(grown_capacity(decoder.capacity, most_slots, needed))
            self._steps.clear()
        step, run = self._bound(decoder, queries)
        for place, row in enumerate(rows):
            step.input_ids[place, 0] = row.last
            step.input_ids[place, 1 : 1 + len(row.guess)] = row.guess
        places = used[:, None] + np.arange(queries)
        # What a shorter guess leaves of its row is run and never seen; its positions must exist.
        last_position = len(self._call.prompt) - len(self._call.forced) + self._call.new_tokens - 2
        np.minimum(places, max(0, last_position), out=step.position_ids)
        np.less_equal(
            np.arange(decoder.capacity), places[:, :, None], out=step.attention_mask[:, 0]
        )
        step.write_index[:] = used
        run()
        return step

    def _bound(self, decoder: Decoder, queries: int) -> tuple[Step, Callable[[], None]]:
        if queries not in self._steps:
            vocab_size = self._call.vocab_size if self._reads_logits else None
            step = Step.allocate(
                len(self._active), queries, decoder.capacity, vocab_size=vocab_size
            )
            self._steps[queries] = step, decoder.bind(step)
        return self._steps[queries]

    def _verify(self, step: Step, first: Ids, *, prompt: bool = False) -> None:
        """Append what greedy decoding chooses, as far as the guesses were right.

        ``first`` [A] is the query whose outcome follows what each row has.
        """
        for place, row in enumerate(self._running()):
            if row.sequence.finish_reason is not None:
                continue
            appended = right = 0
            for query in range(int(first[place]), int(first[place]) + len(row.guess) + 1):
                token, score = self._choose(step, place, query)
                self._append(row, token, score)
                appended += 1
                if row.sequence.finish_reason is not None or right == len(row.guess):
                    break
                if token != row.guess[right]:
                    break
                right += 1
            row.guesser.learn(len(row.guess), right)
            if not prompt:
                row.used += appended

    def _choose(self, step: Step, place: int, query: int) -> tuple[int, float]:
        row = self._running()[place]
        forced = self._call.forces_end(row.remaining)
        if forced is not None:
            return forced, 0.0
        if step.logits is None:
            return int(step.next_ids[place, query]), 0.0
        scores: Scores = step.logits[place, query : query + 1].copy()
        if self._call.processors:
            start = self._call.manifest.special_tokens.decoder_start
            tokens = np.array([[start, *row.sequence.token_ids]], np.int64)
            scores = self._call.processors(
                Rows(tokens, np.array([self._active[place]], np.int64)), scores
            )
            if np.isneginf(scores.max()):
                raise self._call.no_continuation(row.sequence.token_ids)
        token = int(scores.argmax())
        if not self._call.config.return_scores:
            return token, 0.0
        return token, float(scores[0, token] - log_normalizer(scores)[0])

    def _append(self, row: _Row, token: int, score: float) -> None:
        sequence = row.sequence
        sequence.token_ids.append(token)
        sequence.score += score
        row.last = token
        row.remaining -= 1
        row.guesser.append([token])
        sequence.finish_reason = self._call.stopping.reason(sequence.token_ids) or (
            LENGTH if row.remaining == 0 else None
        )
