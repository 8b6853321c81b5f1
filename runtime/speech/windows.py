"""A recording window by window: what the encoder reads of it, and how the next window is found.

The sequential algorithm is transformers' and openai-whisper's: a window of 30 s is decoded, and the
next one begins where its last whole segment ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..audio import AudioSource
from ..backends import Backend
from ..bundle.manifest import Manifest
from ..bundle.speech_info import SpeechInfo
from ..errors import InputError
from ..generation.drafter import DraftModel
from .fallback import WindowSource
from .features import LogMel
from .prompt import speech_info

#: Silence after the audio that a fitted window keeps, in seconds. With less, decoding loops on
#: most clips; with this much two words in 339 are others than with 30 s (tiny.en and base).
_SILENCE = 2.0
#: Length of a window of a model that takes any length, in seconds.
LONGEST = 30.0
#: Length that such a window is padded to, in seconds: with less than 895 samples the convolutions
#: of Moonshine have no output.
_SHORTEST = 0.06

#: The largest sample of digital silence.
_SILENT = 2.0**-15


@dataclass(frozen=True)
class Window:
    """A part of a recording, in frames: ``start`` and how many, ``size``."""

    start: int
    size: int


class WindowReader:
    """Encoder inputs of any window of a recording.

    A recording of at most one window is padded as audio and then read, a longer one is read as a
    whole, and its last window is padded with features of 0: as transformers has it.

    Args:
        backend, manifest: of a speech bundle.
        audio: the recording, at the model's rate.
        fit: whether a window that is not full ends 2 s after its audio.
        mel: its features; None: those of the whole recording.
        draft: a model that guesses, whose encoder may read other features.

    Raises:
        InputError: ``draft`` hears no speech, or in windows of another length.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        audio: AudioSource,
        *,
        fit: bool,
        mel: LogMel | None = None,
        draft: DraftModel | None = None,
    ) -> None:
        self._speech = speech = speech_info(manifest)
        self._audio = audio
        self._fit = fit
        self._name = manifest.graphs["encoder"].inputs[0].name
        self._mel = mel
        if mel is None and speech.mel_bins is not None:
            self._mel = LogMel(backend, speech, audio)
        self._draft_mel = None if draft is None else _other_features(draft, speech, audio)
        self.frame_seconds = speech.hop_length / speech.sampling_rate
        self.duration = audio.num_samples / speech.sampling_rate
        #: Frames that a window has at most.
        self.window_frames = speech.window_frames or round(LONGEST / self.frame_seconds)
        #: Whole frames of the recording; one for a shorter one.
        self.num_frames = max(min(1, audio.num_samples), audio.num_samples // speech.hop_length)

    @property
    def is_fitted(self) -> bool:
        """Whether windows end soon after their audio."""
        return self._fit and self._mel is not None

    def is_silent(self, window: Window) -> bool:
        """Whether there is nothing in ``window`` but silence (the last one of 16 bits, at most).

        A model that was trained on speech says something all the same ("you", "Thank you.").
        """
        hop, second = self._speech.hop_length, self._speech.sampling_rate
        start, stop = window.start * hop, (window.start + window.size) * hop
        # A second at a time: most windows are not silent from their beginning on.
        return all(
            np.abs(self._audio.read(place, min(place + second, stop))).max(initial=0) <= _SILENT
            for place in range(start, stop, second)
        )

    def whole(self, window: Window) -> WindowSource:
        """The whole of a window, where others may be fitted."""
        if self._mel is None:
            return WindowSource(self._name, self._samples(window), window.size)
        draft = None
        if self._draft_mel is not None:
            draft = self._source(self._whole(self._draft_mel, window))
        return self._source(self._whole(self._mel, window), draft)

    def read(self, window: Window, longest: int = 0) -> WindowSource:
        """What the encoder reads of ``window``; ``longest``: frames of the longest in its batch."""
        if self._mel is None or not self._fit:
            return self.whole(window)
        longest = max(window.size, longest)
        draft = None
        if self._draft_mel is not None:
            draft = self._source(self._fitted(self._draft_mel, window, longest))
        return self._source(self._fitted(self._mel, window, longest), draft)

    def _source(
        self, values: NDArray[np.float32], draft: WindowSource | None = None
    ) -> WindowSource:
        positions = values.shape[1] // self._speech.frames_per_position
        return WindowSource(self._name, values, positions, draft)

    def _samples(self, window: Window) -> NDArray[np.float32]:
        """The audio of ``window``; of the last one what is less than a frame as well."""
        hop, last = self._speech.hop_length, window.start + window.size
        stop = self._audio.num_samples if last >= self.num_frames else last * hop
        samples = self._audio.read(window.start * hop, stop)
        missing = round(_SHORTEST * self._speech.sampling_rate) - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 else samples

    def _fitted(self, mel: LogMel, window: Window, longest: int) -> NDArray[np.float32]:
        step = self._speech.frames_per_position
        wanted = longest + round(_SILENCE / self.frame_seconds)
        wanted = min(self.window_frames, -(-wanted // step) * step)
        if window.start + window.size >= self.num_frames:
            return mel.window(window.start, wanted, pad="audio")
        values = mel.window(window.start, window.size, pad="features")
        return np.pad(values, ((0, 0), (0, wanted - window.size)))

    def _whole(self, mel: LogMel, window: Window) -> NDArray[np.float32]:
        full = self.window_frames
        if self.num_frames <= full and window.start + window.size >= self.num_frames:
            values = mel.window(window.start, full - window.start, pad="audio")
        else:
            values = mel.window(window.start, window.size, pad="features")
        missing = full - values.shape[1]
        return np.pad(values, ((0, 0), (0, missing))) if missing else values


def _other_features(draft: DraftModel, speech: SpeechInfo, audio: AudioSource) -> LogMel | None:
    """What a draft model's encoder reads; None: what the model's own reads.

    Raises:
        InputError: the draft cannot hear what the model hears.
    """
    other = draft.manifest.speech
    if other is None:
        raise InputError("draft_model reads texts; it must be a SpeechModel")
    if (other.sampling_rate, other.hop_length, other.window_frames, other.frames_per_position) != (
        speech.sampling_rate,
        speech.hop_length,
        speech.window_frames,
        speech.frames_per_position,
    ):
        raise InputError("draft_model hears sound in other windows than the model")
    return None if other.mel_bins == speech.mel_bins else LogMel(draft.backend, other, audio)


def clips_of(seconds: Sequence[float], reader: WindowReader) -> list[tuple[int, int]]:
    """First and last frame of each part of the recording that ``clip_timestamps`` names."""
    frames = [min(round(second / reader.frame_seconds), reader.num_frames) for second in seconds]
    frames = frames or [0]
    if len(frames) % 2:
        frames.append(reader.num_frames)
    return [clip for clip in zip(frames[::2], frames[1::2], strict=True) if clip[0] < clip[1]]


def fixed_windows(clips: Sequence[tuple[int, int]], most: int) -> Iterator[Window]:
    """Clips cut into windows of ``most`` frames."""
    for first, last in clips:
        for start in range(first, last, most):
            yield Window(start, min(most, last - start))
