"""Options that cannot work are refused, all at once and before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import (
    Choices,
    InputError,
    JsonSchema,
    Regex,
    Seq2SeqModel,
)

from .idle import CALLS, idle_model

BundleOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(byte_bundle: Path) -> Seq2SeqModel:
    """T5 with a vocabulary of 384 and a tokenizer of bytes."""
    return idle_model(byte_bundle)


def refusal(model: Seq2SeqModel, options: dict[str, Any], call: str = "generate") -> str:
    config = replace(model.generation_config, **options)
    with pytest.raises(InputError) as caught:
        CALLS[call](model, config)
    return str(caught.value)


_NOT_INTEGERS = ("four", 2.5, True, [2], math.nan)
_INTEGERS = {  # name: values below what is allowed
    "max_new_tokens": (0, -3),
    "max_length": (0, -3),
    "min_new_tokens": (-1,),
    "min_length": (-1,),
    "num_beams": (0, -1),
    "num_return_sequences": (0, -1),
    "top_k": (-1,),
    "seed": (-1,),
    "no_repeat_ngram_size": (-1,),
    "encoder_no_repeat_ngram_size": (-1,),
    "prompt_lookup_num_tokens": (0, -1),
    "max_matching_ngram_size": (0,),
}
#: Options whose value is shown as it is.
_WHOLE = ("constraint", "prefix_allowed_tokens")
#: Options that have a value where transformers has None.
_NEVER_NONE = (
    *("min_length", "num_beams", "num_return_sequences", "top_k", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "max_matching_ngram_size", "temperature", "top_p"),
    *("repetition_penalty", "length_penalty", "early_stopping", "do_sample", "return_scores"),
    *("typical_p", "epsilon_cutoff", "eta_cutoff", "encoder_repetition_penalty"),
    *("suppress_tokens", "begin_suppress_tokens", "decoder_prefix"),
)
_NUMBERS = {
    "max_time": (0, -1.0, math.nan, math.inf, "1", True, 10**400),
    "temperature": (0, 0.0, -1.0, math.nan, math.inf, "hot", False),
    "top_p": (0.0, -0.1, 1.01, math.nan, "0.9", True),
    "min_p": (-0.1, 1.5, math.nan, "0.1", True),
    "typical_p": (0.0, 1.01, math.nan, "1"),
    "top_h": (0.0, 1.01, math.nan, "1", True),
    "epsilon_cutoff": (-0.1, 1.0, math.nan, "0"),
    "eta_cutoff": (-0.1, 1.0, math.nan, "0"),
    "repetition_penalty": (0.0, -1.3, math.nan, math.inf, "1"),
    "encoder_repetition_penalty": (0.0, -1.3, math.nan, math.inf, "1"),
    "length_penalty": (math.nan, math.inf, -math.inf, "1", True),
}
_OTHERS = {
    "early_stopping": ("always", 1, 0, 2.5),
    "do_sample": (1, "yes", 0),
    "return_scores": (1, "no"),
    "remove_invalid_values": (1, "no", None),
    "renormalize_logits": (1, "no"),
    "exponential_decay_length_penalty": (6, (1.5, 2.0), (6,), (6, "a"), (6, math.nan)),
    "stop_strings": ("end", ("",), ("a", 5)),
    "suppress_tokens": ((-1,), (384,), ("a",), (1.0,)),
    "begin_suppress_tokens": ((-1,), (384,), ("a",), (True,)),
    "decoder_prefix": ((-1,), (384,), ("a",), (5.5,)),
    "forced_bos_token_id": (-1, 384, "a", 1.0, False, (5, -1), [384]),
    "forced_eos_token_id": (-1, 384, "a", 1.0, (5, 1.0)),
    "bad_words_ids": (((5,), (-1,)), ((384, 5),), ((5, "a"),), ((),), (5,), 5),
    "prefix_allowed_tokens": (5, [1]),
    "constraint": ("yes|no", ["yes"], Choices, Regex("(")),
}
BAD = [
    *((name, value) for name, low in _INTEGERS.items() for value in (*low, *_NOT_INTEGERS)),
    *((name, None) for name in _NEVER_NONE),
    *((name, value) for table in (_NUMBERS, _OTHERS) for name, of in table.items() for value in of),
]
_SAMPLING = ("temperature", "top_h", "top_k", "top_p", "min_p")
_SAMPLING += ("typical_p", "epsilon_cutoff", "eta_cutoff")
#: What has to be on for an option to be read.
_READ_WITH: dict[str, dict[str, Any]] = {
    **{name: {"do_sample": True} for name in _SAMPLING},
    **{name: {"num_beams": 2} for name in ("early_stopping", "length_penalty")},
    "max_matching_ngram_size": {"prompt_lookup_num_tokens": 4},
}


def shown(name: str, value: Any) -> str:
    """How a message shows the part of the value that is wrong: 5 is not."""
    if name == "exponential_decay_length_penalty":
        return repr(value)
    while isinstance(value, (tuple, list)) and value and name not in _WHOLE:
        value = next((part for part in value if part not in (5, (5,))), value[0])
    return str(value.pattern) if isinstance(value, Regex) else repr(value)


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_a_bad_value_is_refused_by_name_and_value(
    name: str, value: Any, model: Seq2SeqModel
) -> None:
    message = refusal(model, {**_READ_WITH.get(name, {}), name: value})
    assert name in message
    assert shown(name, value) in message.split(name, 1)[1]


@pytest.mark.parametrize(
    ("bias", "wrong"),
    [
        *(({token: 1.0}, repr(token)) for token in (-1, 384, "a", 1.5)),
        *(({5: value}, repr(value)) for value in (math.nan, math.inf, "a", None, True)),
        ({(): 1.0}, "at least one token"),
        ({(7, 384): 1.0}, "384"),
        ([[[7, 384], 1.0]], "384"),
        ([[[7], "a"]], "'a'"),
        ([[7, 1.0]], "7"),
        ([[[7]]], "[[[7]]]"),
        *((value, repr(value)) for value in ([5], 5, None, "ab")),
    ],
    ids=str,
)
def test_a_bad_sequence_bias_is_refused(bias: Any, wrong: str, model: Seq2SeqModel) -> None:
    assert wrong in refusal(model, {"sequence_bias": bias}).split("sequence_bias", 1)[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("stop_strings", 5), ("stop_strings", None)),
        *(("logits_processors", 5), ("logits_processors", None), ("logits_processors", ("x",))),
        *(("bad_words_ids", None), ("bad_words_ids", (1.5,)), ("bad_words_ids", (np.int64(7),))),
        *(("decoder_prefix", 5), ("suppress_tokens", 5), ("begin_suppress_tokens", 5)),
        *(("constraint", Regex("a)(b")), ("constraint", Regex(5))),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_refused_by_name_and_value(
    name: str, value: Any, model: Seq2SeqModel
) -> None:
    test_a_bad_value_is_refused_by_name_and_value(name, value, model)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 0},
        {"temperature": -1.0, "do_sample": True},
        {"suppress_tokens": (999,)},
        {"constraint": Regex("(")},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_call_refuses_before_anything_runs(
    options: dict[str, Any], call: str, model: Seq2SeqModel
) -> None:
    assert next(iter(options)) in refusal(model, options, call)


@pytest.mark.parametrize(
    "idle",
    [
        {"temperature": 0.0},
        {"temperature": -1.0, "top_p": 0.0, "top_k": -1, "min_p": 3.0, "typical_p": 0.0},
        {"top_h": "high", "epsilon_cutoff": 7, "eta_cutoff": None},
        {"length_penalty": math.inf, "early_stopping": "soon"},
        {"max_matching_ngram_size": 0},
        {"temperature": 0.0, "num_beams": 2},
        {"length_penalty": None, "do_sample": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("call", CALLS)
def test_what_nothing_reads_stops_no_call(
    idle: dict[str, Any], call: str, model: Seq2SeqModel
) -> None:
    config = replace(model.generation_config, **idle)
    try:
        CALLS[call](model, config)
    except AssertionError as error:
        assert str(error) == "the encoder ran"


def test_a_limit_in_the_call_is_checked_too(model: Seq2SeqModel) -> None:
    for limit in (0, -1, "5", 2.5, True):
        for call in (model.generate, model.stream):
            with pytest.raises(InputError, match=f"max_new_tokens must be .* not {limit!r}"):
                call("a text", max_new_tokens=limit)  # type: ignore[operator]


@pytest.mark.parametrize(
    "size",
    [0, -1, "x", 2.5],
)
def test_a_batch_size_below_one_is_refused(size: Any, model: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match=f"batch_size must be .* not '?{size}"):
        model.generate(["a", "b"], batch_size=size)


def test_all_that_is_wrong_is_reported_at_once(model: Seq2SeqModel) -> None:
    wrong = {
        "num_beams": "four",
        "top_k": -7,
        "temperature": 0.0,
        "top_p": 2.5,
        "do_sample": 1,
        "early_stopping": "soon",
        "suppress_tokens": (1234,),
        "forced_bos_token_id": -9,
        "bad_words_ids": ((),),
        "stop_strings": "a string",
        "sequence_bias": {5: math.nan},
        "prefix_allowed_tokens": 5,
    }
    message = refusal(model, wrong)
    assert set(re.findall("|".join(wrong), message)) == set(wrong)
    assert len(message.split("; ")) == len(wrong)


def test_all_contradictions_are_reported_at_once(model: Seq2SeqModel) -> None:
    message = refusal(
        model,
        {"num_beams": 300, "num_return_sequences": 301, "do_sample": True}
        | {"prompt_lookup_num_tokens": 4, "max_new_tokens": 5, "min_new_tokens": 6},
    )
    assert "num_return_sequences=301 is more than num_beams=300" in message
    assert "prompt_lookup_num_tokens" in message
    assert "num_beams=300 is more than a vocabulary of 384 allows (192)" in message
    assert "min_new_tokens=6 is more than max_new_tokens=5" in message


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"num_return_sequences": 2}, "num_return_sequences=2", "num_beams=1"),
        ({"num_return_sequences": 4, "num_beams": 3}, "num_return_sequences=4", "num_beams=3"),
        (
            {"do_sample": True, "num_return_sequences": 3, "num_beams": 2},
            "num_return_sequences=3",
            "num_beams=2",
        ),
        ({"max_length": 1}, "max_length=1", "max_new_tokens"),
        ({"max_length": 3, "decoder_prefix": (7, 8)}, "max_length=3", "3 tokens"),
        ({"prompt_lookup_num_tokens": 5, "do_sample": True}, "prompt_lookup", "do_sample"),
        ({"prompt_lookup_num_tokens": 5, "num_beams": 2}, "prompt_lookup", "num_beams=2"),
        ({"max_new_tokens": 4, "min_new_tokens": 5}, "min_new_tokens=5", "max_new_tokens=4"),
        ({"num_beams": 193}, "num_beams=193", "384"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], first: str, second: str, model: Seq2SeqModel
) -> None:
    message = refusal(model, options)
    assert first in message
    assert second in message


@pytest.mark.parametrize(
    ("options", "most"), [({}, 80), ({"decoder_prefix": (5, 6, 7)}, 77)], ids=["plain", "prefix"]
)
def test_more_tokens_than_positions_are_refused(
    options: dict[str, Any], most: int, bundle_of: BundleOf
) -> None:
    bart = idle_model(bundle_of("bart-scaled"))
    message = refusal(bart, {**options, "max_new_tokens": most + 1}, "generate_ids")
    assert f"max_new_tokens={most + 1}" in message
    assert f"at most {most}" in message
    with pytest.raises(AssertionError, match="the encoder ran"):
        refusal(bart, {**options, "max_new_tokens": most}, "generate_ids")
    message = refusal(bart, {**options, "max_length": 82}, "generate_ids")
    assert "max_length=82" in message
    assert "at most 81" in message  # the start token counts
    with pytest.raises(AssertionError, match="the encoder ran"):
        refusal(bart, {**options, "max_length": 81}, "generate_ids")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"stop_strings": ("x",)}, "stop_strings"),
        ({"constraint": Choices(("x",))}, "constraint"),
        ({"constraint": Regex("x")}, "constraint"),
        ({"constraint": JsonSchema({})}, "constraint"),
    ],
    ids=str,
)
def test_options_about_text_need_a_tokenizer(
    options: dict[str, Any], name: str, bundle_of: BundleOf
) -> None:
    message = refusal(idle_model(bundle_of("t5-v1.1")), options, "generate_ids")
    assert name in message
    assert "no tokenizer" in message


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 192, "num_return_sequences": 192, "early_stopping": "never"},
        {"num_beams": np.int64(2), "early_stopping": True, "length_penalty": -1},
        {"do_sample": True, "num_return_sequences": 1000, "top_k": 0, "seed": 2**70},
        {"do_sample": True, "temperature": 1, "top_p": 1, "min_p": 0, "top_k": 10**9},
        {"min_p": 1, "top_p": 1e-9, "temperature": 1e-9, "max_time": 1e-9},
        {"max_new_tokens": 5, "min_new_tokens": 5, "min_length": 0},
        {"sequence_bias": {0: -math.inf, 383: 5, np.int64(3): -1.5}},
        {"bad_words_ids": [[0], [383, 5, 6]], "suppress_tokens": [np.int32(3)]},
        {"forced_bos_token_id": 0, "forced_eos_token_id": 383, "decoder_prefix": [0, 383]},
        {"forced_bos_token_id": [5, 6], "forced_eos_token_id": np.array([1])},
        {"sequence_bias": [[[5, 6], -2], [(7,), 0.5]], "renormalize_logits": True},
        {"sequence_bias": {(5, 6): -math.inf}, "exponential_decay_length_penalty": [3, 1.5]},
        {"do_sample": True, "num_beams": 2, "typical_p": 1, "top_h": 1, "eta_cutoff": 0},
        {"stop_strings": [" ", "end"], "prompt_lookup_num_tokens": 1},
        {"logits_processors": [lambda _, scores: scores], "prefix_allowed_tokens": max},
    ],
    ids=lambda options: ", ".join(options),
)
def test_what_is_allowed_runs(options: dict[str, Any], model: Seq2SeqModel) -> None:
    config = replace(model.generation_config, **options)
    with pytest.raises(AssertionError, match="the encoder ran"):
        model.generate(["a text"], config)


def test_an_error_quotes_no_more_than_one_reads(model: Seq2SeqModel) -> None:
    """Fault: a bundle's 100,000 token ids that do not exist were an error of 700,000 letters."""
    said = refusal(model, {"suppress_tokens": list(range(10**6, 10**6 + 100_000))})
    assert said.startswith("suppress_tokens holds [1000000, 1000001,")
    assert len(said) < 1000
    said = refusal(model, {"bad_words_ids": [[token] for token in range(10**6, 10**6 + 1000)]})
    assert said.endswith("; and 988 more")
