"""What the decoding strategies share: the batch, its options, its results."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np

from ..engines import EncodedSource, Engine, RowEngine
from ..errors import InputError
from ..manifest import Manifest
from .cache import first_capacity
from .config import GenerationConfig
from .fits import forced_start
from .growing import GrowingTree
from .processors import Processors
from .stopping import StoppingRule
from .tree import Tree


@dataclass
class Sequence:
    """One generated sequence: tokens after the decoder start token, the end token included.

    ``score`` is the log-probability, for beam search divided by length ** length_penalty;
    ``finish_reason`` is None while the sequence grows.
    """

    token_ids: list[int]
    score: float = 0.0
    finish_reason: str | None = None


#: ``results[source]`` holds the sequences of one source, the best or first one first.
Results = list[list[Sequence]]


@dataclass
class Call:
    """One batch to decode; options are checked, nothing has run but the encoder.

    Attributes:
        engine, source: the encoded sources.
        sources: their token ids without padding.
        manifest, config: the bundle and the options.
        new_tokens: limit of tokens after the decoder prompt.
        stopping: ends sequences.
        processors: edit the scores.
    """

    engine: Engine
    source: EncodedSource
    sources: SequenceOf[SequenceOf[int]]
    manifest: Manifest
    config: GenerationConfig
    new_tokens: int
    stopping: StoppingRule
    processors: Processors = field(default_factory=lambda: Processors([]))
    #: Tokens of the prompt that count as generated: the forced start.
    forced: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        # A forced start needs no step of its own: it is run with the prompt.
        self.forced = forced_start(self.config, self.new_tokens)

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    @property
    def prompt(self) -> list[int]:
        """Tokens that every hypothesis starts with: start token, prefix, forced start."""
        start = self.manifest.special_tokens.decoder_start
        return [start, *self.config.decoder_prefix, *self.forced]

    @property
    def vocab_size(self) -> int:
        return self.manifest.dimensions.vocab_size

    def forces_end(self, remaining: int) -> int | None:
        """The forced end token, if the next place is the last one."""
        return self.config.forced_eos_token_id if remaining == 1 else None

    @property
    def most_queries(self) -> int | None:
        """Tokens of a sequence that the engine can run at once; None: any number."""
        return None if self.engine.limits is None else self.engine.limits.max_queries

    def tree(
        self, width: int, *, logits: bool, normalizer: bool = False
    ) -> Tree | GrowingTree:
        """Run the prompt and stand ``width`` hypotheses a source after it."""
        prompt = self.prompt
        if isinstance(self.engine, RowEngine):
            return GrowingTree(
                self.engine.rows(self.source),
                self.batch_size,
                prompt,
                width=width,
                logits=logits,
                normalizer=normalizer,
            )
        # The last token of a hypothesis is never run, so it needs no slot.
        slots = len(prompt) + width * max(0, self.new_tokens - len(self.forced) - 1)
        return Tree(
            self.engine.decoder(self.source, first_capacity(slots, len(prompt))),
            self.batch_size,
            prompt,
            width=width,
            most_slots=slots,
            vocab_size=self.vocab_size if logits else None,
            normalizer=normalizer,
            most_queries=self.most_queries,
        )

    def no_continuation(self, tokens: SequenceOf[int]) -> InputError:
        """The error for options that forbid every token."""
        shown = [int(token) for token in tokens]
        return InputError(
            f"no token may follow {shown}: prefix_allowed_tokens, logits_processors,"
            " suppress_tokens and the like together forbid all of them"
        )


def selection(unfinished: SequenceOf[bool]) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """Which sources to go on with, once half of them are done; None: all, for now.

    Leaving costs a copy of what stays, so it waits until it halves the work.
    """
    left = sum(unfinished)
    if not 0 < 2 * left <= len(unfinished):
        return None
    return np.flatnonzero(unfinished)
