"""The outputs of a decoder whose head has two stages (``quantize/passes/cpu_lowering``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...bundle.manifest import GraphInfo
from ..step import Proposals, Step
from .encoded import bind_array
from .session import bound_run

#: What such a head gives beside its logits.
_PROPOSED = frozenset({"candidates", "unscored_logsumexp"})
#: Tokens that it proposes.
PROPOSALS = 64
_FALSE = np.array(False)


class TwoStageHead:
    """How a step of one token of one source reads it.

    Args:
        info: of the decoder.
        vocab_size: V.

    Attributes:
        is_there: whether the decoder has one.
    """

    def __init__(self, info: GraphInfo, vocab_size: int) -> None:
        outputs = {spec.name: spec for spec in info.outputs}
        self.is_there = outputs.keys() >= _PROPOSED
        self._vocab_size = vocab_size
        last = outputs.get("last_logits")
        #: Tokens at the end of the vocabulary that it always scores.
        self._always_scored = 0 if last is None else int(last.shape[2])

    def bind(self, session: Any, binding: Any, step: Step) -> Callable[[], None]:
        """A function that runs ``step``; ``binding`` has the inputs but for ``full_logits``."""
        bind_array(binding.bind_input, "full_logits", _FALSE)
        token_ids = np.arange(self._vocab_size - self._always_scored - PROPOSALS, self._vocab_size)
        values = np.zeros(token_ids.shape, np.float32)
        unscored = np.zeros(1, np.float32)
        bind_array(binding.bind_output, "candidates", token_ids[None, None, :PROPOSALS])
        bind_array(binding.bind_output, "logits", values[None, None, :PROPOSALS])
        if self._always_scored:
            bind_array(binding.bind_output, "last_logits", values[None, None, PROPOSALS:])
        bind_array(binding.bind_output, "unscored_logsumexp", unscored[None])
        proposals = Proposals(token_ids, PROPOSALS, unscored)
        run = bound_run(session, binding)
        next_token_ids, logits = step.next_token_ids, step.logits
        dense = None if logits is None else logits[0, 0]

        def propose() -> None:
            run()
            step.proposals = proposals
            next_token_ids[0, 0] = token_ids[values.argmax()]
            if dense is not None:
                dense.fill(-np.inf)
                dense[token_ids] = values

        return propose
