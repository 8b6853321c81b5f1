"""Streams give the text of generate, in pieces that end where words and characters do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Generation, InputError, Seq2SeqModel, TextStream

from ..pieces import SCRIPTS, assert_cut_well, byte_level_bpe

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 3, "temperature": 1.5},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "beams": {"num_beams": 3},
}
STEPWISE = [way for way in WAYS if way != "beams"]
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def model_of(model_with: Callable[..., Seq2SeqModel]) -> Callable[[str], Seq2SeqModel]:
    """A function from a kind of tokenizer to a random T5 with it, or to the demo model."""
    return lambda kind: model_with(kind, byte_level_bpe if kind == "bpe" else None)


@pytest.fixture(scope="module")
def model(model_of: Callable[[str], Seq2SeqModel]) -> Seq2SeqModel:
    return model_of("bytes")


def written(model: Seq2SeqModel, text: str) -> Callable[[int, Any], list[int]]:
    """``prefix_allowed_tokens`` that has the model write ``text``."""
    assert model.tokenizer is not None
    script = [*model.tokenizer.encode(text, special_tokens=False), 1]
    return lambda _, tokens: [script[min(len(tokens), len(script)) - 1]]


def both(
    model: Seq2SeqModel, text: str, **options: Any
) -> tuple[list[str], Generation | None, Generation]:
    """The stream's pieces, its result, and what generate gives."""
    config = replace(model.generation_config, **options)
    stream = model.stream(text, config)
    assert stream.result is None
    pieces = list(stream)
    return pieces, stream.result, model.generate([text], config)[0]


