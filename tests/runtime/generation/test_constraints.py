"""Constrained output matches, whatever the tokenizer and however it is decoded."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from seq2edge.runtime import (
    Choices,
    Generation,
    InputError,
    JsonSchema,
    MissingDependencyError,
    Regex,
    Seq2SeqModel,
)
from seq2edge.runtime.text.tokenizer import ByteTokenizer, JsonTokenizer

TEXTS = ["hello world", "a", "x y z 123"]
SPECIAL = ["<pad>", "</s>", "<unk>"]
#: What tokenizers are trained on.
CORPUS = ["hello world, the quick brown fox", "日本語 ü naïve", 'don\'t, 123.4 {}[]:"x"'] * 9
ASCII = [chr(code) for code in range(0x21, 0x7F)]


def byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["def_function"])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """Pieces of ASCII, each with and without a space before it, a few words; no bytes."""
    words = ["▁hello", "▁world", "he", "▁yes", "▁please", "12", '":', "▁{"]
    pieces = ["▁", *ASCII, *("▁" + letter for letter in ASCII if letter.isalnum()), *words, "ü"]
    scores = [(piece, 0.0) for piece in SPECIAL] + [(piece, -2.0 - len(piece)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, 2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def byte_fallback_bpe() -> Tokenizer:
    """Letters and a few merges, everything else by bytes (Llama's kind)."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a")]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {token: place for place, token in enumerate([*tokens, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


DEMO = Path(__file__).parents[3] / "examples" / "g2p" / "model"
TOKENIZERS = {"bpe": byte_level_bpe, "sentencepiece": sentencepiece, "fallback": byte_fallback_bpe}
KINDS = ["bytes", *TOKENIZERS]


@pytest.fixture(scope="module")
def model_of(model_with: Callable[..., Seq2SeqModel]) -> Callable[[str], Seq2SeqModel]:
    """A function from a kind of tokenizer to a random T5 with it, or to the demo model."""
    return lambda kind: model_with(kind, TOKENIZERS.get(kind))


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "seed": 3, "num_return_sequences": 3, "temperature": 2.0},
    "lookup": {"prompt_lookup_num_tokens": 3},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_way = pytest.mark.parametrize("way", WAYS)


def generate(
    model: Seq2SeqModel, constraint: Any, texts: list[str] = TEXTS, **options: Any
) -> list[Generation]:
    config = replace(
        model.generation_config, constraint=constraint, **{"max_new_tokens": 70, **options}
    )
    return model.generate(texts, config)


