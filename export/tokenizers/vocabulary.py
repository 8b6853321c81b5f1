"""A family's tokens, and those that a checkpoint's files add to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from .settings import added_tokens


@dataclass(frozen=True)
class Vocabulary:
    """The model's tokens.

    Attributes:
        ids: token to id.
        unknown: the token of what has none.
        added: tokens that texts may name as they are; decoding leaves out the special ones.
    """

    ids: Mapping[str, int]
    unknown: str
    added: Sequence[AddedToken]

    @property
    def size(self) -> int:
        return 1 + max(self.ids.values())


def read_vocabulary(
    ids: Mapping[str, int],
    special: Sequence[str],
    flagged: Mapping[str, AddedToken],
    directory: Path,
    settings: Mapping[str, Any],
    unknown: str = "<unk>",
) -> Vocabulary:
    """A family's tokens and those that the files add, in which case they say the flags.

    Args:
        ids: the family's, token to id.
        special: those of them that texts may name and decoding leaves out.
        flagged: flags of special tokens that have others than none.
        directory, settings: the files.
        unknown: the token of what has none.

    Raises:
        CheckpointError: added_tokens.json does not map tokens to ids.
    """
    known = dict(ids)
    added = {t: AddedToken(t, normalized=False, special=True) for t in special} | dict(flagged)
    files = added_tokens(directory, settings)
    for number, token in files.by_id.items():
        known[token.content] = number
        added[token.content] = token
    for token in files.others:
        known.setdefault(token.content, 1 + max(known.values()))
        added.setdefault(token.content, token)
    if unknown in added:  # decoding leaves it out, whatever the files say
        added[unknown].special = True
    return Vocabulary(known, unknown, list(added.values()))
