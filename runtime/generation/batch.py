"""What the decoding strategies share: the batch, its options, its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..backends import Backend, EncoderOutput, SlotCache, slot_backend
from ..backends.base import Ids, concat_backend
from ..bundle.manifest import Manifest
from ..errors import InputError
from ..kv_cache import KVCache
from ..kv_cache.capacity import first_capacity
from ..kv_cache.concat import ConcatKVCache
from ..kv_cache.slots import PromptLogits, SlotKVCache
from .config import GenerationConfig
from .engine_limits import steps_after
from .logits_processors import Processors
from .prepared import PreparedCall
from .stopping import StoppingRule

#: The decoder graph computes logits of every token of a prompt: 64 MB of them at once at most.
_MOST_LOGITS, _LEAST_QUERIES = 1 << 24, 16


@dataclass
class Hypothesis:
    """One generated sequence: tokens after the decoder start token, the end token included.

    Without an encoder, tokens after the source.

    ``score`` is the log-probability, for beam search divided by length ** length_penalty;
    ``finish_reason`` is None while the sequence grows. ``logprob``, where the call asks for it, is
    the sum of the tokens' log-probabilities among all that the processors allow, at temperature 1;
    ``is_estimated``: that probability which the steps did not look at is only estimated in it.
    """

    token_ids: list[int]
    score: float = 0.0
    finish_reason: str | None = None
    logprob: float = 0.0
    is_estimated: bool = False


#: ``results[source]`` holds the sequences of one source, the best or first one first.
Results = list[list[Hypothesis]]


@dataclass(frozen=True)
class GenerationBatch:
    """One batch of a call; nothing has run but the encoder.

    Attributes:
        call: what all batches of the call have in common.
        backend, encoded: the encoder's output for the sources, and what decodes it.
        sources: their token ids without padding.
        lead: [B, L], what is before each source's results, filled up on the left.
        prompts: tokens that the hypotheses of each source start with.
        stopping: ends sequences.
        processors: edit the scores.
        draft_encoded: the same sources for the draft model; None: there is none.
        prompt_logits: takes logits of the decoder prompts; None: nobody wants them.
    """

    call: PreparedCall
    backend: Backend
    encoded: EncoderOutput
    sources: Sequence[Sequence[int]]
    decoder_prompt: Ids
    prompts: list[list[int]]
    stopping: StoppingRule
    processors: Processors
    draft_encoded: EncoderOutput | None = None
    prompt_logits: PromptLogits | None = None

    @property
    def manifest(self) -> Manifest:
        return self.call.manifest

    @property
    def config(self) -> GenerationConfig:
        return self.call.config

    @property
    def new_tokens(self) -> int:
        return self.call.new_tokens

    @property
    def forced(self) -> tuple[int, ...]:
        return self.call.forced

    @property
    def batch_size(self) -> int:
        return self.encoded.batch_size

    @property
    def vocab_size(self) -> int:
        return self.manifest.dimensions.vocab_size

    @property
    def suppresses_as_the_model(self) -> bool:
        """Whether what the bundle's own options never let come does not come in this call either.

        What proposes the most probable tokens leaves those out.
        """
        own = self.manifest.generation.get("suppress_tokens") or ()
        return set(own) <= set(self.config.suppress_tokens or ())

    def forces_end(self, remaining: int) -> int | None:
        """The forced end token, if the next place is the last one and only one is forced."""
        end = self.config.forced_eos_token_id
        return end if remaining == 1 and isinstance(end, int) else None

    @property
    def max_num_tokens(self) -> int:
        """Tokens of a sequence to run at once: what the backend can, and logits fit in memory."""
        limits = self.backend.capabilities.limits
        if limits is not None:
            return limits.max_num_tokens
        return max(_LEAST_QUERIES, _MOST_LOGITS // (self.batch_size * self.vocab_size))

    def new_cache(
        self,
        width: int,
        *,
        logits: bool,
        logsumexp: bool = False,
        only_best: bool = False,
        num_best: int | None = None,
    ) -> KVCache:
        """Run the prompts, with ``width`` hypotheses per source to follow them.

        ``only_best``: see :class:`.SlotKVCache`. ``num_best``: so many logits are enough; there may
        be those of all tokens.
        """
        backend, capabilities = self.backend, self.backend.capabilities
        concat = concat_backend(backend)
        if concat is not None:
            return ConcatKVCache(
                concat.new_cache(self.encoded),
                self.batch_size,
                self.prompts[0],
                width=width,
                logits=logits,
                logsumexp=logsumexp,
            )
        no_prompt_logits = self.prompt_logits is None
        longest = max(map(len, self.prompts))
        slots = longest + width * steps_after(self.new_tokens, len(self.forced))
        return SlotKVCache(
            self.new_slots(slots),
            self.prompts,
            width=width,
            max_slots=slots,
            vocab_size=self.vocab_size if logits else None,
            logsumexp=logsumexp,
            max_num_tokens=self.max_num_tokens,
            capabilities=capabilities,
            prompt_logits=self.prompt_logits,
            only_best=only_best,
            num_best=num_best if capabilities.finds_best_tokens and no_prompt_logits else None,
        )

    def new_slots(self, max_slots: int) -> SlotCache:
        """An empty cache of slots with room for the prompts; it may grow to ``max_slots``."""
        first = first_capacity(max_slots, max(map(len, self.prompts)))
        return slot_backend(self.backend).new_cache(self.encoded, first)

    def no_continuation(self, tokens: Sequence[int]) -> InputError:
        """The error for options that forbid every token."""
        shown = [int(token) for token in tokens]
        return InputError(
            f"no token may follow {shown}: prefix_allowed_tokens, logits_processors,"
            " suppress_tokens and the like together forbid all of them"
        )


def selection(unfinished: Sequence[bool]) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    """Which sources to go on with, once half of them are done; None: all, for now.

    Leaving costs a copy of what stays, so it waits until it halves the work.
    """
    left = sum(unfinished)
    if not 0 < 2 * left <= len(unfinished):
        return None
    return np.flatnonzero(unfinished)
