"""From a constraint to the processor that forbids what it does not allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError
from ..numerics import Scores
from ..text.token_bytes import TokenBytes
from ..text.tokenizer import Tokenizer
from .constraints import Choices, Constraint, JsonSchema, Regex
from .processor import MakeProcessor, Rows


class ConstraintCompiler:
    """Turns constraints into processors, for one tokenizer.

    The last constraint is kept as compiled, because a call needs it to check the options and
    then for each of its batches, and the next call often has the same.

    Args:
        tokenizer: the bundle's.
        vocab_size: V, the model's.
        eos: end tokens.
    """

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int, eos: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos = eos
        self._token_bytes: TokenBytes | None = None
        self._grammars: Any = None
        self._last: tuple[str, MakeProcessor] | None = None

    def compile(self, constraint: Constraint) -> MakeProcessor:
        """A maker of processors for texts that start after the decoder prompt.

        Raises:
            InputError: no tokenizer, no text to choose from, or a pattern or schema that
                cannot be used.
            MissingDependencyError: llguidance is not installed.
        """
        if not isinstance(constraint, (Choices, Regex, JsonSchema)):
            raise InputError(f"constraint must be Choices, Regex or JsonSchema, not {constraint!r}")
        if isinstance(constraint, Regex) and not isinstance(constraint.pattern, str):
            raise InputError(
                f"the constraint's pattern cannot be used: {constraint.pattern!r} is no text"
            )
        if isinstance(constraint, JsonSchema) and not isinstance(constraint.schema, Mapping):
            raise InputError(
                f"the constraint's schema cannot be used: {constraint.schema!r} is no mapping"
            )
        if self._tokenizer is None:
            raise InputError("a constraint is about text, and the bundle has no tokenizer")
        if not self._eos:
            raise InputError("a constraint needs an end token, and the bundle has none")
        # By content: a caller may change a schema and pass it again.
        key, last = repr(constraint), self._last  # one read: other threads may write
        if last is None or last[0] != key:
            last = self._last = (key, self._compile(constraint, self._tokenizer))
        return last[1]

    def _compile(self, constraint: Constraint, tokenizer: Tokenizer) -> MakeProcessor:
        if self._token_bytes is None:
            self._token_bytes = TokenBytes(tokenizer, self._vocab_size, self._eos)
        if isinstance(constraint, Choices):
            texts = constraint.texts
            if not isinstance(texts, Sequence) or isinstance(texts, str) or not texts:
                raise InputError(f"Choices needs a list of at least one text, not {texts!r}")
            wrong = [text for text in texts if not isinstance(text, str)]
            if wrong:
                raise InputError(f"Choices needs texts, not {wrong[0]!r}")
            sequences = [_spelled(text, tokenizer, self._token_bytes) for text in texts]
            return partial(TrieProcessor, sequences, self._eos)
        if self._grammars is None:
            from .grammar import Grammars

            self._grammars = Grammars(self._token_bytes, self._eos)
        make: MakeProcessor = self._grammars.compile(constraint)
        return make


def _spelled(text: str, tokenizer: Tokenizer, token_bytes: TokenBytes) -> list[int]:
    """Tokens that decode to ``text``: as the tokenizer encodes it, or else letter by letter.

    A tokenizer may encode sources in another way than it decodes targets (lower case, say).

    Raises:
        InputError: no tokens do.
    """
    space = " " if token_bytes.drops_space else ""
    for tokens in (
        tokenizer.encode(text, special_tokens=False),
        token_bytes.encode((space + text).encode()),
    ):
        known = tokens and max(tokens) < len(token_bytes.tokens)
        if known and tokenizer.decode(tokens) == text:
            return tokens
    raise InputError(f"the choice {text!r} cannot be spelled with the model's tokens")


class TrieProcessor:
    """Only tokens that lead to one of ``sequences``, each followed by an end token."""

    def __init__(
        self, sequences: Sequence[Sequence[int]], eos: tuple[int, ...], forced_length: int
    ) -> None:
        self._forced_length = forced_length
        #: Nested: token -> what may follow it.
        self._root: dict[int, Any] = {}
        for sequence in sequences:
            node = self._root
            for token in sequence:
                node = node.setdefault(token, {})
            node.update((token, {}) for token in eos)

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        for row, tokens in enumerate(rows.token_ids[:, self._forced_length :].tolist()):
            node: dict[int, Any] | None = self._root
            for token in tokens:
                node = node.get(token) if node else None
            if node:  # else the sequence has ended
                allowed = np.array(list(node), np.int64)
                kept = scores[row, allowed]
                scores[row] = -np.inf
                scores[row, allowed] = kept
        return scores
