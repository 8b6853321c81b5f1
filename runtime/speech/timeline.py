"""From the seconds of what is decoded to those of the recording, whose silence may be cut out."""

from __future__ import annotations

from ..audio import AudioSource
from ..audio.activity import SpeechOnly


class Timeline:
    """Seconds of a recording.

    Args:
        audio: the recording; :class:`.SpeechOnly`: its silence is cut out.
        duration: of the whole recording, in seconds.
        sampling_rate: of ``audio``, in Hz.
    """

    def __init__(self, audio: AudioSource, duration: float, sampling_rate: int) -> None:
        self._speech = audio if isinstance(audio, SpeechOnly) else None
        self._rate = sampling_rate
        self.duration = duration

    def span(self, start: float, end: float) -> tuple[float, float]:
        """Where a word is: in the one interval of speech that holds its middle."""
        if self._speech is None or not self._speech.intervals:
            return self.seconds(start), self.seconds(end, is_end=True)
        middle = min(round((start + end) / 2 * self._rate), self._speech.num_samples - 1)
        there = self._speech.original(middle)
        first, last = next(one for one in self._speech.intervals if one[0] <= there < one[1])
        shift = there - middle
        times = [
            min(max(round(time * self._rate) + shift, first), last) / self._rate
            for time in (start, end)
        ]
        return round(times[0], 3), round(times[1], 3)

    def seconds(self, time: float, *, is_end: bool = False) -> float:
        """Where ``time`` of the decoded audio is in the recording, not beyond its end.

        Args:
            is_end: something ends there, and does not begin.
        """
        if self._speech is not None:
            sample = min(round(time * self._rate), self._speech.num_samples)
            time = self._speech.original(sample, is_end=is_end) / self._rate
        return round(min(time, self.duration), 3)
