"""Many threads, one model, mixed calls: every answer as alone, memory flat.

``python tests/soak/soak.py BUNDLE --threads 8 --calls 10000`` lets each thread make so many calls:
greedy decoding, batches, beams, sampling with a seed, streams, streams that are left early, prompt
lookup, constraints, wrong calls. Each answer is compared with the one that the model gave before
the threads began. Memory is read at a fifth of all calls and at the end. Exit code 1: an answer
differs, a call fails, or memory has grown by more than ``--growth`` MB in between.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seq2edge.runtime import Choices, InputError, Seq2SeqModel

_WORDS = ("gateway", "raspberry", "hello", "keyboard", "a", "humanoid", "february", "x" * 40)
Call = Callable[[Seq2SeqModel], Any]


def calls() -> list[Call]:
    """All kinds of calls; what each gives is the same every time."""

    def generate(texts: list[str], **options: Any) -> Call:
        def call(model: Seq2SeqModel) -> Any:
            found = model.generate(texts, **options)
            return [(one.text, list(one.token_ids), one.finish_reason, one.score) for one in found]

        return call

    def stream(text: str, pieces: int | None = None) -> Call:
        def call(model: Seq2SeqModel) -> Any:
            found = []
            opened = model.stream(text)
            for piece in opened:
                found.append(piece)
                if len(found) == pieces:
                    break
            opened.close()
            return found

        return call

    def wrong(model: Seq2SeqModel) -> Any:
        try:
            model.generate("", num_beams=2)
        except InputError as error:
            return str(error)
        return None

    made: list[Call] = [wrong]
    for number, word in enumerate(_WORDS):
        after = _WORDS[(number + 3) % len(_WORDS)]
        made += [
            generate([word]),
            generate([word, after, "short"][: 1 + number % 3], batch_size=2),
            generate([word], num_beams=3, num_return_sequences=2),
            generate([word], do_sample=True, seed=number, temperature=1.3, top_k=9),
            generate([word, after], prompt_lookup_num_tokens=3),
            generate([word], constraint=Choices(("G EY T", "HH AH L OW"))),
            generate([word], no_repeat_ngram_size=2, repetition_penalty=1.2, max_new_tokens=12),
            stream(word),
            stream(after, pieces=1 + number % 3),
        ]
    return made


def resident() -> int:
    """Bytes that this process holds, when all that can be freed is."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def soak(bundle: Path, threads: int, count: int) -> dict[str, Any]:
    """Run it; what was found, and what was held in memory."""
    problems: list[str] = []
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        kinds = calls()
        expected = [call(model) for call in kinds]
        measured = threading.Barrier(threads + 1)
        memory: list[int] = []

        def run(thread: int) -> None:
            rnd = random.Random(thread)
            for number in range(count):
                if number == count // 5:
                    measured.wait()  # all stand still while memory is read
                    measured.wait()
                which = rnd.randrange(len(kinds))
                try:
                    found = kinds[which](model)
                except Exception as error:
                    problems.append(f"call {which}: {type(error).__name__}: {error}")
                else:
                    if found != expected[which]:
                        problems.append(f"call {which}: {found}, and alone {expected[which]}")

        workers = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
        started = time.monotonic()
        for worker in workers:
            worker.start()
        measured.wait()
        memory.append(resident())
        measured.wait()
        for worker in workers:
            worker.join()
        memory.append(resident())
    return {
        "calls": threads * count,
        "kinds": len(kinds),
        "seconds": round(time.monotonic() - started, 1),
        "problems": problems[:20],
        "wrong": len(problems),
        "memory_mb": [round(size / 2**20, 1) for size in memory],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=10_000, help="of each thread")
    parser.add_argument("--growth", type=float, default=8.0, help="MB that memory may grow by")
    options = parser.parse_args()
    found = soak(options.bundle, options.threads, options.calls)
    print(json.dumps(found))
    first, last = found["memory_mb"]
    return int(found["wrong"] > 0 or last - first > options.growth)


if __name__ == "__main__":
    sys.exit(main())
