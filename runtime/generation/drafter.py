"""Who guesses what comes next in speculative decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..backends import Backend
from ..backends.base import Ids
from ..bundle.manifest import Manifest
from ..errors import InputError
from ..text.tokenizer import Tokenizer


class Drafter(Protocol):
    """Guesses for the sources of one batch; ``place`` counts those that still run."""

    def append(self, place: int, token: int) -> None:
        """Learn the next token of an output."""
        ...

    def guess(self, most: Sequence[int]) -> list[list[int]]:
        """What may come next in each output, up to ``most`` tokens of it; often nothing."""
        ...

    def learn(self, place: int, guessed: int, right: int) -> None:
        """How many tokens of the last guess were right; after their ``append``."""
        ...

    def select_batch(self, rows: Ids) -> None:
        """Go on with these sources only; ``rows`` ascend."""
        ...


class DraftModel(Protocol):
    """A loaded model that may guess for another one: any loaded model has these."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def backend(self) -> Backend: ...

    @property
    def target_tokenizer(self) -> Tokenizer | None: ...


def check_same_tokens(draft: DraftModel, manifest: Manifest, tokenizer: Tokenizer | None) -> None:
    """Refuse a draft model whose token ids mean something else.

    Raises:
        InputError: what differs.
    """
    ours, theirs = manifest.dimensions, draft.manifest.dimensions
    sizes = (theirs.vocab_size, theirs.source_tokens)
    if sizes != (ours.vocab_size, ours.source_tokens):
        raise InputError(
            f"draft_model has {theirs.vocab_size} tokens and the model {ours.vocab_size}: they need"
            " the same tokenizer"
        )
    if "decoder" not in draft.manifest.graphs:
        raise InputError("draft_model has no decoder, so it cannot guess")
    if draft.manifest.single_stack != manifest.single_stack:
        raise InputError("draft_model must have an encoder exactly if the model has one")
    if _digest(draft.manifest) == _digest(manifest):
        return
    other = draft.target_tokenizer
    if tokenizer is None or other is None:
        return  # ids from the caller, who knows what they are
    if other.token_bytes() != tokenizer.token_bytes():
        raise InputError("draft_model has another vocabulary: both need the same tokenizer")


def _digest(manifest: Manifest) -> str | None:
    """Of the tokenizer of outputs; None: there is no file of it."""
    info = manifest.target_tokenizer or manifest.tokenizer
    return None if info.file is None else manifest.files[info.file].sha256
