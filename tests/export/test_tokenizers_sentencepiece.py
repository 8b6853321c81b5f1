"""spiece.model (T5) against transformers' T5Tokenizer and SentencePiece itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import T5Tokenizer

from seq2edge.runtime.text.tokenizer import Tokenizer

Load = Callable[[Path], Tokenizer]
Refusal = Callable[..., str]


def train(sentences: Iterator[str], **options: Any) -> bytes:
    """A SentencePiece model with T5's ids."""
    model = io.BytesIO()
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    defaults = {"vocab_size": 120, "model_type": "unigram", "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=model,
        minloglevel=2,
        **{**ids, **defaults, **options},
    )
    return model.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({}, {"extra_ids": 5}),
        ({}, {"extra_ids": 0, "additional_special_tokens": None}),  # mT5
        ({"normalization_rule_name": "nfkc_cf"}, {}),
        ({"normalization_rule_name": "identity"}, {}),
    ],
    ids=["t5", "5 sentinels", "no sentinels", "case folding", "no normalizer"],
)
def test_spiece_model_gives_the_ids_and_texts_of_transformers(
    options: dict[str, Any],
    settings: dict[str, Any],
    corpus: list[str],
    files: Path,
    mixed_texts: list[str],
    bundle_tokenizer: Load,
) -> None:
    (files / "spiece.model").write_bytes(train(iter(corpus), **options))
    if settings:
        (files / "tokenizer_config.json").write_text(json.dumps(settings))
    texts = [
        *mixed_texts,
        *(f"{text} <extra_id_{i % 7}>{text[:5]}" for i, text in enumerate(mixed_texts)),
        *("<extra_id_0> is <extra_id_99>.", "a </s> b</s>", " <pad><unk> x"),
    ]
    ours, reference = bundle_tokenizer(files), T5Tokenizer.from_pretrained(files)
    expected = [reference(text)["input_ids"] for text in texts]
    assert [ours.encode(text) for text in texts] == expected
    assert [ours.decode(ids) for ids in expected] == [
        reference.decode(ids, skip_special_tokens=True) for ids in expected
    ]


@pytest.mark.parametrize("symbols", [[], ["<sep>", "::"]], ids=["plain", "user symbols"])
def test_spiece_model_gives_the_ids_of_sentencepiece(
    symbols: list[str],
    corpus: list[str],
    files: Path,
    sentencepiece_texts: list[str],
    bundle_tokenizer: Load,
) -> None:
    model = train(iter(corpus), user_defined_symbols=symbols)
    (files / "spiece.model").write_bytes(model)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = bundle_tokenizer(files)
    # The tokenizers library (and so transformers) takes U+0085 for white space.
    texts = [text for text in sentencepiece_texts if "\x85" not in text]
    texts += [f"{text}<sep> {text}::x" for text in texts]
    assert len(texts) > 150
    assert [ours.encode(text) for text in texts] == [[*ids, 1] for ids in reference.encode(texts)]
    decoded = [ours.decode(ids) for ids in reference.encode(corpus)]
    assert decoded == reference.decode(reference.encode(corpus))


@pytest.mark.parametrize("kept", [0, 1, 700, -1, -40])
def test_a_truncated_model_is_refused(
    kept: int, corpus: list[str], editable: Callable[..., Path], refusal: Refusal
) -> None:
    data = train(iter(corpus))
    checkpoint = editable("t5")
    (checkpoint / "spiece.model").write_bytes(data[:kept] if kept else b"")
    assert "spiece.model" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"model_type": "bpe"}, "not a unigram model"), ({"eos_id": -1}, "no </s> piece")],
)
def test_a_model_that_is_not_t5s_kind_is_refused(
    options: dict[str, Any],
    reason: str,
    corpus: list[str],
    editable: Callable[..., Path],
    refusal: Refusal,
) -> None:
    checkpoint = editable("t5")
    (checkpoint / "spiece.model").write_bytes(train(iter(corpus), **options))
    message = refusal(checkpoint)
    assert "spiece.model" in message
    assert reason in message


@pytest.mark.parametrize("data", [b"\x00" * 64, b"{}", b"\xff" * 200, bytes(range(256))])
def test_a_file_that_is_no_model_is_refused(
    data: bytes, editable: Callable[..., Path], refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    (checkpoint / "spiece.model").write_bytes(data)
    assert "spiece.model" in refusal(checkpoint)
