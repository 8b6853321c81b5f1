"""A tokenizer as the JSON of a tokenizer.json."""

from __future__ import annotations

from tokenizers import Tokenizer

from ..errors import CheckpointError

#: The largest vocabularies have a quarter of a million tokens. The library looks at every id up to
#: the largest when it writes a file, and aborts the process when it has no memory for that.
_LARGEST_ID = 1 << 24


def serialized(tokenizer: Tokenizer) -> str:
    """The JSON.

    Raises:
        CheckpointError: a token whose id no vocabulary has.
    """
    ids = tokenizer.get_vocab(with_added_tokens=True)
    token = max(ids, key=ids.__getitem__, default=None)
    if token is not None and ids[token] > _LARGEST_ID:
        raise CheckpointError(
            f"the tokenizer gives {token[:80]!r} the id {ids[token]}, which no vocabulary has"
        )
    made: str = tokenizer.to_str()
    return made
