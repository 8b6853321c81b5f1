"""Where somebody speaks: probabilities a frame to intervals of speech.

The rule is silero-vad's (get_speech_timestamps), and the options are those of faster-whisper's
``vad_parameters`` with its defaults. The probabilities come from silero's model where its package
is installed, and else from the sound's energy (:mod:`.energy`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .energy import EnergyGate
from .silero import SileroVad, is_installed
from .source import SAMPLING_RATE, AudioSource

#: Samples of a frame: 32 ms.
FRAME = 512
DETECTORS = ("auto", "silero", "energy")
#: Frames that are read at once: 65 s.
_PIECE = 2048
#: A pause must be longer to be where a speech that is too long is cut, in samples.
_SHORTEST_PAUSE = 98 * SAMPLING_RATE // 1000

Interval = tuple[int, int]


@dataclass(frozen=True)
class VadOptions:
    """What counts as speech.

    Attributes:
        threshold: speech begins in a frame that is at least so probable.
        neg_threshold: it ends where frames are less probable; None: ``threshold`` - 0.15.
        min_speech_duration_ms: shorter speech is dropped.
        max_speech_duration_s: longer speech is cut, in its longest pause, or where it is if there
            is none longer than 98 ms.
        min_silence_duration_ms: shorter silence does not end speech.
        speech_pad_ms: added to speech at both ends, where others leave room for it.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_duration_ms: int = 0
    max_speech_duration_s: float = math.inf
    min_silence_duration_ms: int = 2000
    speech_pad_ms: int = 400

    def __post_init__(self) -> None:
        problems = [
            f"{spec.name} must be a number of at least 0, not {value!r}"
            for spec in fields(self)
            if (value := getattr(self, spec.name)) is not None
            and not (_is_number(value) and value >= 0)
        ]
        if not problems and self.threshold > 1:
            problems.append(f"threshold must be a probability, not {self.threshold}")
        if not problems and not self.max_speech_duration_s > 2 * self.speech_pad_ms / 1000:
            problems.append("max_speech_duration_s must be longer than speech_pad_ms on both sides")
        if problems:
            raise InputError("; ".join(problems))

    @property
    def lower_threshold(self) -> float:
        """``neg_threshold``, or what stands for it."""
        own = self.neg_threshold
        return max(self.threshold - 0.15, 0.01) if own is None else own


class Detector(Protocol):
    """Gives speech probabilities of the frames of one recording."""

    def probabilities(self, frames: Iterator[NDArray[np.float32]]) -> Iterator[float]:
        """One for each frame of 512 samples; ``frames`` are pieces of them, [n, 512], in order."""
        ...


