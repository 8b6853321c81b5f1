"""Text to token ids and back, with the ``tokenizers`` library alone.

Two kinds: a ``tokenizer.json``, and ByT5's bytes, which need no file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..bundle.checks.json_text import MAX_TOKENIZER_BYTES, read_file
from ..bundle.optimum import UNREADY
from ..bundle.reader import Bundle
from ..bundle.tokenizer_info import AddedByteToken
from ..errors import BundleError
from .decoder_steps import decoder_steps, letters_looked_at
from .tokenizer_guard import guarded, load_tokenizer_json, state_of

if TYPE_CHECKING:
    from tokenizers import Encoding

#: Before a token that no text may be cut into; no text holds this noncharacter.
HIDDEN = "\uffff"
#: Before the number of an id that the vocabulary has no token for.
NO_TOKEN = 2 * HIDDEN
#: Tokens that a decoding begins before what it is for: a character has at most 4 bytes.
_LEAD = 6


class Tokenizer(Protocol):
    """What the runtime asks of a tokenizer."""

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``, with the special tokens that the model was trained on."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with special tokens; what :meth:`encode` gives, at once."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``, without special tokens or with them."""
        ...

    def settled(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> int:
        """How many of ``ids`` decode to text that no later token can change."""
        ...

    def restart(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> int:
        """A place in ``ids``, which are settled, from which on they do for decoding what follows.

        What later tokens add to the text of ``ids`` they add to that of ``ids[place:]`` as well.
        0: none is known.
        """
        ...

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name; None: there is no such token."""
        ...

    def is_added(self, number: int) -> bool:
        """Whether a token stands for itself alone and is no piece that words are cut into."""
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
        self._tokenizer = load_tokenizer_json(data)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._size = self._tokenizer.get_vocab_size() if size is None else size
        self._unknown = unknown
        self._added = self._tokenizer.get_added_tokens_decoder()
        decoder = state_of(self._tokenizer, "decoder")
        self._kinds = {step.get("type") for step in decoder_steps(decoder)}
        self._looked_at = letters_looked_at(decoder)

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        found = guarded(self._tokenizer.encode, text, add_special_tokens=special_tokens)
        return self._ids(found)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if len(texts) == 1:  # without the library's pool of threads
            return [self.encode(texts[0])]
        return [self._ids(found) for found in guarded(self._tokenizer.encode_batch, list(texts))]

    def _ids(self, found: Encoding) -> list[int]:
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
        decode = self._tokenizer.decode
        text: str = guarded(decode, list(ids), skip_special_tokens=skip_special_tokens)
        return text.replace(HIDDEN, "")

    def _stands_for_none(self, number: int) -> bool:
        return (self._tokenizer.id_to_token(number) or "").startswith(NO_TOKEN)

    def settled(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> int:
        count = len(ids)
        if "ByteFallback" in self._kinds:
            # A run of bytes is decoded as one: a last byte that does not fit spoils all of it.
            for place in range(len(ids) - 1, -1, -1):
                if _BYTE.fullmatch(self._tokenizer.id_to_token(ids[place]) or ""):
                    count = place
                elif not self._vanishes(ids[place], skip_special_tokens):
                    break
        return count

    def _vanishes(self, number: int, skip_special_tokens: bool) -> bool:
        """Whether the decoder is not given a token."""
        token = self._tokenizer.id_to_token(number)
        if token is None or not skip_special_tokens:
            return token is None or token.startswith(NO_TOKEN)
        return number in self._added and self._added[number].special

    def restart(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> int:
        place = len(ids) - _LEAD
        if self._looked_at is None or place <= 0:
            return 0
        # The first token may lose its space, so it has to be another one than the last letter's.
        first = self.decode(ids[place : place + 1], skip_special_tokens=skip_special_tokens)
        others = self.decode(ids[place + 1 :], skip_special_tokens=skip_special_tokens)
        return place if first and others and others[-1] not in self._looked_at else 0

    def token_id(self, token: str) -> int | None:
        for name in (token, HIDDEN + token):
            number: int | None = self._tokenizer.token_to_id(name)
            if number is not None and number < self._size:
                return number
        return None

    def is_added(self, number: int) -> bool:
        name = self._tokenizer.id_to_token(number) or ""
        return name.startswith(HIDDEN) or number in self._added

    def token_bytes(self) -> list[bytes]:
        tokens = [self._tokenizer.id_to_token(number) or "" for number in range(self._size)]
        if "ByteLevel" in self._kinds:
            spelled = [_byte_level(token) for token in tokens]
        else:
            spelled = self._in_context(tokens, by_byte="ByteFallback" in self._kinds)
        for number, token in self._added.items():
            if number < len(spelled):
                spelled[number] = b"" if token.special else token.content.encode()
        return spelled

    def _in_context(self, tokens: list[str], *, by_byte: bool) -> list[bytes]:
        """What decoding adds for each token after another one (a word's space, for example)."""
        anchor = next((i for i in range(len(tokens)) if self.decode([i]).strip()), None)
        if anchor is None:
            raise BundleError(
                "tokenizer.json makes text of none of its tokens; what looks at text (constraints,"
                " stop strings) cannot be asked of this model"
            )
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

    Args:
        offset: the first byte's token.
        added: the tokens that are no bytes; (): ByT5's own.
    """

    _EOS = 1

    def __init__(self, offset: int = 3, added: Sequence[AddedByteToken] = ()) -> None:
        self._offset = offset
        self._added = {token.content: token for token in added or byte_tokens(offset)}
        self._by_id = {token.id: token for token in self._added.values()}
        longest_first = sorted(self._added.values(), key=lambda token: -len(token.content))
        self._split = re.compile("|".join(map(_pattern, longest_first)))

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        ids: list[int] = []
        place = 0
        for match in self._split.finditer(text):
            ids += (byte + self._offset for byte in text[place : match.start()].encode())
            ids.append(self._added[next(filter(None, match.groups()))].id)
            place = match.end()
        ids += (byte + self._offset for byte in text[place:].encode())
        return ids if not special_tokens or ids[-1:] == [self._EOS] else [*ids, self._EOS]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return b"".join(self._spell(i, skip_special_tokens) for i in ids).decode(errors="ignore")

    def _spell(self, number: int, skip_special_tokens: bool) -> bytes:
        token = self._by_id.get(number)
        if token is not None:
            return b"" if token.special and skip_special_tokens else token.content.encode()
        byte = number - self._offset
        return bytes([byte]) if 0 <= byte < 256 else b""

    def settled(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> int:  # noqa: ARG002
        return len(ids)

    def restart(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> int:
        # Once there is a character, bytes that are none yet come after it.
        place = len(ids) - _LEAD
        if place <= 0 or not self.decode(ids[place:], skip_special_tokens=skip_special_tokens):
            return 0
        return place

    def token_id(self, token: str) -> int | None:
        found = self._added.get(token)
        return None if found is None else found.id

    def is_added(self, number: int) -> bool:
        return number in self._by_id

    def token_bytes(self) -> list[bytes]:
        count = 1 + max(self._offset + 255, *self._by_id)
        return [self._spell(number, skip_special_tokens=True) for number in range(count)]


def byte_tokens(offset: int) -> list[AddedByteToken]:
    """ByT5's own tokens that are no bytes; the named ones swallow the white space around them."""
    named = ["<pad>", "</s>", "<unk>"]
    sentinels = [f"<extra_id_{number}>" for number in range(125)]
    return [
        *(AddedByteToken(n, text, lstrip=True, rstrip=True) for n, text in enumerate(named)),
        *(AddedByteToken(offset + 256 + n, text) for n, text in enumerate(sentinels)),
    ]


def _pattern(token: AddedByteToken) -> str:
    before, after = (r"\s*" if strips else "" for strips in (token.lstrip, token.rstrip))
    return f"{before}({re.escape(token.content)}){after}"


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
        return ByteTokenizer(info.byte_offset, info.added_tokens)
    if info.kind == "tokenizers" and info.file is not None:
        data = read_file(bundle.path(info.file), MAX_TOKENIZER_BYTES)
        return JsonTokenizer(data, size=info.size, unknown=info.unknown)
    if info.kind == UNREADY:
        raise BundleError(
            f"{bundle.directory}: its tokenizer files must be converted once; run 'seq2edge import'"
            " and use the bundle that it writes"
        )
    raise BundleError(f"{bundle.directory}: unknown tokenizer kind {info.kind!r}")
