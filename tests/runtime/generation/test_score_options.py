"""Options that edit scores: greedy decoding with each against transformers' generate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from seq2edge.runtime import Generation, Seq2SeqModel

from ...batches import padded

SHAPES = ("t5-v1.1", "bart-scaled")
#: Sources without and with a start token, of three lengths that are in no order.
SOURCES = {
    "t5-v1.1": [[5, 6, 7, 1], [200, 13, 77, 150, 22, 1], [17, 210, 1]],
    "bart-scaled": [[0, 7, 8, 9, 2], [0, 300, 13, 77, 150, 22, 2], [0, 40, 2]],
}
NEW_TOKENS = 24


class Subject(NamedTuple):
    """A model, its reference in PyTorch, padded sources and what is made of them by default."""

    model: Seq2SeqModel
    reference: Any
    ids: list[list[int]]
    plain: list[list[int]]

    def expected(self, **options: Any) -> list[list[int]]:
        """transformers' greedy tokens after the start token, up to the end token."""
        ids = torch.tensor(self.ids)
        end = self.reference.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [end])
        with torch.inference_mode():
            found = self.reference.generate(
                input_ids=ids,
                attention_mask=(ids != self.model.manifest.special_tokens.pad).long(),
                **{"max_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": 1, **options},
            )[:, 1:].tolist()
        return [
            row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]
            for row in found
        ]

    def found(self, **options: Any) -> list[list[int]]:
        return tokens(
            self.model.generate_ids(
                self.ids,
                config=replace(
                    self.model.generation_config, **{"max_new_tokens": NEW_TOKENS, **options}
                ),
            )
        )


def tokens(found: list[Generation]) -> list[list[int]]:
    return [row.token_ids for row in found]


def make_subject(shape: str, bundle: Path, reference: Any) -> Subject:
    model = Seq2SeqModel.load(bundle, num_threads=1)
    pad = model.manifest.special_tokens.pad
    ids = padded(SOURCES[shape], pad)
    plain = tokens(model.generate_ids(ids, max_new_tokens=NEW_TOKENS))
    return Subject(model, reference, ids, plain)


@pytest.fixture(scope="module", params=SHAPES)
def subject(
    request: pytest.FixtureRequest,
    checkpoint_of: Callable[[str], Path],
    bundle_of: Callable[[str], Path],
    reference_of: Callable[[Path], Any],
) -> Iterator[Subject]:
    shape = request.param
    made = make_subject(shape, bundle_of(shape), reference_of(checkpoint_of(shape)))
    with made.model:
        yield made


@pytest.fixture(scope="module", params=SHAPES)
def ending(
    request: pytest.FixtureRequest,
    variant_of: Callable[..., tuple[Path, Path]],
    bundle_of: Callable[[str], Path],
    reference_of: Callable[[Path], Any],
) -> Iterator[Subject]:
    """A model that finishes each source within three tokens, if it may."""
    shape = request.param
    free = make_subject(shape, bundle_of(shape), None)
    with free.model as model:
        ends = sorted({*model.manifest.special_tokens.eos, *(row[2] for row in free.plain)})
    checkpoint, bundle = variant_of(shape, eos_token_id=ends)
    made = make_subject(shape, bundle, reference_of(checkpoint))
    assert max(len(row) for row in made.plain) <= 3
    with made.model:
        yield made


def fifths(source: int, tokens: Any) -> list[int]:
    return list(range((source + int(tokens[-1]) + len(tokens)) % 5, 380, 5))


