"""Steps that are run in parts: attention over int8 keys and values takes no others.

ONNX Runtime's ``GroupQueryAttention`` (1.32) refuses several tokens of several sources there, and
more tokens of a source than it has positions. Up to eight of several sources are made attention
heads of one in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..base import Step

Run = Callable[[], None]


def in_rows(step: Step, bind: Sequence[Callable[[Step], Run]]) -> Run:
    """A function that runs the rows of ``step`` one after the other, each bound by its own."""
    # What is bound may bind more when it is run, by the cache of its row: both are kept.
    runs = [(bind_row(step.rows(row)), bind_row) for row, bind_row in enumerate(bind)]

    def run_rows() -> None:
        for run, _ in runs:
            run()

    return run_rows


def in_tokens(step: Step, most: Callable[[], int], bind: Callable[[Step], Run]) -> Run:
    """A function that runs ``step``, of one source, as many tokens at once as can be.

    Args:
        step: of one source.
        most: how many tokens can be run at once now; the source of a row may be replaced.
        bind: binds some of the tokens.
    """
    queries = step.input_ids.shape[1]
    bound: dict[int, list[tuple[int, Step, Run]]] = {}

    def run_parts() -> None:
        width = min(queries, most())
        if width not in bound:
            parts = [
                (first, step.tokens(first, min(width, queries - first)))
                for first in range(0, queries, width)
            ]
            bound[width] = [(first, part, bind(part)) for first, part in parts]
        for first, part, run in bound[width]:
            np.add(step.write_indices, first, out=part.write_indices)
            run()

    return run_parts
