"""Inputs that the model cannot take are an InputError that names what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import InputError, Seq2SeqModel

#: bart-scaled: 80 positions, 400 tokens. A source word is one token of its own.
_WORDS = {"<unk>": 3, "a": 4, "b": 5, "beyond": 400}


@pytest.fixture(scope="module")
def t5(bundle_of: Callable[[str], Path]) -> Seq2SeqModel:
    return Seq2SeqModel.load(bundle_of("t5"))


@pytest.fixture(scope="module")
def bart(variant_of: Callable[..., tuple[Path, Path]]) -> Seq2SeqModel:
    """A BART with a tokenizer of three words; one more is outside the model's vocabulary."""
    return Seq2SeqModel.load(variant_of("bart-scaled", {"tokenizer.json": tokenizer("<unk>")})[1])


def tokenizer(unknown: str | None) -> dict[str, Any]:
    """A tokenizer.json of whole words; ``unknown`` None leaves it no token for other words."""
    vocabulary = {word: token for word, token in _WORDS.items() if word != "<unk>" or unknown}
    return {
        "version": "1.0",
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown or "<unk>"},
    }


def test_text_without_a_tokenizer(t5: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match=r"has no tokenizer .*use generate_ids"):
        t5.generate(["text"])


@pytest.mark.parametrize("empty", ["", " ", "\n\t"])
def test_empty_text_is_named_by_its_number(empty: str, byte_bundle: Path) -> None:
    with (
        Seq2SeqModel.load(byte_bundle) as model,
        pytest.raises(InputError, match="text 2 is empty"),
    ):
        model.generate(["text", empty])


def test_text_longer_than_the_positions(bart: Seq2SeqModel) -> None:
    bart.generate(["a " * 80], max_new_tokens=1)
    with pytest.raises(InputError, match="text 2 has 81 tokens and the model takes at most 80"):
        bart.generate(["a", "a " * 81])


def test_text_with_a_token_outside_the_models_vocabulary(bart: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match="400"):
        bart.generate(["a beyond b"], max_new_tokens=1)


def test_text_with_a_lone_surrogate(byte_bundle: Path, bart: Seq2SeqModel) -> None:
    with Seq2SeqModel.load(byte_bundle) as model:
        for loaded in (model, bart):
            with pytest.raises(InputError):
                loaded.generate(["a \ud800 b"], max_new_tokens=1)


def test_text_that_the_tokenizer_refuses(variant_of: Callable[..., tuple[Path, Path]]) -> None:
    _, bundle = variant_of("bart-scaled", {"tokenizer.json": tokenizer(None)})
    with Seq2SeqModel.load(bundle) as model:
        model.generate(["a b"], max_new_tokens=1)
        with pytest.raises(InputError, match="text 2"):
            model.generate(["a", "unheard"], max_new_tokens=1)


def test_text_of_which_no_token_is_left(variant_of: Callable[..., tuple[Path, Path]]) -> None:
    # BPE without an unknown token leaves out the characters that it does not know.
    model_only = {"type": "BPE", "vocab": {"a": 4, "b": 5}, "merges": []}
    settings = {"tokenizer.json": {"version": "1.0", "model": model_only}}
    _, bundle = variant_of("bart-scaled", settings)
    with Seq2SeqModel.load(bundle) as model:
        model.generate(["ab"], max_new_tokens=1)
        with pytest.raises(InputError, match="text 2"):
            model.generate(["ab", "☃"], max_new_tokens=1)


def test_ids_longer_than_the_positions(bart: Seq2SeqModel) -> None:
    bart.generate_ids([[4] * 80], max_new_tokens=1)
    with pytest.raises(InputError, match="the source has 81 tokens and the model takes at most 80"):
        bart.generate_ids([[4] * 81])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[5, 6], [7]], r"rectangle \[batch, length\]; pad"),
        ([[5.0, 6.0]], r"integers of shape \[batch, length\], not float64 \(1, 2\)"),
        ([["5"]], "must be integers"),
        ([5, 6], r"shape \[batch, length\], not int64 \(2,\)"),
        ([[[5, 6]]], r"not int64 \(1, 1, 2\)"),
        ([[5, 384]], r"must lie in 0\.\.383"),
        ([[-1, 5]], r"must lie in 0\.\.383"),
        ([[5, 6], [0, 0]], "row 1 of input_ids holds no token"),
        ([[]], "row 0 of input_ids holds no token"),
    ],
)
def test_ids_that_are_no_batch_of_tokens(ids: Any, message: str, t5: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match=message):
        t5.generate_ids(ids)


@pytest.mark.parametrize("mask", [[[1]], [1, 1], [[1, 1], [1, 1]]])
def test_mask_of_another_shape(mask: Any, t5: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match=r"attention_mask has shape .*, input_ids \(1, 2\)"):
        t5.generate_ids([[5, 6]], mask)


def test_ragged_mask(t5: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match="attention_mask"):
        t5.generate_ids([[5, 6], [7, 8]], [[1, 1], [1]])


def test_mask_that_hides_a_whole_row(t5: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match="row 1 of input_ids holds no token"):
        t5.generate_ids([[5, 6], [7, 8]], [[1, 1], [0, 0]])


@pytest.mark.parametrize("count", [0, -1])
def test_max_new_tokens_below_one(count: int, t5: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match=f"max_new_tokens must be at least 1, not {count}"):
        t5.generate_ids([[5]], max_new_tokens=count)


def test_max_new_tokens_beyond_the_positions(bart: Seq2SeqModel) -> None:
    assert len(bart.generate_ids([[4, 2]], max_new_tokens=80)[0].token_ids) == 80
    with pytest.raises(InputError, match=r"max_new_tokens=81 is more .*ask for at most 80"):
        bart.generate_ids([[4, 2]], max_new_tokens=81)


def test_max_new_tokens_and_prefix_beyond_the_positions(bart: Seq2SeqModel) -> None:
    found = bart.generate_ids(
        [[4, 2]],
        max_new_tokens=77,
        config=replace(bart.generation_config, decoder_prefix=[4, 5, 4]),
    )
    assert len(found[0].token_ids) == 80
    with pytest.raises(InputError, match="3 of them taken by the prefix; ask for at most 77"):
        bart.generate_ids(
            [[4, 2]],
            max_new_tokens=78,
            config=replace(bart.generation_config, decoder_prefix=[4, 5, 4]),
        )
    with pytest.raises(InputError, match="ask for at most 0"):
        bart.generate_ids([[4, 2]], config=replace(bart.generation_config, decoder_prefix=[4] * 80))


@pytest.mark.parametrize("token", [-1, 384])
def test_decoder_prefix_outside_the_vocabulary(token: int, t5: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match=rf"decoder_prefix holds \[{token}\], outside the 384"):
        t5.generate_ids([[5]], config=replace(t5.generation_config, decoder_prefix=[4, token]))


def test_decoder_prefix_that_is_no_integer(t5: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match="decoder_prefix"):
        t5.generate_ids(
            [[5]], max_new_tokens=2, config=replace(t5.generation_config, decoder_prefix=[1.5])
        )  # type: ignore[list-item]
