"""Time of batch 1 greedy generation, variants in turns in one process.

In turns, because a machine's clock rate and its other work change within seconds: what slows one
variant's texts down then slows down the others', too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from seq2edge.runtime import GenerationConfig
from seq2edge.runtime.progress import CountProgress

from .data import Example


@dataclass(frozen=True)
class SpeechTiming:
    """Parts of the time of one recording, of its first window, and the seconds it lasts."""

    encoder_ms: float
    token_ms: float
    seconds: float


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


class Timed(Protocol):
    """What can be timed, such as a :class:`.Subject`."""

    def timed(self, example: Example) -> Timing: ...


def greedy(config: GenerationConfig) -> GenerationConfig:
    """``config`` without search, sampling or drafts."""
    return replace(config, num_beams=1, do_sample=False, prompt_lookup_num_tokens=None)


def measure_speeds(
    subjects: Sequence[Timed],
    examples: Sequence[Example],
    progress: CountProgress | None = None,
) -> list[Speed]:
    """Time each example on each of ``subjects``, the first of which is the reference.

    Before the first time counts, each one runs the first example once. The order of the
    subjects is drawn anew for each example, so that none always follows the same one (whose
    threads may still spin, and whose weights fill the caches).

    Raises:
        InputError, BackendError: as :meth:`Seq2SeqModel.generate`.
    """
    for subject in subjects:
        subject.timed(examples[0])
    timings: list[list[Timing]] = [[] for _ in subjects]
    random = np.random.default_rng(0)
    for row, example in enumerate(examples):
        for index in random.permutation(len(subjects)):
            timings[index].append(subjects[index].timed(example))
        if progress is not None:
            progress(row + 1, len(examples))
    medians = [_median(found.milliseconds for found in several) for several in timings]
    return [
        Speed(
            median,
            median / medians[0],
            float(np.mean([found.tokens for found in several])),
            _of_speech(several),
            tuple(found.milliseconds for found in several),
        )
        for median, several in zip(medians, timings, strict=True)
    ]


def _of_speech(timings: Sequence[Timing]) -> SpeechSpeed | None:
    parts = [found.speech for found in timings if found.speech is not None]
    if not parts:
        return None
    seconds = sum(found.milliseconds for found in timings) / 1e3
    return SpeechSpeed(
        _median(part.encoder_ms for part in parts),
        _median(part.token_ms for part in parts),
        seconds / sum(part.seconds for part in parts),
    )


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
