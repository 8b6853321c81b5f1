"""What decoding asks of an inference engine: one encoder run, then tree steps.

The decoder graph is a *tree step* (docs/design.md, section 3): the caller says which tokens
to run, where they stand, which cache slots they may see and where to write. An engine owns
the weights; a :class:`Decoder` owns one call's cache; a :class:`Step` owns the small host
arrays of one shape of step, bound once and updated in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .limits import Limits

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass
class Step:
    """Host arrays of a tree step of Q tokens for each of B sequences over T cache slots.

    Attributes:
        input_ids: [B, Q] int64, the tokens to run.
        position_ids: [B, Q] int64, their logical positions (the decoder start token is 0).
        attention_mask: [B, 1, Q, T] bool, the slots that each token may see, its own included.
        write_indices: [B] int64, the first of the Q slots that are written.
        next_token_ids: [B, Q] int64, filled by the run with the most probable next tokens. It is
            ``input_ids`` itself where a step feeds the following one (greedy decoding).
        logits: [B, Q, V] float32, filled by the run, or None if they are not needed.
        logsumexp: [B, Q] float32, log(sum(exp(logits))), filled by the run of a decoder
            that ``normalizes``, or None if it is not needed.
    """

    input_ids: Ids
    position_ids: Ids
    attention_mask: Mask
    write_indices: Ids
    next_token_ids: Ids
    logits: NDArray[np.float32] | None
    logsumexp: NDArray[np.float32] | None = None

    @classmethod
    def allocate(
        cls,
        batch_size: int,
        num_tokens: int,
        capacity: int,
        *,
        feed_back: bool = False,
        vocab_size: int | None = None,
        normalizer: bool = False,
    ) -> Step:
        """Zeroed arrays; ``vocab_size`` asks for logits, ``feed_back`` aliases ids."""
        input_ids = np.zeros((batch_size, num_tokens), np.int64)
        return cls(
            input_ids=input_ids,
            position_ids=np.zeros((batch_size, num_tokens), np.int64),
            attention_mask=np.zeros((batch_size, 1, num_tokens, capacity), np.bool_),
            write_indices=np.zeros((batch_size,), np.int64),
            next_token_ids=input_ids if feed_back else np.zeros((batch_size, num_tokens), np.int64),
            logits=None
            if vocab_size is None
            else np.zeros((batch_size, num_tokens, vocab_size), np.float32),
            logsumexp=np.zeros((batch_size, num_tokens), np.float32) if normalizer else None,
        )

    def outputs(self) -> list[NDArray[Any]]:
        """What runs fill."""
        optional = (self.logits, self.logsumexp)
        return [self.next_token_ids, *(array for array in optional if array is not None)]


class EncoderOutput(Protocol):
    """Cross-attention keys and values of a batch of sources, held by the engine."""

    @property
    def batch_size(self) -> int: ...


class Decoder(Protocol):
    """One call's decoder state. Not for use by two threads at once."""

    #: [B, T] int64, the logical position that each cache slot holds; 0, 1, 2 ... at first.
    #: Written by the caller, and read by every step.
    cache_position_ids: Ids

    @property
    def normalizes(self) -> bool:
        """Whether steps fill ``logsumexp``."""
        ...

    @property
    def capacity(self) -> int:
        """T, the number of cache slots."""
        ...

    def grow(self, capacity: int) -> None:
        """More slots; what is cached stays. Steps bound before must be bound anew."""
        ...

    def compact(self, slots: Ids) -> None:
        """Move what ``slots`` [B, n] hold to slots 0..n-1, cache and positions alike.

        What the others held is lost; steps stay bound.
        """
        ...

    def select_batch(self, rows: Ids) -> None:
        """Go on with these rows of the batch only. Steps bound before must be bound anew."""
        ...

    def bind(self, step: Step) -> Callable[[], None]:
        """A function that runs ``step`` with the arrays' contents at that moment."""
        ...


class ChainingDecoder(Decoder, Protocol):
    """A decoder on a device of its own, which runs several greedy steps without the host."""

    @property
    def ahead(self) -> int:
        """The most steps at once."""
        ...

    def bind_chain(self, step: Step) -> Callable[[int], Ids]:
        """A function that runs ``step``, of one token a source, so many times in a row.

        Each run's tokens are the next one's, one position and one slot further on, for all
        sources alike. It returns the tokens, [count, B] int64; ``step.next_token_ids`` holds the
        last ones, and what else the step holds is as it was.
        """
        ...


def makes_chains(decoder: Decoder) -> TypeGuard[ChainingDecoder]:
    """Whether it is a :class:`ChainingDecoder`.

    Not ``isinstance``: before Python 3.12 a protocol takes 25 us a question, as long as a step
    of a tiny model.
    """
    return hasattr(decoder, "bind_chain")


class CacheRows(Protocol):
    """One call's decoder whose cache grows: each hypothesis is a row of the batch.

    Not for use by two threads at once.
    """

    def run(self, tokens: Ids) -> NDArray[np.float32]:
        """Append ``tokens`` [R, Q] to the R rows: logits [R, V] after the last of them.

        The first call takes the prompt, the others one token a row. The logits are the caller's.
        """
        ...

    def select(self, rows: Ids) -> None:
        """Go on with these rows, in this order; each may be there any number of times."""
        ...

    def reorder(self, rows: Ids) -> None:
        """:meth:`select`, where each row takes the place of one of the same source."""
        ...


class Backend(Protocol):
    """A loaded bundle. One engine may serve several threads."""

    @property
    def num_threads(self) -> int | None:
        """Threads that an operator may use; None where the library chooses."""
        ...

    @property
    def limits(self) -> Limits | None:
        """The largest shapes that it takes; None: any."""
        ...

    def encode(self, input_ids: Ids, attention_mask: Mask) -> EncoderOutput:
        """Run the encoder on [B, S] int64 ids and a [B, S] bool mask (False is padding)."""
        ...

    def decoder(self, source: EncoderOutput, capacity: int) -> Decoder:
        """A fresh decoder over ``source`` with ``capacity`` cache slots."""
        ...

    def close(self) -> None: ...


class ConcatBackend(Backend, Protocol):
    """An engine for graphs without tree steps; its ``decoder`` refuses, ``rows`` decodes."""

    def rows(self, source: EncoderOutput) -> CacheRows:
        """A fresh decoder over ``source``, a row for each of its sources."""
        ...


def has_rows(backend: Backend) -> TypeGuard[ConcatBackend]:
    """Whether it is a :class:`ConcatBackend`; see :func:`makes_chains`."""
    return hasattr(backend, "rows")
