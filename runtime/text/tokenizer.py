"""Text to token ids and back, with the ``tokenizers`` library alone.

Two kinds: a ``tokenizer.json``, and ByT5's bytes, which need no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers import Tokenizer as _FastTokenizer

from ..bundle.optimum import UNREADY
from ..bundle.reader import Bundle
from ..errors import BundleError

#: Before a token that no text may be cut into; no text holds this noncharacter.
HIDDEN = "\uffff"
#: Before the number of an id that the vocabulary has no token for.
NO_TOKEN = 2 * HIDDEN


class Tokenizer(Protocol):
    """What the runtime asks of a tokenizer."""

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``, with the special tokens that the model was trained on."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``, without special tokens or with them."""
        ...

    def settled(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` decode to text that no later token can change."""
        ...

    def token_bytes(self) -> list[bytes]:
        """What each token adds to a text, in UTF-8; nothing for special tokens."""
        ...


class JsonTokenizer:
    """A ``tokenizer.json``; padding and truncation settings in the file are switched off.

    Args:
        data: the file.
        size, unknown: ids from ``size`` on become ``unknown`` (see :class:`.TokenizerInfo`).
    """

    def __init__(self, data: bytes, *, size: int | None = None, unknown: int | None = None) -> None:
        try:
            self._tokenizer = _FastTokenizer.from_buffer(data)
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"tokenizer.json cannot be read: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._size = self._tokenizer.get_vocab_size() if size is None else size
        self._unknown = unknown
        self._kinds = _decoder_kinds(json.loads(self._tokenizer.to_str()).get("decoder"))

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        found = self._tokenizer.encode(text, add_special_tokens=special_tokens)
        ids: list[int] = found.ids
        if self._unknown is None:
            return ids
        for place, number in enumerate(ids):
            if number >= self._size or number == self._unknown:
                # Unknown to the pieces, it may still be a token of the model as a whole.
                hidden = self._tokenizer.token_to_id(HIDDEN + found.tokens[place])
                ids[place] = self._unknown if hidden is None else hidden
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        if not skip_special_tokens:
            ids = [number for number in ids if not self._stands_for_none(number)]
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text.replace(HIDDEN, "")

    def _stands_for_none(self, number: int) -> bool:
        return (self._tokenizer.id_to_token(number) or "").startswith(NO_TOKEN)

    def settled(self, ids: Sequence[int]) -> int:
        count = len(ids)
        if "ByteFallback" in self._kinds:
            # A run of bytes is decoded as one: a last byte that does not fit spoils all of it.
            while count and _BYTE.fullmatch(self._tokenizer.id_to_token(ids[count - 1]) or ""):
                count -= 1
        return count

    def token_bytes(self) -> list[bytes]:
        tokens = [self._tokenizer.id_to_token(number) or "" for number in range(self._size)]
        added = self._tokenizer.get_added_tokens_decoder()
        if "ByteLevel" in self._kinds:
            spelled = [_byte_level(token) for token in tokens]
        else:
            spelled = self._in_context(tokens, by_byte="ByteFallback" in self._kinds)
        for number, token in added.items():
            if number < len(spelled):
                spelled[number] = b"" if token.special else token.content.encode()
        return spelled

    def _in_context(self, tokens: list[str], *, by_byte: bool) -> list[bytes]:
        """What decoding adds for each token after another one (a word's space, for example)."""
        anchor = next(i for i in range(len(tokens)) if self.decode([i]).strip())
        before = len(self.decode([anchor]))
        spelled = [self.decode([anchor, i])[before:].encode() for i in range(len(tokens))]
        if by_byte:
            for number, token in enumerate(tokens):
                match = _BYTE.fullmatch(token)
                if match:
                    spelled[number] = bytes([int(match[1], 16)])
        return spelled


#: A byte as SentencePiece names it.
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _decoder_kinds(decoder: dict[str, Any] | None) -> set[str]:
    """Types of a tokenizer.json's decoder and of all that it is made of."""
    if not decoder:
        return set()
    return {decoder["type"]}.union(*(_decoder_kinds(d) for d in decoder.get("decoders", [])))


def _byte_level(token: str) -> bytes:
    return bytes(_BYTE_OF[letter] for letter in token if letter in _BYTE_OF)


def _byte_letters() -> dict[str, int]:
    """GPT-2's printable letter of each byte: itself if printable in Latin-1, else 256 + n."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in letters.values()]
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_letters()


class ByteTokenizer:
    """ByT5: byte ``b`` is token ``b + offset``; the ids below are pad, end and unknown.

    Source: Xue et al. 2021, "ByT5", section 3.1; ``<extra_id_N>`` follow the 256 bytes.
    """

    _EOS = 1
    _EXTRA_IDS = 125

    def __init__(self, offset: int = 3) -> None:
        self._offset = offset
        self._special = {"<pad>": 0, "</s>": self._EOS, "<unk>": 2}
        sentinels = [f"<extra_id_{number}>" for number in range(self._EXTRA_IDS)]
        # The named tokens swallow the white space around them, as in the reference.
        self._split = re.compile(rf"\s*({'|'.join(self._special)})\s*|({'|'.join(sentinels)})")
        self._special |= {text: offset + 256 + n for n, text in enumerate(sentinels)}

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        for part in filter(None, self._split.split(text)):
            if part in self._special:
                ids.append(self._special[part])
            else:
                ids.extend(byte + self._offset for byte in part.encode())
        return ids if not special_tokens or ids[-1:] == [self._EOS] else [*ids, self._EOS]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        special = {} if skip_special_tokens else {n: t.encode() for t, n in self._special.items()}
        first, last = self._offset, self._offset + 256
        spelled = (bytes([i - first]) if first <= i < last else special.get(i, b"") for i in ids)
        return b"".join(spelled).decode(errors="ignore")

    def settled(self, ids: Sequence[int]) -> int:
        return len(ids)

    def token_bytes(self) -> list[bytes]:
        return [b""] * self._offset + [bytes([b]) for b in range(256)] + [b""] * self._EXTRA_IDS


def load_tokenizer(bundle: Bundle, *, target: bool = False) -> Tokenizer | None:
    """The bundle's tokenizer, or None if it was exported without one.

    Args:
        bundle: the opened bundle.
        target: the one of outputs, where they have other tokens than sources.

    Raises:
        BundleError: a tokenizer file that cannot be read, or an unknown kind.
    """
    manifest = bundle.manifest
    info = (manifest.target_tokenizer if target else None) or manifest.tokenizer
    if info.kind == "none":
        return None
    if info.kind == "byte":
        return ByteTokenizer(info.byte_offset)
    if info.kind == "tokenizers" and info.file is not None:
        data = bundle.path(info.file).read_bytes()
        return JsonTokenizer(data, size=info.size, unknown=info.unknown)
    if info.kind == UNREADY:
        raise BundleError(
            f"{bundle.directory}: its tokenizer files must be converted once; run 'seq2edge import'"
            " and use the bundle that it writes"
        )
    raise BundleError(f"{bundle.directory}: unknown tokenizer kind {info.kind!r}")
