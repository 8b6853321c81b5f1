"""Regular expressions and JSON schemas, through llguidance (an optional dependency)."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dependencies import needs
from ..errors import InputError
from ..numerics import Scores
from ..text.token_bytes import TokenBytes
from .constraints import JsonSchema, Regex
from .processor import MakeProcessor, Rows

#: States of the grammar kept between steps; those of a step's hypotheses are far fewer.
_MOST_STATES = 512

#: Else llguidance may force a byte that no token spells alone, and end the text there.
_NO_FORCING = '%llguidance {"no_forcing": true}\n'


def _llguidance() -> Any:
    with needs("a Regex or JsonSchema", "grammar"):
        import llguidance
    return llguidance


class _Vocabulary:
    """What llguidance asks of a tokenizer; the names are its own."""

    bos_token_id = None

    def __init__(self, token_bytes: TokenBytes, eos: int) -> None:
        self.eos_token_id = eos
        tokens = token_bytes.tokens
        self.special_token_ids = [number for number, token in enumerate(tokens) if not token]
        # A token without text needs a name of its own.
        self.tokens = [token or f"<{number}>".encode() for number, token in enumerate(tokens)]
        self._token_bytes = token_bytes

    def __call__(self, text: bytes) -> list[int]:
        return self._token_bytes.encode(text)


class Grammars:
    """Compiles constraints for one model's tokens.

    Raises:
        MissingDependencyError: llguidance is not installed.
    """

    def __init__(self, token_bytes: TokenBytes, eos: tuple[int, ...]) -> None:
        guidance = _llguidance()
        self._matcher = guidance.LLMatcher
        self._vocab_size = len(token_bytes.tokens)
        self._eos = np.array(eos, np.int64)
        self._drops_space = token_bytes.drops_space
        self._vocabulary = guidance.LLTokenizer(
            guidance.TokenizerWrapper(_Vocabulary(token_bytes, eos[0])),
            n_vocab=self._vocab_size,
            eos_token=list(eos),
        )

    def compile(self, constraint: Regex | JsonSchema) -> MakeProcessor:
        """A maker of processors; each has states of its own.

        Raises:
            InputError: a pattern or schema that llguidance refuses.
        """
        if isinstance(constraint, Regex):
            self._matcher_of(_lark(constraint.pattern), "pattern")  # as it is, unwrapped
            space = " ?" if self._drops_space else ""
            matcher = self._matcher_of(_lark(f"{space}(?:{constraint.pattern})"), "pattern")
        else:
            matcher = self._matcher_of(self._json_grammar(constraint), "schema")
        return partial(GrammarProcessor, matcher, self._eos, self._vocab_size)

    def _matcher_of(self, grammar: str, name: str) -> Any:
        matcher = self._matcher(self._vocabulary, _NO_FORCING + grammar, log_level=0)
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())
            raise InputError(f"the constraint's {name} cannot be used: {reason}")
        return matcher

    def _json_grammar(self, constraint: JsonSchema) -> str:
        try:
            # Free white space lets a weak model write line breaks until it runs out of tokens.
            schema = json.dumps({"x-guidance": {"whitespace_pattern": " ?"}, **constraint.schema})
        except TypeError as error:
            raise InputError(f"the constraint's schema is not JSON: {error}") from None
        space = '" "? ' if self._drops_space else ""
        return f"start: {space}text\ntext: %json {schema}\n"


def _lark(pattern: str) -> str:
    """A Lark grammar of one regular expression; a slash would end it, a line break too."""
    escaped = re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", pattern, flags=re.DOTALL)
    return "start: /" + escaped.replace("\n", r"\n") + "/\n"


class GrammarProcessor:
    """Only tokens with which the text can still match."""

    def __init__(
        self, matcher: Any, eos: NDArray[np.int64], vocab_size: int, forced_length: int
    ) -> None:
        self._start = matcher
        self._eos = eos
        self._vocab_size = vocab_size
        self._forced_length = forced_length
        self._states: dict[tuple[int, ...], Any] = {}

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        if len(self._states) > _MOST_STATES:
            self._states.clear()
        for row, tokens in enumerate(rows.token_ids[:, self._forced_length :].tolist()):
            state = self._state(tuple(tokens))
            if state is not None:
                bits = np.frombuffer(state.compute_bitmask(), np.uint8)
                allowed = np.unpackbits(bits, bitorder="little")[: self._vocab_size]
                scores[row, allowed == 0] = -np.inf
                if not state.is_accepting():
                    # llguidance ends where no token can go on; the text would not match.
                    scores[row, self._eos] = -np.inf
        return scores

    def _state(self, tokens: tuple[int, ...]) -> Any:
        """The matcher after ``tokens``, or None after the text's end."""
        if not tokens:
            return self._start.deep_copy()
        if tokens not in self._states:
            if tokens[:-1] in self._states:
                before, new = self._states[tokens[:-1]], tokens[-1:]
            else:
                before, new = self._start, tokens
            after = None if before is None else before.deep_copy()
            if after is not None and not after.consume_tokens(list(new)):
                after = None
            self._states[tokens] = after
        return self._states[tokens]
