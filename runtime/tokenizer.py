"""Text to token ids and back, with the ``tokenizers`` library alone.

Two kinds: a ``tokenizer.json``, and ByT5's bytes, which need no file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer as _FastTokenizer

from .bundle import Bundle
from .errors import BundleError


class Tokenizer(Protocol):
    """What the runtime asks of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, with the special tokens that the model was trained on."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; special tokens are left out."""
        ...


class JsonTokenizer:
    """A ``tokenizer.json``; padding and truncation settings in the file are switched off."""

    def __init__(self, data: bytes) -> None:
        try:
            self._tokenizer = _FastTokenizer.from_buffer(data)
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"tokenizer.json cannot be read: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


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

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in filter(None, self._split.split(text)):
            if part in self._special:
                ids.append(self._special[part])
            else:
                ids.extend(byte + self._offset for byte in part.encode())
        return ids if ids and ids[-1] == self._EOS else [*ids, self._EOS]

    def decode(self, ids: Sequence[int]) -> str:
        first, last = self._offset, self._offset + 256
        return bytes(i - first for i in ids if first <= i < last).decode(errors="ignore")


def load_tokenizer(bundle: Bundle) -> Tokenizer | None:
    """The bundle's tokenizer, or None if it was exported without one.

    Raises:
        BundleError: a tokenizer file that cannot be read, or an unknown kind.
    """
    info = bundle.manifest.tokenizer
    if info.kind == "none":
        return None
    if info.kind == "byte":
        return ByteTokenizer(info.byte_offset)
    if info.kind == "tokenizers" and info.file is not None:
        return JsonTokenizer(bundle.path(info.file).read_bytes())
    raise BundleError(f"{bundle.directory}: unknown tokenizer kind {info.kind!r}")
