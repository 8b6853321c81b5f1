"""Tokens as the bytes that they add to a text."""

from __future__ import annotations

from .tokenizer import Tokenizer


class TokenBytes:
    """The text of each of a model's tokens.

    Args:
        tokenizer: the bundle's.
        vocab_size: V, the model's; tokens that the tokenizer does not know have no text.
        eos: end tokens, which have no text either.

    Attributes:
        tokens: UTF-8 bytes of each token, empty for special tokens.
        drops_space: whether decoding drops the space of the first word's token (SentencePiece,
            WordPiece), so that a text may be spelled with or without it.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: tuple[int, ...]) -> None:
        tokens = (tokenizer.token_bytes() + [b""] * vocab_size)[:vocab_size]
        for token in eos:
            tokens[token] = b""
        self.tokens = tokens
        self._ids = {token: number for number, token in enumerate(tokens) if token}
        self._longest = max(len(token) for token in tokens)
        spaced = next((n for n, t in enumerate(tokens) if t[:1] == b" " and t.strip()), None)
        self.drops_space = spaced is not None and tokenizer.decode([spaced])[:1] != " "

    def encode(self, text: bytes) -> list[int]:
        """Token ids of ``text``: the longest token at each place.

        Bytes that no token spells are left out; a caller who minds compares.
        """
        ids: list[int] = []
        start = 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((end for end in ends if text[start:end] in self._ids), None)
            if end is not None:
                ids.append(self._ids[text[start:end]])
            start = end or start + 1
        return ids
