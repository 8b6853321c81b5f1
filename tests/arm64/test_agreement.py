"""Which differences between machines pass, and that the others do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

END = 1
Make = Callable[..., Any]


@pytest.fixture
def outcome(agreement: ModuleType) -> Make:
    """A function from two sources' tokens, and what to change of their logits, to an outcome.

    A chosen token's logit is 10, the others' 0, but for ``logits``: (source, step, token) -> value.
    Beams hold the greedy tokens (score -1) and the same with other ends (score -2), but for
    ``beams``.
    """

    def make(
        greedy: list[list[int]],
        logits: dict[tuple[int, int, int], float] | None = None,
        beams: dict[int, list[tuple[list[int], float]]] | None = None,
    ) -> Any:
        values = np.full((len(greedy), 6, 9), np.nan, np.float32)
        for source, tokens in enumerate(greedy):
            for step, token in enumerate(tokens):
                values[source, step] = 0
                values[source, step, token] = 10
        for place, value in (logits or {}).items():
            values[place] = value
        found = [[(tokens, -1.0), ([8, END], -2.0)] for tokens in greedy]
        for source, hypotheses in (beams or {}).items():
            found[source] = hypotheses
        return agreement.Outcome(
            sources=[[5, END], [6, END]],
            texts=[None, None],
            greedy=greedy,
            beams=found,
            logits=values,
            load_s=0.0,
            step_s=0.0,
        )

    return make


X86 = [[3, 4, END], [5, END]]


def test_the_same_tokens_and_logits_within_the_bound_agree(
    agreement: ModuleType, outcome: Make
) -> None:
    other = outcome(X86, {(0, 1, 7): 0.2})
    found = agreement.compare(outcome(X86), other, 0.25, exact=False)
    assert found.problems() == []
    assert found.logits == pytest.approx(0.2)
    assert agreement.compare(outcome(X86), other, 0.15, exact=False).problems() == [
        "logits differ by 0.2, more than 0.15"
    ]


def test_a_near_tie_on_both_machines_is_explained(agreement: ModuleType, outcome: Make) -> None:
    here = outcome(X86, {(0, 1, 6): 9.95})
    there = outcome([[3, 6, 8, END], X86[1]], {(0, 1, 4): 9.9}, {0: here.beams[0]})
    found = agreement.compare(here, there, 0.2, exact=False)
    (difference,) = found.differences
    assert (difference.strategy, difference.source, difference.position) == ("greedy", 0, 1)
    assert difference.gaps == pytest.approx((0.05, 0.1), abs=1e-5)
    # What follows the parting, where the machines read different tokens, is not compared.
    assert found.problems() == []


def test_float32_may_not_even_differ_in_a_near_tie(agreement: ModuleType, outcome: Make) -> None:
    here = outcome(X86, {(0, 1, 6): 9.9999})
    there = outcome([[3, 6, END], X86[1]], {(0, 1, 4): 9.9999}, {0: here.beams[0]})
    found = agreement.compare(here, there, 1e-3, exact=True)
    assert found.problems() == ["source 0: greedy differs, and float32 may not"]


def test_a_choice_that_one_machine_is_sure_of_is_not_explained(
    agreement: ModuleType, outcome: Make
) -> None:
    here = outcome(X86, {(0, 1, 6): 9.95})
    there = outcome([[3, 6, END], X86[1]], {(0, 1, 4): 7.0}, {0: here.beams[0]})
    problems = agreement.compare(here, there, 0.2, exact=False).problems()
    assert "source 0: greedy differs, and it is no near tie" in problems
    assert "logits differ by 3, more than 0.2" in problems


def test_a_sequence_that_only_goes_on_is_not_explained(
    agreement: ModuleType, outcome: Make
) -> None:
    there = outcome([[3, 4], X86[1]])
    (difference, _) = agreement.compare(outcome(X86), there, 0.2, exact=False).differences
    assert (difference.position, difference.gaps) == (2, (math.inf, math.inf))


def test_no_number_never_agrees(agreement: ModuleType, outcome: Make) -> None:
    there = outcome(X86, {(1, 0, 7): math.nan})
    assert agreement.compare(outcome(X86), there, 0.2, exact=False).problems() == [
        "logits differ by inf, more than 0.2"
    ]


def test_hypotheses_that_change_places_are_explained_by_their_scores(
    agreement: ModuleType, outcome: Make
) -> None:
    first, second = [3, 4, END], [3, 6, END]
    here = outcome(X86, beams={0: [(first, -1.0), (second, -1.1)]})
    there = outcome(X86, beams={0: [(second, -1.02), (first, -1.05)]})
    found = agreement.compare(here, there, 0.2, exact=False)
    (difference,) = found.differences
    assert (difference.strategy, difference.position) == ("beam search", 1)
    assert difference.gaps == pytest.approx((0.1, 0.03))
    assert found.problems() == []
    assert agreement.compare(here, there, 0.05, exact=False).problems() == [
        "source 0: beam search differs, and it is no near tie"
    ]


def test_a_hypothesis_that_the_other_machine_has_not_found_is_not_explained(
    agreement: ModuleType, outcome: Make
) -> None:
    there = outcome(X86, beams={0: [([7, END], -1.0), ([8, END], -1.1)]})
    found = agreement.compare(outcome(X86), there, 0.2, exact=False)
    assert found.problems() == ["source 0: beam search differs, and it is no near tie"]


def test_scores_are_compared_source_by_source(agreement: ModuleType, outcome: Make) -> None:
    """Two sources may have a hypothesis in common."""
    beams = {0: [([3, END], -1.0)], 1: [([5, END], -1.0), ([3, END], -3.0)]}
    one, other = outcome(X86, beams=beams), outcome(X86, beams=beams)
    assert agreement.compare(one, other, 0.2, exact=False).scores == 0
    beams[1] = [([5, END], -1.5)]
    found = agreement.compare(one, outcome(X86, beams=beams), 0.2, exact=False)
    assert found.problems() == ["scores differ by 0.5, more than 0.2"]


def test_the_bound_is_twice_what_eight_bit_inputs_do_to_the_same_model(
    agreement: ModuleType, outcome: Make
) -> None:
    outcomes = {
        "a.float32": outcome(X86),
        "a.int8-dynamic": outcome(X86, {(1, 0, 2): 0.3}),
        "a.int4": outcome(X86, {(1, 0, 2): 5.0}),
        "b.float32": outcome(X86),
        "b.int8-dynamic": outcome(X86, {(0, 0, 2): 0.1}),
    }
    assert agreement.bounds(outcomes) == pytest.approx(
        {
            "a.float32": agreement.EXACT_BOUND,
            "a.int8-dynamic": 0.6,
            "a.int4": 0.6,
            "b.float32": agreement.EXACT_BOUND,
            "b.int8-dynamic": 0.2,
        }
    )


def test_executed_instructions_are_counted(emulator: ModuleType, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(
        "----------------\nIN: kernel\n"
        "0x7f90291cae40:  4e829420  sdot     v0.4s, v1.16b, v2.16b\n"
        "0x7f90291cae44:  d65f03c0  ret      \n\n"
        "----------------\nIN: \n"
        "0x7f90291cae48:  4e82a420  smmla    v0.4s, v1.16b, v2.16b\n"
        "0x7f90291cae4c:  4e829420  sdot     v0.4s, v1.16b, v2.16b\n"
    )
    assert emulator.count_instructions(trace) == {"sdot": 2, "smmla": 1}
    trace.write_text("----------------\nIN: \nOBJD-T: 1f2003d5\n")
    assert emulator.count_instructions(trace) is None