#: Name: (the option as we call it, as transformers does), from what is generated without it.
OPTIONS: dict[str, Callable[[list[list[int]]], tuple[dict[str, Any], dict[str, Any]]]] = {
    **{
        f"{name}={value}": lambda _, n=name, v=value: ({n: v}, {n: v})  # type: ignore[misc]
        for name, value in [
            ("repetition_penalty", 1.8),
            ("no_repeat_ngram_size", 1),
            ("no_repeat_ngram_size", 2),
            ("no_repeat_ngram_size", 3),
        ]
    },
    "bad_words_ids, one token": lambda plain: both(bad_words_ids=[[plain[0][0]]]),
    "bad_words_ids, two and three": lambda plain: both(
        bad_words_ids=[plain[0][:2], plain[1][1:3], plain[2][3:6]]
    ),
    "suppress_tokens": lambda plain: both(suppress_tokens=[plain[0][0], plain[1][2]]),
    "begin_suppress_tokens": lambda plain: both(
        begin_suppress_tokens=[plain[0][0], plain[1][0]],
    ),
    "begin_suppress_tokens after a forced token": lambda _: both(
        forced_bos_token_id=9, begin_suppress_tokens=list(range(100, 380))
    ),
    "sequence_bias, one token": lambda plain: (
        {"sequence_bias": {plain[0][0]: -9.0, 11: 3.0}},
        {"sequence_bias": [[[plain[0][0]], -9.0], [[11], 3.0]]},
    ),
    "sequence_bias, two and three": lambda plain: both(
        sequence_bias=[[plain[0][:2], -9.0], [plain[1][1:3], -8.0], [plain[2][3:6], -7.0]]
    ),
    "exponential_decay_length_penalty": lambda _: both(exponential_decay_length_penalty=(3, 1.3)),
    "prefix_allowed_tokens": lambda _: (
        {"prefix_allowed_tokens": fifths},
        {"prefix_allowed_tokens_fn": fifths},
    ),
    "several": lambda plain: both(
        repetition_penalty=1.3, no_repeat_ngram_size=2, suppress_tokens=[plain[0][0]]
    ),
}


def both(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return options, options


@pytest.mark.parametrize("name", OPTIONS)
def test_greedy_decoding_with_an_option_equals_transformers(name: str, subject: Subject) -> None:
    own, reference = OPTIONS[name](subject.plain)
    found = subject.found(**own)
    assert found == subject.expected(**reference)
    assert found != subject.plain


@pytest.mark.parametrize("size", [1, 2])
def test_encoder_no_repeat_ngram_size_equals_transformers(size: int, subject: Subject) -> None:
    """Sources are made of what came out before, until there is something to forbid."""
    special = subject.model.manifest.special_tokens
    option = {"encoder_no_repeat_ngram_size": size}
    made = subject.plain
    for _ in range(5):
        rows = [
            [*(token for token in row[: 12 - 3 * place] if token != special.pad), special.eos[0]]
            for place, row in enumerate(made)
        ]
        again = subject._replace(ids=padded(rows, special.pad))
        made, found = again.found(), again.found(**option)
        assert found == again.expected(**option)
        if found != made:
            return
    pytest.fail("no n-gram of a source was ever generated")


def test_encoder_repetition_penalty_equals_transformers_source_by_source(
    subject: Subject,
) -> None:
    """In a batch, transformers counts the padding of a source among its tokens."""
    option = {"encoder_repetition_penalty": 4.0}
    found = subject.found(**option)
    pad = subject.model.manifest.special_tokens.pad
    for row, source in zip(found, subject.ids, strict=True):
        alone = subject._replace(ids=[[token for token in source if token != pad]])
        assert [row] == alone.expected(**option)
    assert found != subject.plain


@pytest.mark.parametrize(
    "options",
    [
        {"min_new_tokens": 5},
        {"min_length": 7},
        {"min_new_tokens": 9, "min_length": 4},
        {"min_new_tokens": 4, "min_length": 12},  # the first one counts
    ],
    ids=str,
)
def test_minimum_lengths_equal_transformers(options: dict[str, int], ending: Subject) -> None:
    found = ending.found(**options)
    assert found == ending.expected(**options)
    # min_length counts the decoder start token.
    least = options.get("min_new_tokens", options.get("min_length", 0) - 1)
    assert min(len(row) for row in found) > least
    assert found != ending.plain
