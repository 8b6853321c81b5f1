"""A tokenizer.json of others ends in an error of ours, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seq2edge.runtime import BundleError
from seq2edge.runtime.text.token_bytes import TokenBytes
from seq2edge.runtime.text.tokenizer import JsonTokenizer

WORDS: dict[str, Any] = {
    "version": "1.0",
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 2}, "unk_token": "<unk>"},
}
SPECIAL = {"SpecialToken": {"id": "zz", "type_id": 0}}
PANICKING = {
    "type": "TemplateProcessing",
    "single": [SPECIAL, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def template(single: list[Any], ids: int = 1) -> bytes:
    """A tokenizer that puts texts, and ``zz`` for some tokens of its own, one after the other."""
    known = {"zz": {"id": "zz", "ids": [1] * ids, "tokens": ["a"] * ids}}
    pair = [TEXT, {"Sequence": {"id": "B", "type_id": 1}}]
    step = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}
    return json.dumps({**WORDS, "post_processor": step}).encode()


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 2000}


def tokenizer(**parts: Any) -> JsonTokenizer:
    return JsonTokenizer(json.dumps({**WORDS, **parts}).encode())


def test_a_panic_is_an_error() -> None:
    """Fault: pyo3's PanicException is no Exception."""
    broken = tokenizer(post_processor=PANICKING)
    with pytest.raises(BundleError, match="its tokenizer fails: no entry found"):
        broken.encode("a b")
    with pytest.raises(BundleError, match="its tokenizer fails"):
        broken.encode_batch(["a", "b"])
    strip = {"type": "Strip", "content": "a", "start": 10**9, "stop": 10**9}
    with pytest.raises(BundleError, match="its tokenizer fails: index out of bounds"):
        tokenizer(decoder=strip).decode([1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (json.dumps({**WORDS, "model": {"type": "None"}}).encode(), "cannot be read"),
        (json.dumps({**WORDS, "normalizer": REPLACE}).encode(), "more than 1000 times as long"),
        (template([TEXT] * 2000), "more than 1000 times as long"),
        (template([TEXT, SPECIAL], ids=200_000), "more than 1000 times as long"),
        (template([TEXT] + [SPECIAL] * 600, ids=200), "more than 1000 times as long"),
        (
            json.dumps(
                {
                    **WORDS,
                    "normalizer": {
                        "type": "Sequence",
                        "normalizers": [{**REPLACE, "content": "aa"}] * 30,
                    },
                }
            ).encode(),
            "more than 1000 times as long",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        JsonTokenizer(data)


def test_a_tokenizer_without_text_is_named() -> None:
    """Fault: StopIteration where a stop string or a choice asks for tokens' texts."""
    empty = tokenizer(model={"type": "BPE", "vocab": {}, "merges": []})
    with pytest.raises(BundleError, match="makes text of none of its tokens"):
        TokenBytes(empty, 4, ())
