"""A tokenizer of GPT-2's kind for a model that writes texts and seldom gets one: Whisper.

Its ids become text by a table, for which the file is read as JSON. The ``tokenizers`` library makes
what it cuts texts by of the same file in twice the time and 26 MB more, and is asked for that when
the first text comes (a prompt, hot words).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..bundle.checks.json_text import MAX_TOKENIZER_BYTES, read_file
from ..bundle.reader import Bundle
from .tokenizer import BYTE_OF, HIDDEN, JsonTokenizer, Tokenizer, load_tokenizer


class ByteLevelTokenizer:
    """See :class:`.Tokenizer`; :func:`byte_level_tokenizer` makes one. Threads may share it.

    Args:
        data: the file.
        tokens: of the vocabulary, by id.
        added: tokens that stand for themselves, by id, and whether they are special.
    """

    def __init__(
        self, data: bytes, tokens: Sequence[str], added: Mapping[int, tuple[str, bool]]
    ) -> None:
        self._data: bytes | None = data
        self._tokens, self._added = tokens, added
        self._ids = {name: number for number, (name, _) in added.items()}
        self._special = {name for name, special in added.values() if special}
        self._whole: JsonTokenizer | None = None
        self._lock = threading.Lock()

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        return self._library().encode(text, special_tokens=special_tokens)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._library().encode_batch(texts)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        spelled = []
        for number in ids:
            token = self._token(number)
            if token is not None and not (skip_special_tokens and token in self._special):
                spelled.append(_bytes_of(token))
        return b"".join(spelled).decode(errors="replace").replace(HIDDEN, "")

    def settled(self, ids: Sequence[int]) -> int:
        return len(ids)

    def token_id(self, token: str) -> int | None:
        found = self._ids.get(token)
        if found is None and token in self._tokens:
            found = self._tokens.index(token)
        return found

    def is_added(self, number: int) -> bool:
        return number in self._added

    def token_bytes(self) -> list[bytes]:
        return self._library().token_bytes()

    def _token(self, number: int) -> str | None:
        if number in self._added:
            return self._added[number][0]
        return self._tokens[number] if 0 <= number < len(self._tokens) else None

    def _library(self) -> JsonTokenizer:
        """What cuts texts into tokens.

        Raises:
            BundleError: the library cannot read the file.
        """
        with self._lock:
            if self._whole is None:
                self._whole = JsonTokenizer(self._data or b"")
                self._data = None
            return self._whole


def load_decoding_tokenizer(bundle: Bundle) -> Tokenizer | None:
    """The bundle's tokenizer, for a model that seldom gets a text; None: it has none.

    Raises:
        BundleError: see :func:`.load_tokenizer`.
    """
    info = bundle.manifest.tokenizer
    if info.kind == "tokenizers" and info.file is not None and info.size is info.unknown is None:
        found = byte_level_tokenizer(read_file(bundle.path(info.file), MAX_TOKENIZER_BYTES))
        if found is not None:
            return found
    return load_tokenizer(bundle)


def byte_level_tokenizer(data: bytes) -> Tokenizer | None:
    """The tokenizer of a file; None: it is of another form, and for the library to judge."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    model, decoder = found.get("model"), found.get("decoder")
    if not isinstance(model, dict) or not isinstance(decoder, dict):
        return None
    if model.get("type") != "BPE" or decoder.get("type") != "ByteLevel":
        return None
    tokens = _tokens(model.get("vocab"))
    added = None if tokens is None else _added(found.get("added_tokens", []), tokens)
    if tokens is None or added is None:
        return None
    return ByteLevelTokenizer(data, tokens, added)


def _tokens(vocabulary: Any) -> list[str] | None:
    """Tokens by id, if each id up to the last one has one."""
    if not isinstance(vocabulary, dict) or set(map(type, vocabulary.values())) != {int}:
        return None
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if any(vocabulary[token] != number for number, token in enumerate(tokens)):
        return None
    return None if any(HIDDEN in token for token in tokens) else tokens


def _added(entries: Any, tokens: list[str]) -> dict[int, tuple[str, bool]] | None:
    """Those with the ids that the library gives them; None: the file says others."""
    places = {token: number for number, token in enumerate(tokens)}
    added: dict[int, tuple[str, bool]] = {}
    following = len(tokens)
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, dict):
            return None
        number, name, special = (entry.get(key) for key in ("id", "content", "special"))
        if not isinstance(name, str) or not name or HIDDEN in name or type(special) is not bool:
            return None
        expected = places.get(name, following)
        if type(number) is not int or number != expected or number in added:
            return None
        following = max(following, number + 1)
        added[number] = name, special
    return added if len({name for name, _ in added.values()}) == len(added) else None


def _bytes_of(token: str) -> bytes:
    """What a token spells in GPT-2's letters; one with other letters is a text itself."""
    try:
        return bytes([BYTE_OF[letter] for letter in token])
    except KeyError:
        return token.encode(errors="replace")
