"""What a decoder that was lowered for the CPU reads in place of a step's mask and slots.

The graph computes no lengths and no masks (``quantize/passes/cpu_lowering``): they are made here,
of the same :class:`Step` that every backend takes, in arrays that are bound once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Step
from .encoded import OrtEncoderOutput

#: Added to the score of a slot that may not be seen, as in the canonical graphs.
_MASKED_SCORE = np.float32(-3e4)


#: Tokens that a graph takes as attention heads of one, padded to the smaller or the larger number,
#: where it has the input (``quantize/passes/cpu_lowering/grouped_queries.py``).
QUERY_GROUPS = (4, 8)
_GROUPS_QUERIES = "group_queries"


def most_at_once(inputs: Collection[str]) -> int:
    """Tokens of several sources that a graph over their int8 keys and values takes, at most."""
    return QUERY_GROUPS[-1] if _GROUPS_QUERIES in inputs else 1


class LoweredInputs:
    """Arrays that follow from a step and its source; :meth:`update` takes the step's of now.

    Attributes:
        arrays: by the graph's names.
    """

    def __init__(self, step: Step, source: OrtEncoderOutput) -> None:
        batch, queries = step.input_ids.shape
        slots = step.attention_mask.shape[3]
        self._hidden = np.empty(step.attention_mask.shape, np.bool_)
        self._bias = np.zeros(step.attention_mask.shape, np.float32)
        self._seqlens = np.zeros(batch, np.int32)
        self._last = queries - 1
        self.arrays: dict[str, NDArray[Any]] = {
            "attention_bias": self._bias,
            "seqlens_k": self._seqlens,
            # The kernel reads the slots that seqlens_k says are filled, whatever this is.
            "total_sequence_length": np.array(slots, np.int32),
            "query_seqlens": np.full(batch, queries, np.int32),
            "first_scored": np.array([step.first_scored], np.int64),
        }
        self._source, self._version = source, source.version
        if source.quantized:
            self.arrays.update(_quantized_source(source, batch))
            self.arrays.update(_grouping(batch, queries))
        elif source.mask is not None:
            bias = np.zeros((batch, 1, queries, source.mask.shape[3]), np.float32)
            self.arrays["encoder_attention_bias"] = bias
        self._follow_source(batch)

    def update(self, step: Step) -> None:
        """Follow the step's mask and slots, and the source where it was replaced."""
        if self._source.version != self._version:
            self._version = self._source.version
            self._follow_source(len(step.input_ids))
        np.logical_not(step.attention_mask, out=self._hidden)
        np.multiply(self._hidden, _MASKED_SCORE, out=self._bias)
        self._seqlens[:] = step.write_indices  # np.add of two types takes 3 us longer
        self._seqlens += self._last

    def following(self, step: Step, run: Callable[[], None]) -> Callable[[int], None] | None:
        """What :meth:`.SlotCache.advance` does to ``step``; None: several tokens or sources.

        One slot is seen that was not: neither mask nor lengths are computed again. Elements are
        written through memoryviews, which takes a third of the time of an array's.
        """
        if step.input_ids.size != 1:
            return None
        mask, bias = _elements(step.attention_mask), _elements(self._bias)
        position, write_index = _elements(step.position_ids), _elements(step.write_indices)
        length = _elements(self._seqlens)

        def advance(slot: int) -> None:
            mask[slot], bias[slot] = True, 0.0
            position[0] = write_index[0] = length[0] = slot
            run()

        return advance

    def _follow_source(self, batch: int) -> None:
        mask = self._source.mask
        if mask is None:
            return
        if self._source.quantized:
            np.sum(mask[:batch, 0, 0], axis=1, out=self.arrays["source_seqlens_k"])
            self.arrays["source_seqlens_k"] -= 1
        else:
            bias = self.arrays["encoder_attention_bias"]
            bias[...] = np.where(mask[:batch], np.float32(0), _MASKED_SCORE)


def choosing(
    step: Step,
    logits: NDArray[np.float32],
    run: Callable[[], None],
    normalize: Callable[[], None] | None,
    bind_head: Callable[[], Callable[[], None]] | None,
) -> Callable[[], None]:
    """A function that runs ``step`` and chooses its next tokens, where nothing normalizes them.

    Args:
        step: as it is bound.
        logits: [B, K, V], which ``run`` fills.
        run: runs the graph with its whole head.
        normalize: fills the step's ``logsumexp``, where that is asked for.
        bind_head: makes what runs a head of two stages, where the step may use one.
    """
    propose: Callable[[], None] | None = None
    chosen = step.next_token_ids
    row = logits.reshape(-1) if chosen.size == 1 else None

    def run_and_choose() -> None:
        nonlocal propose
        if step.only_best and bind_head is not None:
            propose = propose or bind_head()
            propose()
            return
        run()
        step.proposals = None
        if normalize is not None:
            normalize()
        elif row is not None:  # a third of what argmax over an axis takes
            chosen.fill(row.argmax())
        else:
            logits.argmax(axis=-1, out=chosen)

    return run_and_choose


def _elements(array: NDArray[Any]) -> Any:
    """A memoryview of the elements of a contiguous array, one after the other."""
    return array.reshape(-1).data


def _quantized_source(source: OrtEncoderOutput, batch: int) -> dict[str, NDArray[Any]]:
    """Lengths of the sources, all of their positions, and no further key."""
    _, heads, positions, head_dim = source.outputs["cross_key.0"].shape
    return {
        "source_seqlens_k": np.full(batch, positions - 1, np.int32),
        "source_length": np.array(positions, np.int32),
        "no_key": np.zeros((batch, 0, heads * head_dim), np.float32),
    }


def _grouping(batch: int, queries: int) -> dict[str, NDArray[Any]]:
    """How the tokens of a step become attention heads of one, where they do.

    Those of a single source need not, and are faster as they are (five over 1500 positions: 0.7 ms
    for 1.0).
    """
    few, most = QUERY_GROUPS
    missing = max(0, (few if queries <= few else most) - queries)
    return {
        _GROUPS_QUERIES: np.array(batch > 1 and 1 < queries <= most),
        "many_queries": np.array(queries > few),
        "query_padding": np.array([0, 0, 0, 0, missing, 0], np.int64),
        "query_count": np.array([queries], np.int64),
    }
