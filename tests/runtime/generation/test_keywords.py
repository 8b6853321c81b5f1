"""Options as keywords of a call, in place of the bundle's own or of a config's."""

from __future__ import annotations

import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ForwardRef

import pytest

from seq2edge.runtime import GenerationConfig, InputError, Regex, Seq2SeqModel
from seq2edge.runtime.bundle.generation_options import OPTIONS, Support
from seq2edge.runtime.generation.options import GenerationOptions, with_options

ROW = [200, 13, 77, 150, 22, 1]


@pytest.fixture(scope="module")
def model(variant_of: Callable[..., tuple[Path, Path]]) -> Iterator[Seq2SeqModel]:
    files = {"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}}
    _, bundle = variant_of("t5-v1.1", files, max_length=9, no_repeat_ngram_size=1)
    with Seq2SeqModel.load(bundle, num_threads=1) as loaded:
        yield loaded


def test_the_keywords_are_the_fields_of_a_config_with_their_types() -> None:
    keywords = {
        name: hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint
        for name, hint in GenerationOptions.__annotations__.items()
    }
    assert keywords == {spec.name: spec.type for spec in fields(GenerationConfig)}
    assert list(keywords) == [spec.name for spec in fields(GenerationConfig)]
    assert not GenerationOptions.__total__


@pytest.mark.parametrize("method", ["generate", "generate_ids", "stream", "tokenize"])
def test_the_calls_are_typed_with_them(method: str) -> None:
    hint = typing.cast("Any", getattr(Seq2SeqModel, method)).__annotations__["options"]
    assert hint == "Unpack[GenerationOptions]"


def test_keywords_edit_the_bundles_own_options(model: Seq2SeqModel) -> None:
    own = model.generation_config
    found = model.generate_ids([ROW], num_beams=3, num_return_sequences=2)
    config = replace(own, num_beams=3, num_return_sequences=2)
    assert found == model.generate_ids([ROW], config=config)
    assert len(found) == 2
    assert found != model.generate_ids([ROW], num_beams=3, num_return_sequences=2, length_penalty=9)
    assert model.generate("a text", repetition_penalty=1.5) == model.generate(
        "a text", replace(own, repetition_penalty=1.5)
    )


def test_keywords_edit_a_config_that_is_given(model: Seq2SeqModel) -> None:
    config = GenerationConfig(max_new_tokens=7, num_beams=2)  # without the bundle's own options
    found = model.generate_ids([ROW], config=config, max_new_tokens=4)
    assert found == model.generate_ids([ROW], config=replace(config, max_new_tokens=4))
    assert len(found[0].token_ids) <= 4
    assert config.max_new_tokens == 7


def test_a_stream_and_a_constraint_take_them(model: Seq2SeqModel) -> None:
    pattern = Regex("[a-c]{3}")
    text = "".join(model.stream("a text", constraint=pattern, max_new_tokens=8))
    assert text == model.generate("a text", constraint=pattern, max_new_tokens=8)[0].text
    assert len(text) == 3
    with pytest.raises(InputError, match="num_return_sequences=2 must be 1"):
        model.stream("a text", num_beams=2, num_return_sequences=2)


def test_the_same_keywords_again_are_what_they_were(model: Seq2SeqModel) -> None:
    """What one call gives the next one may have, but for what only looks the same."""
    first = model.generate_ids([ROW], max_new_tokens=4)
    assert model.generate_ids([ROW], max_new_tokens=4) == first
    assert len(model.generate_ids([ROW], max_new_tokens=2)[0].token_ids) == 2
    assert len(model.generate_ids([ROW])[0].token_ids) > 4
    with pytest.raises(InputError, match=r"max_new_tokens must be an integer, not 4\.0"):
        model.generate_ids([ROW], max_new_tokens=4.0)
    model.generate_ids([ROW], num_beams=1)
    with pytest.raises(InputError, match="num_beams must be an integer, not True"):
        model.generate_ids([ROW], num_beams=True)
    words: list[list[int]] = [[9]]
    model.generate_ids([ROW], bad_words_ids=words)
    words[0] = [10**6]
    with pytest.raises(InputError, match="bad_words_ids"):
        model.generate_ids([ROW], bad_words_ids=words)
    for _ in range(2):
        with pytest.warns(UserWarning, match="top_k=3 is not read without do_sample=True"):
            model.generate_ids([ROW], top_k=3, max_new_tokens=2)


CALLS: dict[str, Callable[..., Any]] = {
    "generate": lambda model, **options: model.generate("a text", **options),
    "generate_ids": lambda model, **options: model.generate_ids([ROW], **options),
    "stream": lambda model, **options: model.stream("a text", **options),
    "tokenize": lambda model, **options: model.tokenize(["a text"], **options),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("num_beam", "num_beams"),
        ("max_tokens", "max_new_tokens"),
        ("topk", "top_k"),
        ("temprature", "temperature"),
        ("prefix_allowed_tokens_fn", "prefix_allowed_tokens"),
        ("logits_processor", "logits_processors"),
        ("decoder_input_ids", "decoder_prefix"),
        ("logit_bias", "logits_processors"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest(
    name: str, nearest: str, call: str, model: Seq2SeqModel
) -> None:
    with pytest.raises(InputError) as caught:
        CALLS[call](model, **{name: 3})
    assert f"no generation option {name!r}" in str(caught.value)
    if name != "logit_bias":  # near enough to several
        assert str(caught.value).endswith(f"the nearest is {nearest!r}")


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_of_transformers_alone_is_refused_with_what_it_does(
    name: str, model: Seq2SeqModel
) -> None:
    if name in {spec.name for spec in fields(GenerationConfig)}:
        with_options(GenerationConfig(), {name: None})
        return
    with pytest.raises(InputError) as caught:
        model.generate("a text", **{name: 2})
    assert f"no generation option {name!r}" in str(caught.value)
    option = OPTIONS[name]
    assert (option.note or "special tokens are those of its checkpoint") in str(caught.value)
    assert option.support is not Support.IMPLEMENTED


@pytest.mark.parametrize(
    ("options", "without"),
    [
        ({"top_p": 0.9}, "do_sample=True"),
        ({"temperature": 0.0, "num_beams": 2}, "do_sample=True"),
        ({"length_penalty": 2.0}, "num_beams above 1"),
        ({"early_stopping": True, "do_sample": True}, "num_beams above 1"),
        ({"max_matching_ngram_size": 3}, "prompt_lookup_num_tokens"),
    ],
    ids=str,
)
def test_a_keyword_that_nothing_reads_is_warned_of(
    options: dict[str, Any], without: str, model: Seq2SeqModel
) -> None:
    name, value = next(iter(options.items()))
    with pytest.warns(UserWarning, match=f"{name}={value} is not read without {without}"):
        model.generate_ids([ROW], **options)


def test_a_keyword_that_is_read_or_says_the_default_is_not_warned_of(model: Seq2SeqModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate_ids([ROW], top_p=0.9, temperature=0.8, do_sample=True, seed=1)
        model.generate_ids([ROW], length_penalty=0.5, early_stopping=True, num_beams=2)
        model.generate_ids([ROW], top_p=1.0, length_penalty=1.0, early_stopping=False)
        # What a bundle or a config brings along is nobody's wish for this call.
        model.generate_ids([ROW], config=GenerationConfig(top_p=0.2, max_new_tokens=3))


def test_values_are_checked_as_those_of_a_config(model: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match="num_beams must be at least 1, not 0"):
        model.generate("a text", num_beams=0)
    with pytest.raises(InputError, match="temperature must be a number above 0, not 0"):
        model.generate("a text", temperature=0, do_sample=True)
