"""200 random combinations of options, over families and batches: transformers' own tokens.

What counts as the same, and what as a tie, is in ``comparison.py``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from .comparison import BATCHES, NEW_TOKENS, Comparison, SubjectOf

FAMILIES = ("t5-v1.1", "bart-scaled", "marian", "m2m100", "mbart-scaled")
EACH = 40


def random_options(
    rng: random.Random, likely: list[int], ends: list[int], batch: int
) -> dict[str, Any]:
    """Each option in about a third of all; ``likely`` tokens are those that come without any."""

    def some(count: int) -> list[int]:
        return [rng.choice(likely) for _ in range(count)]

    beams = rng.choice([1, 1, 2, 3, 5])
    options: dict[str, Any] = {
        "repetition_penalty": rng.choice([0.8, 1.3, 2.0]),
        "no_repeat_ngram_size": rng.choice([1, 2, 3]),
        "bad_words_ids": [some(1), some(2), some(3)],
        "sequence_bias": [[some(1), rng.uniform(-6, 4)], [some(2), rng.uniform(-6, 4)]],
        "suppress_tokens": some(2),
        "begin_suppress_tokens": some(1),
        "min_length": rng.randrange(1, NEW_TOKENS),
        "min_new_tokens": rng.randrange(0, NEW_TOKENS),
        "forced_bos_token_id": rng.choice(likely),
        "forced_eos_token_id": rng.choice(ends),
        "exponential_decay_length_penalty": [rng.randrange(5), rng.uniform(0.9, 1.4)],
        "remove_invalid_values": True,
        "renormalize_logits": True,
        # Without sampling, nothing looks at these.
        "temperature": rng.choice([0.0, 0.4]),
        "top_k": rng.choice([-1, 3]),
        "top_p": 0.5,
        "typical_p": 0.3,
    }
    if beams > 1:
        options |= {
            "length_penalty": rng.choice([-1.0, 0.0, 2.0]),
            "early_stopping": rng.choice([True, "never"]),
            "num_return_sequences": beams,
        }
    if batch == 1:  # transformers takes the padding of a batch for tokens of the source
        options |= {
            "encoder_repetition_penalty": rng.choice([0.5, 1.5]),
            "encoder_no_repeat_ngram_size": rng.choice([1, 2]),
        }
    chosen = {name: value for name, value in options.items() if rng.random() < 0.3}
    if "remove_invalid_values" in chosen:  # transformers' decay of a forbidden end is infinite
        chosen.pop("exponential_decay_length_penalty", None)
    if "forced_bos_token_id" in chosen:
        chosen.pop("suppress_tokens", None)  # transformers refuses to force what is suppressed
    limit = rng.choice([{"max_new_tokens": NEW_TOKENS}, {"max_length": NEW_TOKENS + 1}])
    return {"num_beams": beams, **chosen, **limit}


@pytest.mark.parametrize("family", FAMILIES)
def test_random_combinations_find_what_transformers_finds(
    family: str, subject_of: SubjectOf, ends_of: Callable[[str], list[int]]
) -> None:
    ends = ends_of(family)[:2]
    subject = subject_of(family, ends)
    plain = subject.expected(3, num_beams=3, num_return_sequences=3, max_new_tokens=NEW_TOKENS)
    likely = [token for row in plain for token in row.tokens if token not in ends]
    rng = random.Random(family)
    comparison = Comparison(subject)
    used: Counter[str] = Counter()
    for _ in range(EACH):
        batch = rng.choice(BATCHES)
        options = random_options(rng, likely, ends, batch)
        comparison.run(batch, options, **options)
        used.update(options.keys())
        if options["num_beams"] == 1:  # what is guessed is verified by the same options
            greedy = subject.found(batch, **options)
            assert subject.found(batch, prompt_lookup_num_tokens=4, **options) == greedy, options
    comparison.check()
    comparison.check_ends()
    assert min(used.values()) >= 2
    assert len(used) >= 22