@every_way
@every_kind
def test_the_text_is_one_of_the_choices(
    kind: str, way: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    texts = ("yes", "yes please", "no", "maybe 12", "(x)")
    found = generate(model_of(kind), Choices(texts), **WAYS[way])
    assert {row.text for row in found} <= set(texts)
    assert {row.finish_reason for row in found} == {"eos"}
    assert {row.source for row in found} == {0, 1, 2}


@every_kind
def test_choices_that_begin_alike_are_all_reached(
    kind: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    texts = ("a", "ab", "abc", "b")
    even = [lambda _, scores: np.zeros_like(scores)]  # all that may come is as likely
    sampling = {"do_sample": True, "seed": 1, "num_return_sequences": 30, "top_k": 0}
    found = generate(model_of(kind), Choices(texts), logits_processors=even, **sampling)
    assert {row.text for row in found} == set(texts)


def test_beams_rank_choices_by_the_models_own_probabilities(
    model_of: Callable[[str], Seq2SeqModel],
    checkpoint_of: Callable[[str], Path],
    reference_of: Callable[[Path], Any],
) -> None:
    texts = ("ab", "abc", "q", "éx")
    model, reference = model_of("bytes"), reference_of(checkpoint_of("t5-v1.1"))
    assert model.tokenizer is not None
    expected = []
    for text in texts:
        labels = torch.tensor([model.tokenizer.encode(text)])
        with torch.inference_mode():
            logits = reference(
                input_ids=torch.tensor([model.tokenizer.encode("hi")]), labels=labels
            ).logits
        scores = torch.log_softmax(logits[0], -1).gather(1, labels.T)
        expected.append((float(scores.mean()), text))
    found = generate(model, Choices(texts), ["hi"], num_beams=4, num_return_sequences=4)
    assert [row.text for row in found] == [text for _, text in sorted(expected, reverse=True)]
    assert [row.score for row in found] == pytest.approx(
        [score for score, _ in sorted(expected, reverse=True)], abs=1e-3
    )


def test_more_results_than_choices_gives_each_choice_once(
    model_of: Callable[[str], Seq2SeqModel],
) -> None:
    found = generate(
        model_of("bytes"), Choices(("yes", "no", "maybe")), num_beams=6, num_return_sequences=6
    )
    each = sorted((row.source, row.text) for row in found)
    assert each == [(n, text) for n in range(3) for text in ("maybe", "no", "yes")]


@pytest.mark.parametrize(
    ("kind", "texts", "named"),
    [
        ("sentencepiece", ("yes", "日本"), "日本"),
        ("demo", ("G EY", "GEY"), "GEY"),
        ("demo", ("G5",), "G5"),
        ("bytes", ("yes", ""), "''"),
        ("bytes", (), "at least one"),
        ("bytes", "yes", "list"),
        ("bytes", ("yes", 5), "5"),
        ("bytes", 5, "5"),
    ],
)
def test_choices_that_cannot_be_are_refused(
    kind: str, texts: Any, named: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    with pytest.raises(InputError, match=r"[Cc]hoice") as caught:
        generate(model_of(kind), Choices(texts))
    assert named in str(caught.value)


@pytest.mark.parametrize("text", ["G EY ", " G EY", "\n"])
def test_choices_are_given_exactly_or_refused(
    text: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    try:
        found = generate(model_of("demo"), Choices((text,)))
    except InputError:
        return
    assert {row.text for row in found} == {text}


PATTERNS = [
    "[a-c]{2,5}",
    "(yes|no|maybe)( [a-z]{1,3}){0,3}",
    "[0-9]{3}-[0-9]{2}(, x)?",
    "[A-Z][a-z]{0,4}[.!]",
    "hello world",
]


@every_way
@every_kind
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_text_matches_the_pattern(
    pattern: str, kind: str, way: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    found = generate(model_of(kind), Regex(pattern), **WAYS[way])
    assert {row.finish_reason for row in found} == {"eos"}  # all patterns are short
    assert [row.text for row in found if not re.fullmatch(pattern, row.text or "")] == []


@pytest.mark.parametrize("kind", ["bytes", "bpe", "fallback"])
def test_patterns_hold_characters_of_several_bytes(
    kind: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    for pattern in ("[é日👍]{2,3}", "x[぀-ゟ]y"):
        found = generate(model_of(kind), Regex(pattern), **WAYS["sampling"])
        assert [row.text for row in found if not re.fullmatch(pattern, row.text or "")] == []
        assert {row.finish_reason for row in found} == {"eos"}


@every_way
def test_the_demo_model_within_a_pattern(way: str, model_of: Callable[[str], Seq2SeqModel]) -> None:
    model = model_of("demo")
    words = ["gateway", "hello", "example"]
    plain = model.generate(words, replace(model.generation_config, **WAYS["greedy"]))
    if way in ("greedy", "lookup"):  # it writes nothing else anyway
        assert generate(model, Regex("[A-Z ]+"), words, **WAYS[way]) == plain
    for pattern in ("[A-Z ]+", "[A-FH-Z ]+", "[A-Z]+( [A-Z]+){4,}"):
        found = generate(model, Regex(pattern), words, **WAYS[way])
        assert "eos" in {row.finish_reason for row in found}
        assert [
            row
            for row in found
            if row.finish_reason == "eos" and not re.fullmatch(pattern, row.text or "")
        ] == []


@every_way
def test_a_pattern_that_forces_part_of_a_token(
    way: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    pattern = "[A-Z]{1,2}( [A-Z]{1,2}){2,4}"
    found = generate(model_of("demo"), Regex(pattern), ["gateway", "hello"], **WAYS[way])
    assert [row.text for row in found if not re.fullmatch(pattern, row.text or "")] == []


@every_way
def test_a_pattern_that_the_tokens_cannot_spell_is_refused(
    way: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    with pytest.raises(InputError):
        generate(model_of("demo"), Regex("G5+"), ["gateway"], **WAYS[way])


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["x", "yz", None]},
        "open": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 2}, "maxItems": 2},
    },
    "required": ["count", "kind", "open", "names"],
    "additionalProperties": False,
}


def assert_allowed(value: Any) -> None:
    assert list(value) == ["count", "kind", "open", "names"]
    assert type(value["count"]) is int
    assert 0 <= value["count"] <= 99
    assert value["kind"] in ("x", "yz", None)
    assert type(value["open"]) is bool
    assert len(value["names"]) <= 2
    assert all(isinstance(name, str) and len(name) <= 2 for name in value["names"])


@every_way
@every_kind
def test_the_text_is_json_of_the_schema(
    kind: str, way: str, model_of: Callable[[str], Seq2SeqModel]
) -> None:
    model = model_of(kind)
    assert model.tokenizer is not None
    # A random model would fill all its tokens with line breaks between the values.
    spaces = [n for n, token in enumerate(model.tokenizer.token_bytes()) if token[:1].isspace()]
    found = generate(
        model, JsonSchema(SCHEMA), suppress_tokens=spaces, max_new_tokens=120, **WAYS[way]
    )
    assert {row.finish_reason for row in found} == {"eos"}
    for row in found:
        assert_allowed(json.loads(row.text or ""))


@pytest.mark.parametrize("pattern", ["(", "[a", "a{2,1}", r"\p{Nope}", "(?=x)y"])
def test_a_bad_pattern_is_refused(pattern: str, model_of: Callable[[str], Seq2SeqModel]) -> None:
    with pytest.raises(InputError, match="the constraint's pattern cannot be used"):
        generate(model_of("bytes"), Regex(pattern))


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"type": "string", "maxLength": -1}, {"enum": [{1}]}, 5],
    ids=str,
)
def test_a_bad_schema_is_refused(schema: Any, model_of: Callable[[str], Seq2SeqModel]) -> None:
    with pytest.raises(InputError, match="the constraint's schema"):
        generate(model_of("bytes"), JsonSchema(schema))


