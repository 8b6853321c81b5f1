"""Time of batch 1 greedy generation: variants in turns, each in a fresh process (:mod:`..driver`).

In turns, because a machine's clock rate and its other work change within seconds: what slows one
variant's texts down then slows down the others', too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seq2edge.runtime import GenerationConfig
from seq2edge.runtime.progress import CountProgress

from ..driver import Baseline, alternate
from ..report.machine import cores_for
from .data import Example
from .recordings import Recording
from .settings import Settings

#: Rounds before the first that counts. Texts differ, so that steady times cannot be waited for.
_WARMUP = 6
_WORKER = Path(__file__).resolve().parents[1] / "workers" / "compare_worker.py"


@dataclass(frozen=True)
class SpeechTiming:
    """Parts of the time of one recording, of its first window."""

    encoder_ms: float
    token_ms: float


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one answer, and its tokens."""

    milliseconds: float
    tokens: int
    speech: SpeechTiming | None = None


@dataclass(frozen=True)
class SpeechSpeed:
    """Of one variant, over recordings.

    Attributes:
        encoder_ms: of the encoder's run over a window; median.
        token_ms: decoding of the first window (its prompt included), by token; median.
        real_time_factor: time of all recordings, by the seconds that they last.
    """

    encoder_ms: float
    token_ms: float
    real_time_factor: float


@dataclass(frozen=True)
class Speed:
    """Of one variant.

    Attributes:
        milliseconds: per text (or recording), tokenizing (or reading and features) and encoder
            included; median over the texts.
        ratio: of ``milliseconds`` to the reference's.
        tokens: generated per text, mean. Where it differs from the reference's, part of the
            ratio is longer or shorter texts rather than faster steps.
        speech: of recordings; None: texts.
        samples: milliseconds of each text.
    """

    milliseconds: float
    ratio: float
    tokens: float
    speech: SpeechSpeed | None = None
    samples: tuple[float, ...] = ()


def greedy(config: GenerationConfig) -> GenerationConfig:
    """``config`` without search, sampling or drafts."""
    return replace(config, num_beams=1, do_sample=False, prompt_lookup_num_tokens=None)


def measure_speeds(
    paths: Sequence[str | os.PathLike[str]],
    examples: Sequence[Example],
    settings: Settings,
    progress: CountProgress | None = None,
) -> list[Speed]:
    """Time each example on each bundle, the first of which is the reference.

    A round is one example on all of them, in an order that is drawn anew. Before the first round
    that counts, each bundle runs the first example six times.

    Raises:
        InputError, BundleError, BackendError: as :meth:`Seq2SeqModel.generate`.
    """
    told = [_told(example) for example in examples]
    baselines = {
        f"variant {number} ({os.fspath(path)})": Baseline(
            (
                sys.executable,
                str(_WORKER),
                json.dumps(
                    {
                        "path": os.fspath(path),
                        "settings": asdict(settings),
                        "examples": told,
                        "warmup": _WARMUP,
                    }
                ),
            ),
            cores=cores_for(settings.threads),
        )
        for number, path in enumerate(paths)
    }
    results = alternate(baselines, rounds=len(examples), warmup=_WARMUP, progress=progress)
    times = [result.milliseconds for result in results.values()]
    medians = [float(np.median(one["all"])) for one in times]
    return [
        Speed(
            median,
            median / medians[0],
            float(np.mean(one["tokens"])),
            _of_speech(one, examples),
            tuple(one["all"]),
        )
        for median, one in zip(medians, times, strict=True)
    ]


def _told(example: Example) -> dict[str, Any]:
    """An example as workers/compare_worker.py reads it."""
    told: dict[str, Any] = {"source": example.source}
    if isinstance(example, Recording):
        told |= {"path": os.fspath(example.path), "seconds": example.seconds}
    return told


def _of_speech(
    times: Mapping[str, Sequence[float]], examples: Sequence[Example]
) -> SpeechSpeed | None:
    recordings = [example for example in examples if isinstance(example, Recording)]
    if not recordings:
        return None
    return SpeechSpeed(
        float(np.median(times["encoder"])),
        float(np.median(times["token"])),
        sum(times["all"]) / 1e3 / sum(recording.seconds for recording in recordings),
    )
