"""Options and results of generate and generate_ids, against transformers where it has them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seq2edge.runtime import BackendError, Generation, InputError, Seq2SeqModel

from ..batches import padded

#: t5-v1.1 has random weights whose outputs do not settle on one token at once.
LIVELY = "t5-v1.1"
ROWS = [[5, 6, 7, 1], [200, 13, 77, 150, 22, 1], [300, 301, 9, 9, 1], [17, 210, 1]]
BundleOf = Callable[[str], Path]


def expected_tokens(reference: Any, rows: list[list[int]], **options: Any) -> list[list[int]]:
    """transformers' greedy tokens after the start token, cut after the end token."""
    pad, eos = reference.config.pad_token_id, reference.generation_config.eos_token_id
    ids = torch.tensor(padded(rows, pad))
    mask = torch.tensor(padded([[1] * len(row) for row in rows]))
    with torch.inference_mode():
        found = reference.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, **options
        )[:, 1:].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in found]


def tokens(found: list[Generation]) -> list[list[int]]:
    return [row.token_ids for row in found]


@pytest.fixture(scope="module")
def lively(bundle_of: BundleOf) -> Seq2SeqModel:
    return Seq2SeqModel.load(bundle_of(LIVELY))


@pytest.fixture(scope="module")
def lively_reference(
    checkpoint_of: Callable[[str], Path], reference_of: Callable[[Path], Any]
) -> Any:
    return reference_of(checkpoint_of(LIVELY))


def test_200_tokens_over_several_cache_growths_equal_transformers(
    lively: Seq2SeqModel, lively_reference: Any
) -> None:
    expected = expected_tokens(lively_reference, ROWS, max_new_tokens=200)
    found = tokens(lively.generate_ids(padded(ROWS), max_new_tokens=200))
    assert found == expected
    # Tokens that repeat from slot 64 on would not show a cache that lost its past.
    assert max(len(set(row[64:])) for row in found) >= 10


@pytest.mark.parametrize("prefix", [[9], [9, 10, 11], [7] * 70])
def test_decoder_prefix_equals_decoder_input_ids_of_transformers(
    prefix: list[int], lively: Seq2SeqModel, lively_reference: Any
) -> None:
    start = lively_reference.config.decoder_start_token_id
    expected = expected_tokens(
        lively_reference,
        ROWS,
        max_new_tokens=15,
        decoder_input_ids=torch.tensor([[start, *prefix]] * len(ROWS)),
    )
    found = tokens(
        lively.generate_ids(
            padded(ROWS),
            max_new_tokens=15,
            config=replace(lively.generation_config, decoder_prefix=prefix),
        )
    )
    assert found == expected
    assert found != tokens(lively.generate_ids(padded(ROWS), max_new_tokens=15))


def test_rows_do_not_depend_on_their_neighbours(lively: Seq2SeqModel) -> None:
    order = [2, 0, 3, 1]
    there = lively.generate_ids(
        padded(ROWS),
        max_new_tokens=40,
        config=replace(lively.generation_config, return_scores=True),
    )
    again = lively.generate_ids(
        padded([ROWS[i] for i in order]),
        max_new_tokens=40,
        config=replace(lively.generation_config, return_scores=True),
    )
    assert tokens(again) == [there[i].token_ids for i in order]
    assert [row.score for row in again] == pytest.approx([there[i].score for i in order], abs=1e-3)
    assert len({tuple(row.token_ids) for row in there}) == len(ROWS)


def test_pad_tokens_are_masked_without_an_attention_mask(lively: Seq2SeqModel) -> None:
    ids = padded(ROWS)
    found = tokens(lively.generate_ids(ids, max_new_tokens=20))
    assert found == tokens(lively.generate_ids(ids, ids != 0, max_new_tokens=20))
    assert found == [lively.generate_ids([row], max_new_tokens=20)[0].token_ids for row in ROWS]
    assert found != tokens(lively.generate_ids(ids, np.ones_like(ids), max_new_tokens=20))


def test_attention_mask_decides_over_pad_tokens(lively: Seq2SeqModel) -> None:
    found = lively.generate_ids([[5, 6, 7, 1, 99, 98]], [[1, 1, 1, 1, 0, 0]], max_new_tokens=20)
    assert tokens(found) == tokens(lively.generate_ids([[5, 6, 7, 1]], max_new_tokens=20))


def test_tokens_do_not_depend_on_the_number_of_threads(
    lively: Seq2SeqModel, bundle_of: BundleOf
) -> None:
    expected = tokens(lively.generate_ids(padded(ROWS), max_new_tokens=30))
    for count in (1, 2):
        with Seq2SeqModel.load(bundle_of(LIVELY), num_threads=count) as model:
            assert tokens(model.generate_ids(padded(ROWS), max_new_tokens=30)) == expected


def test_two_threads_on_one_model_give_what_they_give_one_after_the_other(
    lively: Seq2SeqModel,
) -> None:
    batches = [padded(ROWS[:2]), padded(ROWS[2:])] * 4

    def generate(ids: np.ndarray) -> list[list[int]]:
        return tokens(lively.generate_ids(ids, max_new_tokens=80))

    serial = [generate(ids) for ids in batches]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(generate, batches)) == serial


def test_model_works_on_after_an_input_error(lively: Seq2SeqModel) -> None:
    before = tokens(lively.generate_ids(padded(ROWS), max_new_tokens=10))
    for wrong in ([[999_999]], [[5], [6, 7]], [[0, 0]]):
        with pytest.raises(InputError):
            lively.generate_ids(wrong)
    assert tokens(lively.generate_ids(padded(ROWS), max_new_tokens=10)) == before


def test_no_source_gives_no_result(lively: Seq2SeqModel, byte_bundle: Path) -> None:
    assert lively.generate_ids(np.zeros((0, 4), np.int64)) == []
    assert lively.generate_ids([]) == []
    with Seq2SeqModel.load(byte_bundle) as model:
        assert model.generate([]) == []


def test_a_string_counts_as_one_text(byte_bundle: Path) -> None:
    with Seq2SeqModel.load(byte_bundle) as model:
        found = model.generate("three words here", max_new_tokens=12)
        assert found == model.generate(["three words here"], max_new_tokens=12)
        assert len(found) == 1


def test_texts_give_what_their_token_ids_give(byte_bundle: Path) -> None:
    texts = ["short", "a longer text, ü", "x"]
    with Seq2SeqModel.load(byte_bundle) as model:
        found = model.generate(texts, max_new_tokens=30)
        # ByT5: byte b is token b + 3, and 1 ends the text.
        rows = [[byte + 3 for byte in text.encode()] + [1] for text in texts]
        assert found == model.generate_ids(padded(rows), max_new_tokens=30)
    assert [row.text for row in found] == [
        bytes(i - 3 for i in row.token_ids if 3 <= i < 259).decode(errors="ignore") for row in found
    ]
    assert len({row.text for row in found}) > 1


def test_text_is_none_without_a_tokenizer(lively: Seq2SeqModel) -> None:
    assert lively.generate_ids([ROWS[0]], max_new_tokens=2)[0].text is None


def test_closed_model_can_be_closed_again(bundle_of: BundleOf) -> None:
    with Seq2SeqModel.load(bundle_of("t5")) as model:
        model.close()


def test_closed_model_says_that_it_was_closed(bundle_of: BundleOf) -> None:
    with Seq2SeqModel.load(bundle_of("t5")) as model:
        pass
    with pytest.raises(BackendError, match="closed; load it again"):
        model.generate_ids([ROWS[0]])
