"""Options, languages, limits, constraints and texts of a call are prepared once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Choices, InputError, Seq2SeqModel
from seq2edge.runtime.generation import generator as generator_module
from seq2edge.runtime.generation import recent_options
from seq2edge.runtime.generation.config import GenerationConfig
from seq2edge.runtime.generation.constraint_compiler import ConstraintCompiler
from seq2edge.runtime.generation.generator import Generator
from seq2edge.runtime.text import languages
from seq2edge.runtime.text.sources import TextSource
from seq2edge.runtime.text.tokenizer import ByteTokenizer

TEXTS = ["one", "another text", "a", "some words more", "two", "x y", "the last"]


@pytest.fixture(scope="module")
def model(byte_bundle: Path) -> Iterator[Seq2SeqModel]:
    with Seq2SeqModel.load(byte_bundle, num_threads=1) as loaded:
        yield loaded


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each step of the preparation ran; of texts, how many were tokenized."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counted[name] += 1
            return whole(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    count(recent_options, "check")
    count(generator_module, "new_tokens")
    count(ConstraintCompiler, "compile")
    count(ByteTokenizer, "encode_batch")
    encode = ByteTokenizer.encode

    def encoded(tokenizer: ByteTokenizer, text: str, **options: Any) -> list[int]:
        counted["texts"] += text in TEXTS
        return encode(tokenizer, text, **options)

    monkeypatch.setattr(ByteTokenizer, "encode", encoded)
    return counted


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_call_prepares_each_thing_once(
    batch_size: int | None, model: Seq2SeqModel, calls: Counter[str]
) -> None:
    choices = Choices(("yes", "no"))
    found = model.generate(TEXTS, constraint=choices, max_new_tokens=8, batch_size=batch_size)
    assert {row.text for row in found} <= {"yes", "no"}
    assert calls == {
        **{"check": 1, "new_tokens": 1, "compile": 1, "encode_batch": 1},
        "texts": len(TEXTS),
    }


def test_a_stream_prepares_each_thing_once(model: Seq2SeqModel, calls: Counter[str]) -> None:
    list(model.stream(TEXTS[0], constraint=Choices(("yes",)), max_new_tokens=8))
    assert set(calls.values()) == {1}


def test_the_command_line_tokenizes_each_text_once(
    byte_bundle: Path, calls: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from seq2edge.cli.main import main

    flags = ["--max-new-tokens", "3", "--batch-size", "2", "--threads", "1"]
    assert main(["run", str(byte_bundle), *TEXTS, *flags]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TEXTS)
    assert calls["texts"] == len(TEXTS)
    assert calls["check"] == calls["new_tokens"] == calls["encode_batch"] == 1


def test_a_language_is_looked_up_once(model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = []
    monkeypatch.setattr(
        languages,
        "language_token",
        lambda _languages, option, code, _tokenizer: looked_up.append((option, code)) or 7,
    )
    monkeypatch.setattr(
        languages, "_languages", lambda *_: languages.Languages({"en": 7}, "start", "source_start")
    )
    model.generate(TEXTS, source_lang="en", target_lang="fr", max_new_tokens=2, batch_size=2)
    assert sorted(looked_up) == [("source_lang", "en"), ("target_lang", "fr")]


def test_a_prepared_call_is_frozen_and_runs_as_often_as_one_likes(
    bundle_of: Callable[[str], Path],
) -> None:
    with Seq2SeqModel.load(bundle_of("t5-v1.1"), num_threads=1) as model:
        generator: Generator = model.generator
        sources = [TextSource.of([5, 6, 7, 1]), TextSource.of([200, 13, 1])]
        call = generator.prepare(GenerationConfig(max_new_tokens=6, num_beams=2), sources)
        again = generator.run(call)
        assert again == generator.run(call)
        for (found,), (one,) in zip(again, generator.run(call, batch_size=1), strict=True):
            assert found.token_ids == one.token_ids
            assert found.score == pytest.approx(one.score, abs=1e-5)
        with pytest.raises(dataclasses.FrozenInstanceError):
            call.new_tokens = 9  # type: ignore[misc]
        with pytest.raises(InputError, match="num_beams must be at least 1"):
            generator.prepare(GenerationConfig(num_beams=0), sources)
        # A start token of the call's own leaves the bundle's manifest alone.
        started = generator.prepare(GenerationConfig(decoder_start_token_id=9), sources)
        assert started.decoder_prompts == ((9,), (9,))
        assert started.manifest is model.manifest


def test_batches_of_texts_are_tokenized_as_single_ones(model_with: Any) -> None:
    demo = model_with("demo", None)
    words = ["hello", "wörld", "", "don't", "x" * 40, "Two words"]
    assert demo.tokenizer.encode_batch(words) == [demo.tokenizer.encode(word) for word in words]
    assert demo.tokenizer.encode_batch([]) == []
    with pytest.raises(InputError, match="text 2 is empty"):
        demo.tokenize(["hello", " ", "hello"])
