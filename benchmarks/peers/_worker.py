"""The side of a contender: load a model, then generate once for every line on stdin.

Runs in the interpreter of each peer, so it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Task:
    """What a contender is told on its command line, as JSON.

    Attributes:
        model: its folder.
        precision: of the weights: ``float32``, ``int8`` or ``int4``.
        source: token ids of the one sequence, without an end token.
        new_tokens: how many are generated; no token ends a sequence earlier.
        num_beams: 1 is greedy decoding.
        threads: those within an operator.
    """

    model: str
    precision: str
    source: tuple[int, ...]
    new_tokens: int
    num_beams: int
    threads: int


@dataclass(frozen=True)
class Loaded:
    """A model that is ready.

    Attributes:
        generate: one generation, encoder included; gives the new tokens.
        versions: of the packages that matter, by name.
        loaded_bytes: of the files that were opened.
    """

    generate: Callable[[], list[int]]
    versions: Mapping[str, str]
    loaded_bytes: int


def serve(load: Callable[[Task], Loaded]) -> None:
    """Answer the driver until it closes our stdin: one line of JSON for each of its lines."""
    # The driver stops idle contenders: one that outlived a killed driver would never end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Libraries print on stdout; what they say goes to stderr instead.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        loaded = load(Task(**json.loads(sys.argv[1])))
        _answer(
            answers,
            {"versions": dict(loaded.versions), "loaded_bytes": loaded.loaded_bytes},
        )
        for _ in sys.stdin:
            start = time.perf_counter()
            tokens = loaded.generate()
            milliseconds = 1e3 * (time.perf_counter() - start)
            _answer(answers, {"milliseconds": milliseconds, "tokens": tokens})


def _answer(stream: Any, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=stream, flush=True)
