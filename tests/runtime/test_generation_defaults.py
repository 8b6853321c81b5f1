"""What a checkpoint's generation_config.json says holds for the bundle, as in transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.generation.config import DEFAULT_MAX_NEW_TOKENS

T5_ROW = [200, 13, 77, 150, 22, 1]
BART_ROW = [0, 7, 8, 9, 2]
SHORT_ROW = [40, 1]
VariantOf = Callable[..., tuple[Path, Path]]
ReferenceOf = Callable[[Path], Any]


class EarlyEnd(NamedTuple):
    """A bundle and what it generates for SHORT_ROW."""

    bundle: Path
    tokens: list[int]


def expected_tokens(reference: Any, row: list[int], **options: Any) -> list[int]:
    """transformers' greedy tokens after the start token; options default to the checkpoint's."""
    with torch.inference_mode():
        found = reference.generate(input_ids=torch.tensor([row]), do_sample=False, **options)
    tokens: list[int] = found[0, 1:].tolist()
    return tokens


@pytest.mark.parametrize(
    ("defaults", "count"),
    [
        ({"max_new_tokens": 7}, 7),
        ({"max_length": 12}, 11),  # transformers counts the start token
        ({"max_new_tokens": 7, "max_length": 12}, 7),
    ],
)
def test_default_length_is_the_checkpoints(
    defaults: dict[str, int], count: int, variant_of: VariantOf, reference_of: ReferenceOf
) -> None:
    checkpoint, bundle = variant_of("t5-v1.1", **defaults)
    with Seq2SeqModel.load(bundle) as model:
        found = model.generate_ids([T5_ROW])[0]
        assert len(model.generate_ids([T5_ROW], max_new_tokens=9)[0].token_ids) == 9
    assert found.token_ids == expected_tokens(reference_of(checkpoint), T5_ROW)
    assert len(found.token_ids) == count
    assert found.finish_reason == "length"


def test_default_max_length_counts_the_decoder_prefix(
    variant_of: VariantOf, reference_of: ReferenceOf
) -> None:
    checkpoint, bundle = variant_of("t5-v1.1", max_length=12)
    expected = expected_tokens(
        reference_of(checkpoint), T5_ROW, decoder_input_ids=torch.tensor([[0, 9, 10, 11]])
    )
    with Seq2SeqModel.load(bundle) as model:
        found = model.generate_ids(
            [T5_ROW], config=replace(model.generation_config, decoder_prefix=[9, 10, 11])
        )[0]
    assert found.token_ids == expected


def test_default_length_without_any_is_256(bundle_of: Callable[[str], Path]) -> None:
    with Seq2SeqModel.load(bundle_of("t5-v1.1")) as model:
        found = model.generate_ids([T5_ROW])[0]
    assert len(found.token_ids) == DEFAULT_MAX_NEW_TOKENS == 256


@pytest.mark.parametrize("prefix", [[], [9, 10]])
def test_default_length_stops_at_the_last_position(
    prefix: list[int], variant_of: VariantOf
) -> None:
    _, bundle = variant_of("bart-scaled", max_new_tokens=500)
    with Seq2SeqModel.load(bundle) as model:
        found = model.generate_ids(
            [BART_ROW], config=replace(model.generation_config, decoder_prefix=prefix)
        )[0]
    assert len(found.token_ids) == 80  # max_position_embeddings


@pytest.fixture(scope="module")
def early_end(variant_of: VariantOf, bundle_of: Callable[[str], Path]) -> EarlyEnd:
    """A bundle with a second end token, which SHORT_ROW reaches within 25 and T5_ROW does not."""
    with Seq2SeqModel.load(bundle_of("t5-v1.1")) as model:
        short, long = (
            model.generate_ids([row], max_new_tokens=25)[0].token_ids for row in (SHORT_ROW, T5_ROW)
        )
    place = next(i for i, token in enumerate(short) if i > 0 and token not in [*short[:i], *long])
    assert place < 24
    return EarlyEnd(variant_of("t5-v1.1", eos_token_id=[1, short[place]])[1], short[: place + 1])


def test_finish_reason_tells_an_end_token_from_the_limit(early_end: EarlyEnd) -> None:
    rows = [SHORT_ROW + [0] * (len(T5_ROW) - len(SHORT_ROW)), T5_ROW]
    with Seq2SeqModel.load(early_end.bundle) as model:
        short, long = model.generate_ids(
            rows, max_new_tokens=25, config=replace(model.generation_config, return_scores=True)
        )
        alone = model.generate_ids(
            [SHORT_ROW],
            max_new_tokens=25,
            config=replace(model.generation_config, return_scores=True),
        )[0]
    assert (short.token_ids, short.finish_reason) == (early_end.tokens, "eos")
    assert (len(long.token_ids), long.finish_reason) == (25, "length")
    # The score of a finished row does not grow with its neighbour's tokens.
    assert short.score == pytest.approx(alone.score, abs=1e-3)


def test_end_token_in_the_last_place_counts_as_eos(early_end: EarlyEnd) -> None:
    count = len(early_end.tokens)
    with Seq2SeqModel.load(early_end.bundle) as model:
        found = model.generate_ids([SHORT_ROW], max_new_tokens=count)[0]
        shorter = model.generate_ids([SHORT_ROW], max_new_tokens=count - 1)[0]
    assert (found.token_ids, found.finish_reason) == (early_end.tokens, "eos")
    assert (shorter.token_ids, shorter.finish_reason) == (early_end.tokens[:-1], "length")


@pytest.mark.parametrize("count", [1, 2, 3, 12])
@pytest.mark.parametrize("forced", ["bos", "eos", "both"])
def test_forced_tokens_are_those_of_transformers(
    forced: str,
    count: int,
    forced_variants: dict[str, tuple[Path, Path]],
    reference_of: ReferenceOf,
) -> None:
    checkpoint, bundle = forced_variants[forced]
    expected = expected_tokens(reference_of(checkpoint), BART_ROW, max_new_tokens=count)
    with Seq2SeqModel.load(bundle) as model:
        found = model.generate_ids([BART_ROW], max_new_tokens=count)[0]
    assert found.token_ids == expected
    assert found.finish_reason == ("eos" if expected[-1] == 2 else "length")
    if count == 12:
        assert (expected[0] == 5) == (forced != "eos")
        assert (expected[-1] == 2) == (forced != "bos")


@pytest.mark.parametrize("count", [1, 2, 8])
def test_forced_tokens_with_a_decoder_prefix_are_those_of_transformers(
    count: int, forced_variants: dict[str, tuple[Path, Path]], reference_of: ReferenceOf
) -> None:
    checkpoint, bundle = forced_variants["both"]
    expected = expected_tokens(
        reference_of(checkpoint),
        BART_ROW,
        max_new_tokens=count,
        decoder_input_ids=torch.tensor([[2, 9, 10]]),
    )
    with Seq2SeqModel.load(bundle) as model:
        found = model.generate_ids(
            [BART_ROW],
            max_new_tokens=count,
            config=replace(model.generation_config, decoder_prefix=[9, 10]),
        )[0]
    assert found.token_ids == expected


@pytest.fixture(scope="module")
def forced_variants(variant_of: VariantOf) -> dict[str, tuple[Path, Path]]:
    """BART checkpoints that force the first token (5), the last one (2) or both."""
    bos, eos = {"forced_bos_token_id": 5}, {"forced_eos_token_id": 2}
    return {
        "bos": variant_of("bart-scaled", **bos),
        "eos": variant_of("bart-scaled", **eos),
        "both": variant_of("bart-scaled", **bos, **eos),
    }


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("prefix", [[], [9]])
def test_several_forced_tokens_are_those_of_transformers(
    num_beams: int, prefix: list[int], variant_of: VariantOf, reference_of: ReferenceOf
) -> None:
    """Any of them may come; a single one in a list is one."""
    for bos, eos in (([5, 33], [2]), ([7], [2, 11]), ([40, 5, 33], [11, 2, 4])):
        forced = {"forced_bos_token_id": bos, "forced_eos_token_id": eos}
        checkpoint, bundle = variant_of("bart-scaled", **forced)
        with torch.inference_mode():
            expected = reference_of(checkpoint).generate(
                input_ids=torch.tensor([BART_ROW]),
                decoder_input_ids=torch.tensor([[2, *prefix]]),
                max_new_tokens=6,
                num_beams=num_beams,
                num_return_sequences=num_beams,
            )[:, 1:]
        with Seq2SeqModel.load(bundle) as model:
            config = replace(
                model.generation_config,
                max_new_tokens=6,
                num_beams=num_beams,
                num_return_sequences=num_beams,
                decoder_prefix=prefix,
            )
            found = model.generate_ids([BART_ROW], config=config)
        # Beams that differ in the forced end only have equal scores: which one is the third best
        # is nobody's rule.
        end = None if num_beams == 1 else -1
        assert sorted(row.token_ids[:end] for row in found) == sorted(expected[:, :end].tolist())
        assert {row.token_ids[-1] for row in found} <= set(eos)
        assert prefix or {row.token_ids[0] for row in found} <= set(bos)


def test_a_limit_of_time_and_a_stop_string_of_the_checkpoint_hold(
    variant_of: VariantOf, reference_of: ReferenceOf
) -> None:
    checkpoint, bundle = variant_of("bart-scaled", max_time=1e-6, max_length=20)
    for beams in (1, 3):
        expected = reference_of(checkpoint).generate(torch.tensor([BART_ROW]), num_beams=beams)
        with Seq2SeqModel.load(bundle) as model:
            config = replace(model.generation_config, num_beams=beams)
            found = model.generate_ids([BART_ROW], config=config)[0]
        assert found.token_ids == expected[0, 1:].tolist()
        assert found.finish_reason == "time"
    files = {"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}}
    _, bundle = variant_of("t5-v1.1", files, max_length=40)
    with Seq2SeqModel.load(bundle) as model:
        whole = model.generate("a text")[0].text
    assert whole is not None
    stop = next(c for c in whole if c.isprintable() and not c.isspace())
    for value in (stop, [stop, "never there"]):
        _, bundle = variant_of("t5-v1.1", files, max_length=40, stop_strings=value)
        with Seq2SeqModel.load(bundle) as model:
            found = model.generate("a text")[0]
        assert found.text == whole[: whole.index(stop) + 1]
        assert found.finish_reason == "stop_string"


@pytest.mark.parametrize("limit", [3, 5, 12])
def test_max_length_counts_the_decoder_prompt(
    limit: int, variant_of: VariantOf, reference_of: ReferenceOf
) -> None:
    checkpoint, bundle = variant_of("t5-v1.1", max_length=9)
    for prefix in ([], [7]):
        expected = reference_of(checkpoint).generate(
            torch.tensor([T5_ROW]), decoder_input_ids=torch.tensor([[0, *prefix]]), max_length=limit
        )
        with Seq2SeqModel.load(bundle) as model:
            config = replace(model.generation_config, max_length=limit, decoder_prefix=prefix)
            found = model.generate_ids([T5_ROW], config=config)[0]
        assert found.token_ids == expected[0, 1:].tolist()


def test_max_new_tokens_of_the_checkpoint_goes_before_max_length(
    variant_of: VariantOf, reference_of: ReferenceOf
) -> None:
    checkpoint, bundle = variant_of("t5-v1.1", max_new_tokens=4)
    expected = reference_of(checkpoint).generate(torch.tensor([T5_ROW]), max_length=12)
    with Seq2SeqModel.load(bundle) as model:
        config = replace(model.generation_config, max_length=12)
        assert model.generate_ids([T5_ROW], config=config)[0].token_ids == expected[0, 1:].tolist()


def test_a_minimum_of_the_checkpoint_beyond_the_limit_of_a_call_is_as_in_transformers(
    variant_of: VariantOf, reference_of: ReferenceOf
) -> None:
    ends = [1, *range(3, 300)]  # the first token would end it
    checkpoint, bundle = variant_of("t5-v1.1", min_new_tokens=10, eos_token_id=ends)
    expected = expected_tokens(reference_of(checkpoint), T5_ROW, max_new_tokens=4)
    with Seq2SeqModel.load(bundle) as model:
        assert model.generate_ids([T5_ROW], max_new_tokens=4)[0].token_ids == expected
    assert len(expected) == 4
