"""The normalizer of a step's logits, by a graph of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..step import Step
from .encoded import bind_array
from .session import bound_run


def normalizer(session: Any, step: Step, logits: NDArray[np.float32]) -> Callable[[], None] | None:
    """A function that fills the step's ``logsumexp`` from ``logits`` [B, K, V], if it has one.

    It takes a source at a time: what it makes on the way, as large as their logits, stays in
    the processor's own cache (16 sources of 4 beams: 1.6 ms for 2.7).

    Args:
        session: of the graph; None: the bundle has none.
    """
    if session is None or step.logsumexp is None:
        return None
    runs = []
    for row in range(len(logits)):
        binding = session.io_binding()
        bind_array(binding.bind_input, "logits", logits[row : row + 1])
        bind_array(binding.bind_output, "logsumexp", step.logsumexp[row : row + 1])
        runs.append(bound_run(session, binding))

    def normalize() -> None:
        for run in runs:
            run()

    return normalize