@pytest.mark.parametrize("constraint", [Regex("a"), JsonSchema({})], ids=str)
def test_without_llguidance_the_error_says_how_to_install_it(
    constraint: Any, byte_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with Seq2SeqModel.load(byte_bundle) as model:
        with pytest.raises(MissingDependencyError, match="needs llguidance: pip install"):
            generate(model, constraint)
        assert generate(model, Choices(("ok",)), ["x"])[0].text == "ok"


WRITTEN = [
    "hello world",
    "The quick brown fox, don't!",
    "naïve café ü",
    "日本語 東京",
    "emoji 👍🏽 and 👩‍👩‍👧",
    "two  spaces and a\ttab\nline",
    "e\u0301 ﬁ \uff21",
    "a def_function b",
    "1,234.5 {x}",
]


@pytest.mark.parametrize("kind", [*KINDS, "demo"])
@pytest.mark.parametrize("text", WRITTEN)
def test_the_bytes_of_tokens_add_up_to_the_text(kind: str, text: str) -> None:
    if kind == "bytes":
        tokenizer: Any = ByteTokenizer()
    elif kind == "demo":
        tokenizer = JsonTokenizer((DEMO / "tokenizer.json").read_bytes())
    else:
        tokenizer = JsonTokenizer(TOKENIZERS[kind]().to_str().encode())
    spelled = tokenizer.token_bytes()
    ids = tokenizer.encode(text, special_tokens=False)
    joined = b"".join(spelled[token] for token in ids).decode().removeprefix(" ")
    assert joined == tokenizer.decode(ids)
    if kind in ("bytes", "bpe", "fallback"):  # these can write everything
        assert joined == text
    assert [spelled[token] for token in tokenizer.encode("</s>")][-1] == b""
