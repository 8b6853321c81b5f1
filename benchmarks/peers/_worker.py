"""The side of a baseline: load a model, then generate once per source for every line on stdin.

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
    """The task of a baseline, JSON on its command line.

    Attributes:
        model: its folder.
        precision: of the weights, as its library names it.
        mode: as in its name (_names.py).
        device: ``cpu`` or ``cuda``.
        sources: token ids of each source, without an end token; all of one length.
        new_tokens: how many are generated per source; no token ends a sequence earlier.
        num_beams: 1 is greedy decoding.
        threads: those within an operator.
    """

    model: str
    precision: str
    mode: str | None
    device: str
    sources: tuple[tuple[int, ...], ...]
    new_tokens: int
    num_beams: int
    threads: int


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Loaded:
    """A model that is ready.

    Attributes:
        generate: one generation, encoder included, from the source of that number; gives the
            new tokens.
        versions: of the packages that matter, by name, and of a GPU its name.
        loaded_bytes: of the files that were opened.
        synchronize: returns when the device has done all its work; called before each time stamp.
        notes: what a reader of the times should know.
    """

    generate: Callable[[int], list[int]]
    versions: Mapping[str, str]
    loaded_bytes: int
    synchronize: Callable[[], None] = _nothing
    notes: tuple[str, ...] = ()


def serve(load: Callable[[Task], Loaded]) -> None:
    """Answer the driver until it closes our stdin: one line of JSON for each of its lines."""
    # The driver stops idle baselines: one that outlived a killed driver would never end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Libraries print on stdout; what they say goes to stderr instead.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        task = Task(**json.loads(sys.argv[1]))
        loaded = load(task)
        facts = {
            "versions": dict(loaded.versions),
            "loaded_bytes": loaded.loaded_bytes,
            "notes": loaded.notes,
        }
        _answer(answers, facts)
        numbers = range(len(task.sources))
        for _ in sys.stdin:
            loaded.synchronize()
            start = time.perf_counter()
            tokens = [loaded.generate(number) for number in numbers]
            loaded.synchronize()
            milliseconds = 1e3 * (time.perf_counter() - start) / len(tokens)
            _answer(answers, {"milliseconds": milliseconds, "tokens": tokens})


def _answer(stream: Any, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=stream, flush=True)
