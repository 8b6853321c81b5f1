"""Ids to text by a table, as the tokenizers library does it; texts go through the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime.errors import BundleError
from seq2edge.runtime.text.byte_level import ByteLevelTokenizer, byte_level_tokenizer
from seq2edge.runtime.text.tokenizer import JsonTokenizer
from tests import real_weights

Change = Callable[[dict[str, Any]], object]


def tokenizer_json(change: Change = lambda _file: None) -> bytes:
    """All 256 bytes, pieces with parts of letters, special tokens and one that is not special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["Ġt", "he", "Ġthe", "âĤ", "âĤ¬"]
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("â", "Ĥ"), ("âĤ", "¬")]
    vocabulary = {token: number for number, token in enumerate([*letters, *pieces, "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", "<start>"])
    tokenizer.add_tokens(["two words", "<|0.00|>"])
    found = json.loads(tokenizer.to_str())
    change(found)
    return json.dumps(found).encode()


def assert_same(ours: Any, library: JsonTokenizer, count: int) -> None:
    random = np.random.default_rng(0)
    runs = [[number] for number in range(count + 2)]  # two that no token has
    runs += [random.integers(0, count, 6).tolist() for _ in range(500)]
    for ids in runs:
        for skip in (True, False):
            expected = library.decode(ids, skip_special_tokens=skip)
            assert ours.decode(ids, skip_special_tokens=skip) == expected, ids
        assert ours.settled(ids) == library.settled(ids)
    for number in range(count):
        assert ours.is_added(number) == library.is_added(number)
    for name in ("<end>", "<start>", "two words", "Ġthe", "nobody", "<|0.00|>", "<|en|>"):
        assert ours.token_id(name) == library.token_id(name)
    assert ours.token_bytes() == library.token_bytes()
    for text in ("the €, two words", "", "<start>x"):
        assert ours.encode(text) == library.encode(text)
        assert ours.encode_batch([text, text]) == library.encode_batch([text, text])


def test_texts_and_ids_are_the_librarys() -> None:
    data = tokenizer_json()
    library = JsonTokenizer(data)
    assert_same(byte_level_tokenizer(data), library, len(library.token_bytes()))


@pytest.mark.parametrize("model", real_weights.MODELS)
def test_whispers_are_the_librarys(model: str) -> None:
    data = (real_weights.ctranslate2_folder(model) / "tokenizer.json").read_bytes()
    library = JsonTokenizer(data)
    ours = byte_level_tokenizer(data)
    assert isinstance(ours, ByteLevelTokenizer)
    assert_same(ours, library, len(library.token_bytes()))


def set_in(*path: str | int, to: object) -> Change:
    def change(found: Any) -> None:
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_in("decoder", to=None),
        set_in("decoder", "type", to="Metaspace"),
        set_in("model", "type", to="WordPiece"),
        set_in("model", "vocab", "he", to=9999),
        set_in("model", "vocab", "he", to=3),
        set_in("model", "vocab", "he", to="3"),
        set_in("model", "vocab", to=[]),
        set_in("model", to=7),
        set_in("added_tokens", to={}),
        set_in("added_tokens", 0, to="<end>"),
        set_in("added_tokens", 1, "id", to=9),
        set_in("added_tokens", 1, "content", to="<end>"),
        set_in("added_tokens", 1, "content", to="\uffffx"),
        set_in("added_tokens", 1, "content", to=""),
        set_in("added_tokens", 1, "special", to=1),
    ],
)
def test_files_of_another_form_are_the_librarys(change: Change) -> None:
    assert byte_level_tokenizer(tokenizer_json(change)) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"[" * 100_000, b"\xff"])
def test_what_is_no_such_file_is_the_librarys_to_refuse(data: bytes) -> None:
    assert byte_level_tokenizer(data) is None
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        JsonTokenizer(data)


def test_a_file_that_cuts_no_text_is_an_error_of_ours_when_one_comes() -> None:
    ours = byte_level_tokenizer(tokenizer_json(set_in("model", "merges", to=[["no", "pair"]])))
    assert ours is not None and ours.decode([0]) == "!"
    for _ in range(2):
        with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
            ours.encode("the")