def detect_speech(
    audio: AudioSource,
    options: VadOptions | None = None,
    *,
    detector: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[Interval]:
    """Intervals of speech in ``audio``, in samples at 16 kHz: start and end, ascending.

    It is read in pieces, so its length does not matter.

    Args:
        audio: at 16 kHz.
        options: None: the defaults.
        detector: ``silero``: its model, of the package silero-vad; ``energy``: how loud the sound
            is over its background; ``auto``: the first where it is installed.
        progress: called with the samples that are done and those of the recording.

    Raises:
        InputError: an unknown detector, or audio that cannot be read.
        MissingDependencyError: ``silero`` without its package.
    """
    segmenter = _Segmenter(options or VadOptions())
    found = detector_of(detector)
    for probability in found.probabilities(_frames(audio, progress)):
        segmenter.push(probability)
    return segmenter.finish(audio.num_samples)


def detector_of(name: str) -> Detector:
    """A new detector; ``auto`` is ``silero`` where its package is installed, else ``energy``.

    Raises:
        InputError: an unknown one.
        MissingDependencyError: ``silero`` without its package.
    """
    if name not in DETECTORS:
        raise InputError(f"a voice detector is one of {', '.join(DETECTORS)}, not {name!r}")
    if name == "silero" or (name == "auto" and is_installed()):
        return SileroVad()
    return EnergyGate()


def intervals_of(
    probabilities: Iterator[float], num_samples: int, options: VadOptions | None = None
) -> list[Interval]:
    """Intervals of speech of frames' probabilities; ``num_samples`` is the recording's length."""
    segmenter = _Segmenter(options or VadOptions())
    for probability in probabilities:
        segmenter.push(probability)
    return segmenter.finish(num_samples)


class SpeechOnly:
    """A recording without what lies between ``intervals``: an :class:`.AudioSource`.

    Args:
        audio: the recording.
        intervals: in samples, ascending, without overlaps.
    """

    def __init__(self, audio: AudioSource, intervals: list[Interval]) -> None:
        self._audio = audio
        self.intervals = intervals
        lengths = [end - start for start, end in intervals]
        #: Where each interval ends here.
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self.num_samples = int(self._ends[-1]) if lengths else 0

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples ``start`` to ``stop``, or to the end: [n] float32."""
        start, stop = max(0, start), min(stop, self.num_samples)
        parts = [np.zeros(0, np.float32)]
        while start < stop:
            number = int(np.searchsorted(self._ends, start, side="right"))
            end = min(stop, int(self._ends[number]))
            shift = self.intervals[number][1] - int(self._ends[number])
            parts.append(self._audio.read(start + shift, end + shift))
            start = end
        return np.concatenate(parts)

    def original(self, sample: int, *, is_end: bool = False) -> int:
        """Where ``sample`` stands in the whole recording.

        Args:
            is_end: something ends there, so that between two intervals it is the first one's end,
                not the second one's start.
        """
        if not self.intervals:
            return sample
        side = "left" if is_end else "right"
        number = int(np.searchsorted(self._ends, sample, side=side))  # type: ignore[call-overload]
        number = min(number, len(self.intervals) - 1)
        return sample + self.intervals[number][1] - int(self._ends[number])


class _Segmenter:
    """Frames' probabilities in order, to intervals."""

    def __init__(self, options: VadOptions) -> None:
        self._options = options
        self._padding = int(options.speech_pad_ms * SAMPLING_RATE / 1000)
        self._longest = options.max_speech_duration_s * SAMPLING_RATE - FRAME - 2 * self._padding
        self._place = 0
        self._found: list[Interval] = []
        self._start: int | None = None
        self._quiet_since: int | None = None
        #: Pauses of the present speech.
        self._pauses: list[Interval] = []

    def push(self, probability: float) -> None:
        here, self._place = self._place, self._place + FRAME
        if probability >= self._options.threshold:
            self._speech(here)
            if self._start == here:
                return
        if self._start is None:
            return
        if here - self._start > self._longest and not self._cut(here):
            return
        if probability < self._options.lower_threshold:
            self._silence(here)

    def finish(self, num_samples: int) -> list[Interval]:
        """All intervals of a recording of so many samples, with their padding."""
        if self._start is not None:
            self._add(self._start, num_samples)
        starts = [start for start, _ in self._found]
        ends = [end for _, end in self._found]
        for number, start in enumerate(starts):
            before = ends[number - 1] if number else 0
            room = start - before
            if number:  # two neighbours share what is between them
                give = min(self._padding, room // 2)
                ends[number - 1] += give
            else:
                give = min(self._padding, room)
            starts[number] -= give
        if ends:
            ends[-1] = min(num_samples, ends[-1] + self._padding)
        return list(zip(starts, ends, strict=True))

    def _speech(self, here: int) -> None:
        if self._quiet_since is not None:
            if here - self._quiet_since > _SHORTEST_PAUSE:
                self._pauses.append((self._quiet_since, here))
            self._quiet_since = None
        if self._start is None:
            self._start = here

    def _silence(self, here: int) -> None:
        if self._quiet_since is None:
            self._quiet_since = here
        silence = here - self._quiet_since
        if silence >= self._options.min_silence_duration_ms * SAMPLING_RATE / 1000:
            assert self._start is not None
            self._add(self._start, self._quiet_since)
            self._begin(None)

    def _cut(self, here: int) -> bool:
        """End speech that is too long; whether it goes on after its longest pause."""
        assert self._start is not None
        if self._pauses:
            pause = max(self._pauses, key=lambda pause: pause[1] - pause[0])
            self._found.append((self._start, pause[0]))
            self._begin(pause[1])
            return True
        self._found.append((self._start, here))
        self._begin(None)
        return False

    def _begin(self, start: int | None) -> None:
        self._start, self._quiet_since, self._pauses = start, None, []

    def _add(self, start: int, end: int) -> None:
        if end - start > self._options.min_speech_duration_ms * SAMPLING_RATE / 1000:
            self._found.append((start, end))


def _frames(
    audio: AudioSource, progress: Callable[[int, int], None] | None
) -> Iterator[NDArray[np.float32]]:
    """All frames in pieces, the last one filled up with silence."""
    for start in range(0, audio.num_samples, _PIECE * FRAME):
        samples = audio.read(start, start + _PIECE * FRAME)
        padded = np.pad(samples, (0, -len(samples) % FRAME))
        yield padded.reshape(-1, FRAME)
        if progress is not None:
            progress(start + len(samples), audio.num_samples)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
