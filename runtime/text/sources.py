"""Sources are checked before anything runs: texts to token ids, token ids to arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bundle.manifest import Manifest
from ..errors import InputError, SourceError
from .languages import LanguageTokens
from .length_warning import LengthWarning
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class TextSource:
    """One source: token ids [S] and whether each counts [S], without padding on the right."""

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, tokens: Sequence[int]) -> TextSource:
        """A source all of whose tokens count."""
        return cls(np.array(tokens, np.int64), np.ones(len(tokens), np.bool_))

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self) -> list[int]:
        """Those that count."""
        tokens: list[int] = self.ids[self.mask].tolist()
        return tokens

    def inputs(self) -> dict[str, NDArray[Any]]:
        """See :class:`seq2edge.runtime.generation.source.Source`."""
        return {"input_ids": self.ids, "attention_mask": self.mask}


def tokenize(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    manifest: Manifest,
    languages: LanguageTokens,
    length_warning: LengthWarning,
) -> list[list[int]]:
    """Token ids of each text, with the tokens of the call's languages.

    Raises:
        SourceError: an empty text, one that is too long, or one that the tokenizer or the model
            does not know; it is named by its place in ``texts``.
    """
    limit, vocabulary = manifest.dimensions.max_source_length, manifest.dimensions.source_tokens
    encoded = []
    for index, (text, ids) in enumerate(zip(texts, _encoded(texts, tokenizer), strict=True)):
        if not text.strip():
            raise SourceError(index, "is empty")
        if not ids:
            raise SourceError(index, "has no token that the tokenizer knows")
        ids = languages.put_into(ids)
        if limit is not None and len(ids) > limit:
            raise SourceError(
                index,
                f"has {len(ids)} tokens and the model takes at most {limit};"
                " split it or shorten it",
            )
        if max(ids) >= vocabulary:
            raise SourceError(
                index,
                f"holds token {max(ids)} and the model knows only"
                f" {vocabulary}: the tokenizer is larger than the model",
            )
        length_warning.check(index, len(ids))
        encoded.append(ids)
    return encoded


def _encoded(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Token ids of each text, of all at once; one by one only to name the one that cannot be."""
    try:
        yield from tokenizer.encode_batch(texts)
        return
    except Exception:  # the tokenizers library raises bare Exception
        pass
    for index, text in enumerate(texts):
        try:
            ids = tokenizer.encode(text)
        except Exception as error:
            raise SourceError(index, f"cannot be tokenized: {error}") from None
        yield ids


def checked_sources(
    input_ids: ArrayLike, attention_mask: ArrayLike | None, manifest: Manifest
) -> list[TextSource]:
    """The rows of ``input_ids`` [B, S].

    Without a mask all but padding counts. Where the pad token is an end or bos token too, every
    token counts, as in ``transformers``, with a warning for several rows, which may be padded.

    Raises:
        InputError: wrong shape, ids outside the vocabulary, a row with nothing in it, or a
            source longer than the model allows.
    """
    try:
        ids = np.asarray(input_ids)
    except ValueError:
        raise InputError("input_ids must be a rectangle [batch, length]; pad the rows") from None
    if ids.shape == (0,):
        ids = ids.reshape(0, 0).astype(np.int64)
    if ids.ndim != 2 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(
            f"input_ids must be integers of shape [batch, length], not {ids.dtype} {ids.shape}"
        )
    dims, padding = manifest.dimensions, manifest.special_tokens.padding
    if ids.size and not (ids.min() >= 0 and ids.max() < dims.source_tokens):
        raise InputError(f"input_ids must lie in 0..{dims.source_tokens - 1}")
    if dims.max_source_length is not None and ids.shape[1] > dims.max_source_length:
        raise InputError(
            f"the source has {ids.shape[1]} tokens and the model takes at most"
            f" {dims.max_source_length}"
        )
    try:
        if attention_mask is not None:
            mask = np.asarray(attention_mask) != 0
        else:
            mask = np.ones(ids.shape, np.bool_) if padding is None else ids != padding
    except ValueError:
        raise InputError("attention_mask must be a rectangle [batch, length]") from None
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {mask.shape}, input_ids {ids.shape}")
    if not len(ids):
        return []
    if attention_mask is None and padding is None and len(ids) > 1:
        warnings.warn(
            f"the pad token {manifest.special_tokens.pad} begins or ends sequences too, so padding"
            " cannot be told from text and every token counts; pass attention_mask if rows are"
            " padded",
            stacklevel=3,
        )
    empty = np.flatnonzero(~mask.any(axis=1))
    if empty.size:
        raise InputError(f"row {int(empty[0])} of input_ids holds no token that counts")
    lengths = ids.shape[1] - mask[:, ::-1].argmax(axis=1)
    return [
        TextSource(row[:length].astype(np.int64), counts[:length])
        for row, counts, length in zip(ids, mask, lengths, strict=True)
    ]


def checked_ids(token_ids: ArrayLike, vocab_size: int) -> list[int]:
    """Token ids [T] of an output.

    Raises:
        InputError: not a row of integers in 0..vocab_size-1.
    """
    try:
        ids = np.asarray(token_ids)
    except ValueError:
        ids = np.zeros((0, 0))
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(
            f"token ids must be integers of shape [length], not {ids.dtype} {ids.shape}"
        )
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise InputError(f"token ids must lie in 0..{vocab_size - 1}")
    row: list[int] = ids.tolist()
    return row
