"""What a caller gets: one generated sequence."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field

from ..text.tokenizer import Tokenizer
from .batch import Hypothesis
from .config import GenerationConfig

#: A result on one line, whatever its text.
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


@dataclass(frozen=True)
class Generation:
    """One generated sequence.

    Attributes:
        text: the decoded text, or None where the bundle has no tokenizer.
        token_ids: tokens after the decoder start token, with a decoder prefix and the end
            token where there is one; of a decoder-only model, those after the source.
        score: sum of the tokens' log-probabilities (natural logarithm; forced tokens count
            as 0) under the distribution that they were chosen from; beam search divides it
            by length ** length_penalty. None unless it was a beam search or
            ``return_scores`` was asked for.
        finish_reason: ``eos``, ``length``, ``stop_string``, ``time`` (``max_time``) or
            ``cancelled``.
        source: place of its source among those given, from 0.
    """

    text: str | None
    token_ids: list[int]
    score: float | None
    finish_reason: str | None
    source: int = field(default=0, compare=False)

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score={self.score:.4g}"
        count = f"{len(self.token_ids)} tokens"
        return f"Generation({_SHORT.repr(self.text)}, {count}{score}, {self.finish_reason})"


def generation_of(
    found: Hypothesis,
    config: GenerationConfig,
    tokenizer: Tokenizer | None,
    *,
    skip_special_tokens: bool,
    source: int = 0,
) -> Generation:
    """What a caller gets of a sequence; without ``tokenizer`` it has no text."""
    text = None
    if tokenizer is not None:
        text = tokenizer.decode(found.token_ids, skip_special_tokens=skip_special_tokens)
    return Generation(
        text=text,
        token_ids=list(found.token_ids),
        score=found.score if config.return_scores or config.num_beams > 1 else None,
        finish_reason=found.finish_reason,
        source=source,
    )
