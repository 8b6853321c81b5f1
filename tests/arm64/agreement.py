"""When two machines agree on a bundle, and which differences count as explained.

float32 must give the same tokens. What differs with fewer bits is the rounding of inputs to 8
bits: kernels divide and sum in another order, an input next to the edge between two integers falls
to the other side, and later layers carry that on. How much such roundings move logits is measured
on one machine: by what ``int8-dynamic`` (int8 weights and inputs everywhere) does to float32's.
Twice that bounds how far the machines' logits may lie apart, and how far apart the two tokens may
be on either machine where they choose differently.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: Largest difference of float32 logits; the models compared have logits of about 10.
EXACT_BOUND = 1e-3


@dataclass(frozen=True)
class Outcome:
    """What device.py got out of one bundle on one machine.

    Attributes:
        sources, texts, greedy: token ids of each source, its greedy text and tokens.
        beams: for each source hypotheses, best first: tokens and score.
        logits: [sources, steps, V] float32 of greedy decoding, NaN where none were read: after
            a source's end, and at a forced first token.
        load_s, step_s: seconds to load and for a greedy step of all sources.
    """

    sources: list[list[int]]
    texts: list[str | None]
    greedy: list[list[int]]
    beams: list[list[tuple[list[int], float]]]
    logits: NDArray[np.float32]
    load_s: float
    step_s: float


@dataclass(frozen=True)
class Machine:
    """All outcomes of one machine, by ``model.scheme``."""

    features: list[str]
    import_s: float
    outcomes: Mapping[str, Outcome]

    @classmethod
    def read(cls, path: Path) -> Machine:
        """What device.py wrote as ``path``.json and ``path``.npz."""
        report = json.loads(path.with_suffix(".json").read_text())
        with np.load(path.with_suffix(".npz")) as logits:
            outcomes = {
                name: Outcome(logits=logits[name], **case) for name, case in report["cases"].items()
            }
        return cls(report["features"], report["import_s"], outcomes)


@dataclass(frozen=True)
class Difference:
    """One source whose tokens differ.

    ``position`` is the first token that does; ``gaps`` say for each machine how much it prefers
    its own choice: a difference of logits, or of two hypotheses' scores for beam search;
    infinite where a machine does not know the other's choice.
    """

    strategy: str
    source: int
    position: int
    gaps: tuple[float, float]

    def explained(self, bound: float) -> bool:
        """A near tie on both machines."""
        return all(gap < bound for gap in self.gaps)


@dataclass(frozen=True)
class Comparison:
    """One bundle on two machines.

    ``logits`` and ``scores`` are the largest differences: of the steps with the same tokens
    before them, and of the beam searches with the same best hypothesis.
    """

    bound: float
    exact: bool
    same_inputs: bool
    logits: float
    scores: float
    differences: list[Difference]

    def problems(self) -> list[str]:
        """What cannot be explained; empty: the machines agree."""
        found = [] if self.same_inputs else ["the tokenizer gives other ids or texts"]
        for what, value in (("logits", self.logits), ("scores", self.scores)):
            if not value < self.bound:
                found.append(f"{what} differ by {value:.2g}, more than {self.bound:.2g}")
        found += [
            f"source {one.source}: {one.strategy} differs, and "
            + ("float32 may not" if self.exact else "it is no near tie")
            for one in self.differences
            if self.exact or not one.explained(self.bound)
        ]
        return found


def compare(one: Outcome, other: Outcome, bound: float, *, exact: bool) -> Comparison:
    """``exact``: no token may differ; ``bound``: see the head of this file."""
    best = [(a[0], b[0]) for a, b in zip(one.beams, other.beams, strict=True)]
    same_tokens = one.greedy == other.greedy
    return Comparison(
        bound=bound,
        exact=exact,
        same_inputs=one.sources == other.sources and (not same_tokens or one.texts == other.texts),
        logits=largest_difference(one, other),
        scores=max((abs(a[1] - b[1]) for a, b in best if a[0] == b[0]), default=0.0),
        differences=[*_greedy_differences(one, other), *_beam_differences(one, other)],
    )


def bounds(outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """The bound of each ``model.scheme``, from one machine's outcomes."""
    found = {}
    for name in outcomes:
        model, _, scheme = name.partition(".")
        exact, rounded = outcomes[f"{model}.float32"], outcomes[f"{model}.int8-dynamic"]
        found[name] = EXACT_BOUND if scheme == "float32" else 2 * largest_difference(exact, rounded)
    return found


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """Where two sequences part; None: they are equal."""
    if list(one) == list(other):
        return None
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def largest_difference(one: Outcome, other: Outcome) -> float:
    """Of the logits of steps with the same tokens before them; infinite where one is no number."""
    largest = 0.0
    for source, (tokens, others) in enumerate(zip(one.greedy, other.greedy, strict=True)):
        parted = first_difference(tokens, others)
        steps = len(tokens) if parted is None else parted + 1
        ours, theirs = one.logits[source, :steps], other.logits[source, :steps]
        apart = np.abs(ours - theirs)[~np.isnan(ours)]
        largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0)))
    return largest


def _greedy_differences(one: Outcome, other: Outcome) -> list[Difference]:
    found = []
    for source, (tokens, others) in enumerate(zip(one.greedy, other.greedy, strict=True)):
        place = first_difference(tokens, others)
        if place is None:
            continue
        gaps = (math.inf, math.inf)
        if place < min(len(tokens), len(others)):
            ours, theirs = one.logits[source, place], other.logits[source, place]
            mine, its = tokens[place], others[place]
            gaps = float(ours[mine] - ours[its]), float(theirs[its] - theirs[mine])
        found.append(Difference("greedy", source, place, gaps))
    return found


def _beam_differences(one: Outcome, other: Outcome) -> list[Difference]:
    found = []
    for source, (ours, theirs) in enumerate(zip(one.beams, other.beams, strict=True)):
        (mine, my_score), (its, its_score) = ours[0], theirs[0]
        place = first_difference(mine, its)
        if place is None:
            continue
        gaps = (my_score - _score(ours, its), its_score - _score(theirs, mine))
        found.append(Difference("beam search", source, place, gaps))
    return found


def _score(beam: list[tuple[list[int], float]], tokens: list[int]) -> float:
    return next((score for found, score in beam if found == tokens), -math.inf)