@every_way
@pytest.mark.parametrize("kind", ["bytes", "bpe", "demo"])
def test_pieces_add_up_to_the_text_of_generate(
    kind: str, way: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    for text in ("gateway", "another", "three words here"):
        pieces, result, whole = both(model_of(kind), text, max_new_tokens=60, **WAYS[way])
        assert "".join(pieces) == whole.text
        assert result == whole
        assert_cut_well(pieces)


@pytest.mark.parametrize("way", STEPWISE)
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_texts_come_in_whole_words_and_characters(
    script: str, kind: str, way: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    model = model_of(kind)
    pieces, result, whole = both(
        model,
        "a source",
        prefix_allowed_tokens=written(model, script),
        max_new_tokens=100,
        **WAYS[way],
    )
    assert "".join(pieces) == script == whole.text
    assert result == whole
    assert result is not None
    assert result.finish_reason == "eos"
    assert_cut_well(pieces)
    if script != "word":
        assert len(pieces) > 3


def test_a_word_comes_as_soon_as_something_follows_it(model: Seq2SeqModel) -> None:
    config = replace(
        model.generation_config,
        prefix_allowed_tokens=written(model, "one two  three"),
        max_new_tokens=40,
    )
    asked: list[int] = []

    def counted(_: int, tokens: Any) -> list[int]:
        asked.append(len(tokens))
        assert config.prefix_allowed_tokens is not None
        return list(config.prefix_allowed_tokens(0, tokens))

    stream = model.stream("a source", replace(config, prefix_allowed_tokens=counted))
    assert next(stream) == "one"
    assert asked[-1] == len("one ")  # the decoder start token is one more, and the next less
    assert next(stream) == " two"
    assert asked[-1] == len("one two ")
    assert list(stream) == [" ", " three"]


@pytest.mark.parametrize("kind", ["bytes", "demo"])
def test_beams_give_one_piece(kind: str, model_of: Callable[[str], Seq2SeqModel]) -> None:
    pieces, result, whole = both(model_of(kind), "gateway", num_beams=3, max_new_tokens=30)
    assert pieces == [whole.text]
    assert result == whole
    assert whole.score is not None


def test_the_demo_model_streams_phoneme_by_phoneme(
    model_of: Callable[[str], Seq2SeqModel],
) -> None:
    pieces, _, _ = both(model_of("demo"), "gateway")
    assert pieces == ["G", " EY", " T", " W", " EY"]


@every_way
def test_the_reason_of_the_end_is_in_the_result(way: str, model: Seq2SeqModel) -> None:
    script = written(model, "one two STOP three")
    for options, text, reason in [
        ({"stop_strings": ("STOP",)}, "one two STOP", "stop_string"),
        ({"max_new_tokens": 5}, "one t", "length"),
        ({}, "one two STOP three", "eos"),
    ]:
        pieces, result, _ = both(
            model, "a source", prefix_allowed_tokens=script, **{"max_new_tokens": 40, **options},
            **WAYS[way],
        )  # fmt: skip
        assert "".join(pieces) == text
        assert result is not None
        assert (result.text, result.finish_reason) == (text, reason)


@every_way
def test_an_empty_text_has_no_piece_and_a_result(way: str, model: Seq2SeqModel) -> None:
    pieces, result, whole = both(
        model, "a source", prefix_allowed_tokens=written(model, ""), **WAYS[way]
    )
    assert pieces == []
    assert result == whole
    assert result is not None
    assert (result.text, result.token_ids) == ("", [1])


@every_way
def test_a_decoder_prefix_and_scores_are_those_of_generate(way: str, model: Seq2SeqModel) -> None:
    prefix = tuple(byte + 3 for byte in b"so it goes ")
    pieces, result, whole = both(
        model, "a source", decoder_prefix=prefix, return_scores=True, max_new_tokens=20,
        **WAYS[way],
    )  # fmt: skip
    assert "".join(pieces) == whole.text
    assert (whole.text or "").startswith("so it goes ")
    assert result == whole
    assert whole.score is not None


@every_way
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_closed_stream_stops_and_leaves_the_model_usable(
    taken: int, way: str, model: Seq2SeqModel
) -> None:
    asked: list[int] = []
    script = written(model, "a b c d e f g h i j k l m n o p q r s t u v w x y z")

    def counted(source: int, tokens: Any) -> list[int]:
        asked.append(len(tokens))
        return script(source, tokens)

    config = replace(
        model.generation_config, prefix_allowed_tokens=counted, max_new_tokens=80, **WAYS[way]
    )
    before = model.generate(["a source"], max_new_tokens=10)
    stream = model.stream("a source", config)
    pieces = [piece for _, piece in zip(range(taken), stream, strict=False)]
    assert len(pieces) == (taken if way != "beams" else min(taken, 1))
    stream.close()
    stream.close()
    assert list(stream) == []
    assert stream.result is None or way == "beams"
    if way != "beams":
        assert max(asked, default=0) <= 2 * taken + 4
    assert model.generate(["a source"], max_new_tokens=10) == before


def test_nothing_runs_before_the_first_piece_is_asked_for(model: Seq2SeqModel) -> None:
    asked: list[int] = []
    config = replace(
        model.generation_config, prefix_allowed_tokens=lambda n, _: asked.append(n) or [1]
    )
    stream = model.stream("a source", config)
    assert asked == []
    assert list(stream) == []
    assert asked == [0]


def test_two_streams_at_once_do_not_disturb_each_other(model: Seq2SeqModel) -> None:
    def stream(text: str) -> TextStream:
        config = replace(model.generation_config, prefix_allowed_tokens=written(model, text))
        return model.stream("a source", config, max_new_tokens=40)

    pairs = zip(stream("one two three"), stream("un deux trois"), strict=True)
    assert list(pairs) == [("one", "un"), (" two", " deux"), (" three", " trois")]


@pytest.mark.parametrize(
    "options",
    [
        {"num_return_sequences": 2, "do_sample": True},
        {"num_return_sequences": 2, "num_beams": 2},
        {"num_return_sequences": 2},
    ],
    ids=["samples", "beams", "greedy"],
)
def test_a_stream_of_several_results_is_refused_at_once(
    options: dict[str, Any], model: Seq2SeqModel
) -> None:
    with pytest.raises(InputError, match="num_return_sequences=2"):
        model.stream("a source", replace(model.generation_config, **options))


def test_a_bad_text_is_refused_at_once(
    model: Seq2SeqModel, bundle_of: Callable[[str], Path]
) -> None:
    with pytest.raises(InputError, match="empty"):
        model.stream("  ")
    with (
        Seq2SeqModel.load(bundle_of("t5-v1.1")) as without,
        pytest.raises(InputError, match="no tokenizer"),
    ):
        without.stream("a source")
