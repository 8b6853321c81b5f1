"""Our beam search beside the reference's: options, what each finds, and what a tie is.

Both compute in float32 but add in another order, so two hypotheses whose scores are equal to
rounding may change places. Such a *tie* is no error, and the only difference that is let pass:
where the sequences of a rank differ, the reference itself must give ours (forced through its
own ``generate``, with the same options) a score within ``TIE`` of the one that it preferred;
with greedy decoding, the two tokens' processed scores at the first step that differs must be
that close. Ties are counted, and more than ``MOST_TIES`` of all sequences fail.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from seq2edge.runtime import Generation, Seq2SeqModel

SHAPES = ("t5-v1.1", "bart-scaled")
BATCHES = (1, 3)
#: Sources; the tokens around them are added by shape. Rows of a batch differ in length.
SOURCES = ([200, 13, 77, 150, 22], [5, 6], [300, 301, 9, 9])
NEW_TOKENS = 12
TIE, MOST_TIES = 1e-4, 0.02
SCORE = 1e-3
#: Scores of what is no hypothesis at all.
FILLER = -1e6
#: Combinations of the beam options that each of the groups (shape, batch) runs, of 144.
COMBOS_A_GROUP = 14


class Combo(NamedTuple):
    """Options of one comparison, by the names that both sides give them."""

    num_beams: int
    length_penalty: float
    early_stopping: bool | str
    num_return_sequences: int
    no_repeat_ngram_size: int
    repetition_penalty: float
    min_new_tokens: int


def combos(shape: str, num_beams: int, batch: int) -> list[Combo]:
    """The combinations that a group runs: groups of one ``num_beams`` share none.

    Greedy decoding has no length penalty, early stopping or second result, so that its eight
    combinations are run by every group.
    """
    processors = list(product((0, 2), (1.0, 1.3), (0, 8)))
    if num_beams == 1:
        return [Combo(1, 1.0, False, 1, *values) for values in processors]
    every = [
        Combo(num_beams, penalty, stopping, results, *values)
        for penalty, stopping, results, values in product(
            (0.0, 1.0, 2.0), (False, True, "never"), (1, num_beams), processors
        )
    ]
    random.Random(num_beams).shuffle(every)
    group = SHAPES.index(shape) * len(BATCHES) + BATCHES.index(batch)
    return every[group * COMBOS_A_GROUP : (group + 1) * COMBOS_A_GROUP]


GROUPS = list(product(SHAPES, (1, 2, 4, 8), BATCHES))


class Expected(NamedTuple):
    """One of transformers' sequences; ``step_scores`` for greedy decoding only."""

    source: int
    tokens: list[int]
    score: float
    step_scores: Sequence[torch.Tensor] = ()


class Subject(NamedTuple):
    """A model on both sides, and the tokens that end its sequences."""

    model: Seq2SeqModel
    reference: Any
    ends: tuple[int, ...]

    def batch(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and mask [size, S], padded on the right."""
        t5 = self.reference.config.model_type == "t5"
        rows = [[*row, 1] if t5 else [0, *row, 2] for row in SOURCES[:size]]
        width, pad = max(len(row) for row in rows), self.reference.config.pad_token_id
        ids = np.array([row + [pad] * (width - len(row)) for row in rows])
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids, mask

    def found(self, batch: int, **options: Any) -> list[Generation]:
        return self.model.generate_ids(
            *self.batch(batch), replace(self.model.generation_config, **options)
        )

    def expected(self, batch: int, **options: Any) -> list[Expected]:
        """What transformers makes of the same sources: cut after the end token.

        Where there are fewer hypotheses than results wanted, it fills up with a score of -1e9.
        """
        ids, mask = map(torch.tensor, self.batch(batch))
        with torch.inference_mode():
            out = self.reference.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )
        prompt = len(options.get("decoder_input_ids", [[0]])[0])
        rows = [self.cut(row, prompt) for row in out.sequences.tolist()]
        results = len(rows) // batch
        if "sequences_scores" in out:
            scores = out.sequences_scores.tolist()
            return [
                Expected(place // results, row, score)
                for place, (row, score) in enumerate(zip(rows, scores, strict=True))
                if score > FILLER
            ]
        steps = self.reference.compute_transition_scores(
            out.sequences, out.scores, normalize_logits=True
        )
        return [
            Expected(
                place, row, float(steps[place, : len(row)].sum()), [s[place] for s in out.scores]
            )
            for place, row in enumerate(rows)
        ]

    def cut(self, row: list[int], prompt: int) -> list[int]:
        """Tokens after the decoder start token, as far as the first new end token."""
        last = next((i for i, t in enumerate(row) if i >= prompt and t in self.ends), len(row))
        return row[1 : last + 1]

    def score_of(self, tokens: list[int], batch: int, source: int, **options: Any) -> float:
        """The score that the reference's own beam search gives ``tokens``; -inf if it cannot."""
        options["num_return_sequences"] = start = 1
        if "decoder_input_ids" in options:
            options["decoder_input_ids"] = options["decoder_input_ids"][:1]
            start = options["decoder_input_ids"].shape[1]
        end = self.ends[0]

        def allowed(_batch: int, row: torch.Tensor) -> list[int]:
            place = len(row) - 1
            return [tokens[place] if place < len(tokens) else end]

        ids, mask = (torch.tensor(part[source : source + 1]) for part in self.batch(batch))
        with torch.inference_mode():
            out = self.reference.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                prefix_allowed_tokens_fn=allowed,
                **options,
            )
        if self.cut(out.sequences[0].tolist(), start) != tokens:
            return -np.inf
        return float(out.sequences_scores[0])


