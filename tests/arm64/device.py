"""Runs on both machines: generate from bundles with the installed runtime, keep what came out.

    python device.py JOB.json RESULT

JOB is ``{name: {"bundle": folder, "texts": [...] or "input_ids": [[...], ...]}}``, sources
unpadded. RESULT.json gets times, tokens and scores, RESULT.npz by name the logits of every step of
greedy decoding, of one source at a time: where inputs are rounded to 8 bits by one scale for all
of a step, a rounding of one source moves those that run beside it.
"""

from __future__ import annotations

import ctypes
import json
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

_START = time.perf_counter()

import numpy as np  # noqa: E402 - the imports are timed
import onnxruntime  # noqa: E402, F401
from numpy.typing import NDArray  # noqa: E402

from seq2edge.runtime import Seq2SeqModel  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - _START

MAX_NEW_TOKENS = 32
NUM_BEAMS = 4

#: What matters for integer arithmetic: (entry of the auxiliary vector, bit) of Linux' hwcap.h
#: for arm64 (arch/arm64/include/uapi/asm/hwcap.h). ONNX Runtime asks the same words.
_AT_HWCAP, _AT_HWCAP2 = 16, 26
FEATURES = {
    "dotprod": (_AT_HWCAP, 20),
    "fp16": (_AT_HWCAP, 10),
    "sve": (_AT_HWCAP, 22),
    "i8mm": (_AT_HWCAP2, 13),
    "bf16": (_AT_HWCAP2, 14),
    "sme": (_AT_HWCAP2, 23),
}


def cpu_features() -> list[str]:
    """The names in FEATURES that this processor has; none on another architecture."""
    if platform.machine() != "aarch64":
        return []
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return [name for name, (word, bit) in FEATURES.items() if getauxval(word) >> bit & 1]


class Recorder:
    """Keeps the logits of greedy steps and changes none of them.

    A logits processor of one source after the other, ``source``.
    """

    def __init__(self, sources: int, steps: int, vocab_size: int) -> None:
        #: [sources, steps, V] float32; NaN where a source had ended.
        self.logits = np.full((sources, steps, vocab_size), np.nan, np.float32)
        self.source = 0

    def process(
        self, tokens: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        self.logits[self.source, tokens.shape[1] - 1] = scores[0]
        return scores


def padded(rows: list[list[int]], pad: int) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and mask [sources, longest]."""
    longest = max(map(len, rows))
    ids = [[*row, *[pad] * (longest - len(row))] for row in rows]
    return ids, [[1] * len(row) + [0] * (longest - len(row)) for row in rows]


def run(case: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """What came out of one case, and the logits of its greedy steps."""
    start = time.perf_counter()
    with Seq2SeqModel.load(case["bundle"], num_threads=1) as model:
        load_seconds = time.perf_counter() - start
        sources = model.tokenize(case["texts"]) if "texts" in case else case["input_ids"]
        batch = padded(sources, model.manifest.special_tokens.pad)
        greedy = replace(model.generation_config, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
        recorder = Recorder(len(sources), MAX_NEW_TOKENS, model.manifest.dimensions.vocab_size)
        recorded = replace(greedy, logits_processors=(recorder.process,))
        wide = replace(greedy, num_beams=NUM_BEAMS, num_return_sequences=NUM_BEAMS)
        found = []
        for recorder.source, source in enumerate(sources):
            (alone,) = model.generate_ids([source], None, greedy)
            if model.generate_ids([source], None, recorded) != [alone]:
                raise SystemExit(f"{case['bundle']}: reading the logits changed greedy decoding")
            found.append(alone)
        beams = model.generate_ids(*batch, wide)
        start = time.perf_counter()
        together = model.generate_ids(*batch, greedy)  # warm by now
        seconds = time.perf_counter() - start
        exact = not model.manifest.quantization
    tokens = [one.token_ids for one in found]
    if exact and [one.token_ids for one in together] != tokens:
        raise SystemExit(f"{case['bundle']}: a batch changed greedy decoding")
    result = {
        "load_s": load_seconds,
        "step_s": seconds / max(len(one.token_ids) for one in together),
        "sources": sources,
        "texts": [one.text for one in found],
        "greedy": tokens,
        "beams": [
            [(one.token_ids, one.score) for one in beams if one.source == source]
            for source in range(len(sources))
        ],
    }
    return result, recorder.logits


def main(job: Path, result: Path) -> None:
    cases = json.loads(job.read_text())
    done = {name: run(case) for name, case in cases.items()}
    logits: dict[str, Any] = {name: logits for name, (_, logits) in done.items()}
    np.savez(result.with_suffix(".npz"), **logits)
    report = {
        "features": cpu_features(),
        "import_s": IMPORT_SECONDS,
        "cases": {name: outcome for name, (outcome, _) in done.items()},
    }
    result.with_suffix(".json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
