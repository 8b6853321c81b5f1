"""One call, prepared once: what all of its batches read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..bundle.manifest import Manifest
from .config import GenerationConfig
from .processor import MakeProcessor
from .source import Source


@dataclass(frozen=True)
class PreparedCall:
    """A call that is checked and can run; nothing of it is looked up, resolved or made again.

    Attributes:
        manifest: the bundle's.
        config: the options, checked; their languages are tokens already.
        sources: in the caller's order.
        draft_sources: the same for the draft model; unread where there is none.
        decoder_prompts: what is before each source's results: the decoder start token, or the
            caller's own prompt; without an encoder the source itself.
        forced: tokens of the prompt that count as generated: the forced BOS.
        new_tokens: limit of tokens after the decoder prompt, those of ``forced`` among them.
        constraint: makes the processors of ``config.constraint``; None: it has none.
        processors: make the caller's own processors, after those of the options.
        logprobs: whether sequences have their ``logprob``; it reads all logits of every step.
        estimates_logprobs: whether greedy decoding may estimate it, where the graph gives an
            estimate with fewer logits.
    """

    manifest: Manifest
    config: GenerationConfig
    sources: tuple[Source, ...]
    draft_sources: tuple[Source, ...]
    decoder_prompts: tuple[tuple[int, ...], ...]
    forced: tuple[int, ...]
    new_tokens: int
    constraint: MakeProcessor | None
    processors: tuple[MakeProcessor, ...] = ()
    logprobs: bool = False
    estimates_logprobs: bool = False

    def prompt(self, number: int) -> list[int]:
        """Tokens that the hypotheses of a source start with: decoder prompt, prefix, forced BOS."""
        return [*self.decoder_prompts[number], *self.config.decoder_prefix, *self.forced]

    def lengths(self) -> Sequence[int]:
        """Positions of each source that the encoder reads."""
        return [len(source) for source in self.sources]
