"""A variant that is timed on examples, in a process of its own: ``seq2edge compare``."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq2edge.benchmarks.quality.data import Example
    from seq2edge.benchmarks.workers.worker import SHORT, Ready, answer_turns
else:
    from worker import SHORT, Ready, answer_turns


def start(stack: ExitStack, task: str) -> Ready:
    """``stack`` closes the model."""
    from seq2edge.benchmarks.fixed_length import engine_version
    from seq2edge.benchmarks.quality.settings import Settings
    from seq2edge.benchmarks.quality.subjects import open_subject
    from seq2edge.runtime import Bundle
    from seq2edge.runtime.bundle.version import package_version

    given = json.loads(task)
    bundle = Bundle.open(given["path"])
    subject = stack.enter_context(open_subject(bundle, Settings(**given["settings"])))
    examples = [_example(one) for one in given["examples"]]
    done = 0

    def turn() -> tuple[dict[str, float], list[list[int]]]:
        """The first example while it warms up, then one after the other."""
        nonlocal done
        example = examples[max(0, done - given["warmup"])]
        done += 1
        begun = time.perf_counter()
        found = subject.timed(example)
        if time.perf_counter() - begun < SHORT:
            found = subject.timed(example)
        times: dict[str, float] = {"all": found.milliseconds}
        if found.speech is not None:
            times |= {"encoder": found.speech.encoder_ms, "token": found.speech.token_ms}
        times["tokens"] = found.tokens
        return times, []

    facts = {
        "versions": {"seq2edge": package_version(), "onnxruntime": engine_version("onnxruntime")},
        "loaded_bytes": sum(file.size for file in bundle.manifest.files.values()),
        "threads": subject.backend.num_threads,
    }
    return facts, turn


def _example(given: dict[str, Any]) -> Example:
    """What quality/speed.py wrote of it."""
    from seq2edge.benchmarks.quality.data import Example
    from seq2edge.benchmarks.quality.recordings import Recording

    if "path" in given:
        path, seconds = Path(given["path"]), float(given["seconds"])
        return Recording(given["source"], (), path=path, seconds=seconds)
    return Example(given["source"], ())


if __name__ == "__main__":
    with ExitStack() as stack:
        answer_turns(partial(start, stack), repeats=False)
