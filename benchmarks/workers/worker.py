"""The side of a process that is timed: load a model, then generate for every line on stdin.

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
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # prctl(2)
#: Seconds. Work that takes less is done once for nothing in each turn: the process was stopped, and
#: others have filled the caches.
SHORT = 0.1


@dataclass(frozen=True)
class Task:
    """The task of a baseline, JSON on its command line.

    Attributes:
        model: its folder.
        precision: of the weights, as its library names it.
        mode: as in its name (peers/names.py).
        device: ``cpu`` or ``cuda``.
        sources: token ids of each source, without an end token; all of one length.
        new_tokens: how many are generated per source; no token ends a sequence earlier.
        num_beams: 1 is greedy decoding.
        threads: those within an operator.
        audio: of speech, in place of ``sources``: files of 30 s of samples each, 16 kHz float32, as
            numpy saves them. What is generated is text, in UTF-8.
    """

    model: str
    precision: str
    mode: str | None
    device: str
    sources: tuple[tuple[int, ...], ...]
    new_tokens: int
    num_beams: int
    threads: int
    audio: tuple[str, ...] = ()


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


#: One round: milliseconds by what was timed, and the new tokens of each source.
Turn = Callable[[], tuple[dict[str, float], list[list[int]]]]
#: What is said once the model is loaded, and the rounds.
Ready = tuple[dict[str, Any], Turn]


def serve(load: Callable[[Task], Loaded]) -> None:
    """Answer the driver until it closes our stdin: one line of JSON for each of its lines."""
    answer_turns(lambda text: _ready(load, Task(**json.loads(text))))


def answer_turns(start: Callable[[str], Ready], *, repeats: bool = True) -> None:
    """The same for a process that times by itself; ``start`` is given its task's JSON.

    ``repeats`` False: a turn that takes less than ``SHORT`` does its work twice by itself.
    """
    # The driver stops idle processes: one that outlived a killed driver would never end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Libraries print on stdout; what they say goes to stderr instead.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        begun = time.perf_counter()
        try:
            facts, turn = start(sys.argv[1])
            load_ms = 1e3 * (time.perf_counter() - begun)
            _answer(answers, {"load_ms": load_ms, **facts})
            for _ in sys.stdin:
                begun = time.perf_counter()
                milliseconds, tokens = turn()
                if repeats and time.perf_counter() - begun < SHORT:
                    milliseconds, tokens = turn()
                answer = {"milliseconds": milliseconds, "tokens": tokens}
                _answer(answers, {**answer, "peak_bytes": _peak_bytes()})
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            if "Seq2EdgeError" not in kinds:  # any other is for stderr
                raise
            _answer(answers, {"error": [kinds, str(error)]})


def _ready(load: Callable[[Task], Loaded], task: Task) -> Ready:
    loaded = load(task)

    def turn() -> tuple[dict[str, float], list[list[int]]]:
        loaded.synchronize()
        start = time.perf_counter()
        tokens = [loaded.generate(number) for number in range(len(task.audio or task.sources))]
        loaded.synchronize()
        milliseconds = 1e3 * (time.perf_counter() - start) / len(tokens)
        return {"all": milliseconds}, tokens

    facts = {
        "versions": dict(loaded.versions),
        "loaded_bytes": loaded.loaded_bytes,
        "notes": loaded.notes,
    }
    return facts, turn


def _peak_bytes() -> int | None:
    """The most that was resident at once (VmHWM of proc(5), in kB)."""
    with Path("/proc/self/status").open() as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None


def _answer(stream: Any, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=stream, flush=True)