class Comparison:
    """Compares results, and keeps what differs, what tied and what was seen."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.problems: list[str] = []
        self.ties = 0
        self.compared = 0
        self.seen: list[Expected] = []
        self.best: dict[int, set[tuple[int, ...]]] = {}

    def run(self, batch: int, label: object = "", /, **options: Any) -> None:
        """Compare one call; options are transformers', and ours but for one name."""
        ours = dict(options)
        if "decoder_input_ids" in ours:
            ours["decoder_prefix"] = tuple(ours.pop("decoder_input_ids")[0, 1:].tolist())
        expected = self._subject.expected(batch, **options)
        found = self._subject.found(batch, **ours, return_scores=True)
        self.compare(batch, label or options, expected, found, options)

    def compare(
        self,
        batch: int,
        label: object,
        expected: list[Expected],
        found: list[Generation],
        options: dict[str, Any],
    ) -> None:
        """Compare results in their order; ``options`` are those that the reference took."""
        assert [row.source for row in found] == [row.source for row in expected], label
        for place, (theirs, ours) in enumerate(zip(expected, found, strict=True)):
            self.compared += 1
            self.seen.append(theirs)
            if place == 0 or expected[place - 1].source != theirs.source:
                self.best.setdefault(theirs.source, set()).add(tuple(theirs.tokens))
            score = theirs.score
            if ours.token_ids != theirs.tokens:
                other = self._tied(theirs, ours.token_ids, batch, options)
                if other is None:
                    self._note(label, place, theirs, ours)
                    continue
                self.ties, score = self.ties + 1, other
            ends = ours.token_ids[-1] in self._subject.ends
            if (
                ours.score is None
                or abs(ours.score - score) > SCORE  # never, if it is nan
                or ours.finish_reason != ("eos" if ends else "length")
            ):
                self._note(label, place, theirs, ours)

    def _tied(
        self, theirs: Expected, ours: list[int], batch: int, options: dict[str, Any]
    ) -> float | None:
        """The reference's score of our sequence, if it ties with its own."""
        if not theirs.step_scores:
            score = self._subject.score_of(ours, batch, theirs.source, **options)
            return score if abs(score - theirs.score) < TIE else None
        pairs = zip(theirs.tokens, ours, strict=False)
        step = next((step for step, (a, b) in enumerate(pairs) if a != b), None)
        if step is None:  # one stopped without an end token
            return None
        one, other = (float(theirs.step_scores[step][t[step]]) for t in (theirs.tokens, ours))
        # What follows is another text: there is no score to compare with.
        return np.nan if abs(one - other) < TIE else None

    def _note(self, label: object, place: int, theirs: Expected, ours: Generation) -> None:
        self.problems.append(
            f"{label}, result {place}:\n  expected {theirs.tokens} {theirs.score}\n"
            f"  found    {ours.token_ids} {ours.score} {ours.finish_reason}"
        )

    def check(self) -> None:
        assert not self.problems, "\n".join(
            [f"{len(self.problems)} of {self.compared} differ", *self.problems[:8]]
        )
        assert self.compared > 0
        assert self.ties < MOST_TIES * self.compared, f"{self.ties} ties of {self.compared}"

    def check_ends(self) -> None:
        """Some of the reference's sequences ended with an end token, some by their length."""
        endings = {row.tokens[-1] in self._subject.ends for row in self.seen}
        assert endings == {True, False}


SubjectOf = Callable[..., Subject]
