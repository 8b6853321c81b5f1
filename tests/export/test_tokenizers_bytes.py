"""ByT5's bytes against transformers' ByT5Tokenizer."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import ByT5Tokenizer

from seq2edge.runtime import Bundle
from seq2edge.runtime.text.tokenizer import Tokenizer


@pytest.fixture
def pair(
    tmp_path: Path, bundle_tokenizer: Callable[[Path], Tokenizer]
) -> tuple[Tokenizer, ByT5Tokenizer]:
    """Our tokenizer, from a bundle made with the files that transformers saves, and theirs."""
    reference = ByT5Tokenizer()
    reference.save_pretrained(tmp_path / "tokenizer")
    return bundle_tokenizer(tmp_path / "tokenizer"), reference


def expected_ids(reference: ByT5Tokenizer, text: str) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "This sequence already has </s>"
        ids: list[int] = reference(text)["input_ids"]
    return ids


def test_the_bundle_needs_no_tokenizer_file(
    pair: tuple[Tokenizer, ByT5Tokenizer], tmp_path: Path
) -> None:
    manifest = Bundle.open(tmp_path / "bundles" / "tokenizer").manifest
    assert manifest.tokenizer.kind == "byte"
    assert manifest.tokenizer.file is None
    assert "tokenizer.json" not in manifest.files
    assert pair[0].encode("é") == [0xC3 + 3, 0xA9 + 3, 1]


def test_texts_give_the_ids_of_transformers_and_come_back(
    pair: tuple[Tokenizer, ByT5Tokenizer], mixed_texts: list[str]
) -> None:
    ours, reference = pair
    for text in ["", " ", *mixed_texts]:
        ids = ours.encode(text)
        assert ids == expected_ids(reference, text)
        assert ours.decode(ids) == text


@pytest.mark.parametrize(
    "text",
    [
        "<extra_id_0>",
        "a <extra_id_0> b<extra_id_124>c",
        "<extra_id_125>",  # no token: there are 125
        "x</s>",
        "</s>",
        "a </s> b </s> ",
        "  <pad>  a\t<unk>\n",
        "<pad><pad></s></s>",
        "<s> <mask> </S>",
        "<extra_id_",
        "<<extra_id_1>>",
        "<extra_id_007>",
        "<extra_id_\N{ARABIC-INDIC DIGIT THREE}>",
        "<extra_id_>",
        "<extra_id_x> and <extra_id_y>",
        pytest.param("<extra_id_" + "1" * 5000 + ">", id="5000 digits"),
    ],
)
def test_special_tokens_in_the_text_are_those_of_transformers(
    text: str, pair: tuple[Tokenizer, ByT5Tokenizer]
) -> None:
    ours, reference = pair
    assert ours.encode(text) == expected_ids(reference, text)


def test_mixed_special_tokens_give_the_ids_of_transformers(
    pair: tuple[Tokenizer, ByT5Tokenizer], mixed_texts: list[str]
) -> None:
    ours, reference = pair
    generator = random.Random(8)
    tokens = ["</s>", " </s>", "<pad> ", "<unk>", "<extra_id_3>", " <extra_id_77> "]
    for text in mixed_texts:
        mixed = "".join(generator.choice([text, *tokens]) for _ in range(5))
        assert ours.encode(mixed) == expected_ids(reference, mixed)


def test_any_ids_give_the_text_of_transformers(
    pair: tuple[Tokenizer, ByT5Tokenizer],
) -> None:
    """Invalid UTF-8, special tokens and sentinels in all places."""
    ours, reference = pair
    generator = random.Random(9)
    lead, trail = range(3 + 0xC0, 3 + 0xF8), range(3 + 0x80, 3 + 0xC0)
    for _ in range(500):
        ids = [
            generator.choice(generator.choice([range(384), range(3, 131), lead, trail]))
            for _ in range(generator.randint(0, 16))
        ]
        assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_invalid_utf8_is_left_out(pair: tuple[Tokenizer, ByT5Tokenizer]) -> None:
    assert pair[0].decode([97 + 3, 0xFF + 3, 0xC3 + 3, 98 + 3, 0xE6 + 3, 1]) == "ab"
