"""Sounds to quantize on: the user's own recordings, or something that is shaped like speech."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.backends import Backend
from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.bundle.speech_info import SpeechInfo

#: What the manifest's record calls them.
RECORDINGS, SYNTHETIC = "recordings", "synthetic sound"

#: Windows of the user's recordings that are looked at, spread over all of them.
_MOST_WINDOWS = 4
#: Seconds of each window that is made up, and how many there are.
_SECONDS, _SYNTHETIC_WINDOWS = 10, 2
#: A voice, roughly: the pitch in Hz, how often it swings a second, formants, syllables a second.
_PITCH, _SWING, _FORMANTS, _SYLLABLES = 120.0, 3.0, (500.0, 1500.0, 2500.0), 2.3
#: A window whose length the model does not say, in seconds.
_WINDOW = 30.0


@dataclass(frozen=True)
class Sounds:
    """Windows of sound as the encoder takes them.

    Attributes:
        kind: :data:`RECORDINGS` or :data:`SYNTHETIC`.
        audio: [samples] float32 each, at the model's rate.
    """

    kind: str
    audio: Sequence[NDArray[np.float32]]

    def inputs(self, backend: Backend, manifest: Manifest) -> list[dict[str, NDArray[Any]]]:
        """The encoder's inputs for each window, without a batch axis."""
        speech = speech_of(manifest)
        if speech.mel_bins is None:
            (name, *_) = (spec.name for spec in manifest.graphs["encoder"].inputs)
            return [{name: samples} for samples in self.audio]
        name = "input_features"
        return [
            {name: backend.run_graph("features", {"audio": samples[None]})[name][0]}
            for samples in self.audio
        ]


def speech_of(manifest: Manifest) -> SpeechInfo:
    if manifest.speech is None:
        raise AssertionError("the bundle hears speech")
    return manifest.speech


def read_recordings(paths: Sequence[str | os.PathLike[str]], manifest: Manifest) -> Sounds:
    """At most four windows of recordings, evenly spaced; a short one is followed by silence.

    Raises:
        InputError: a file that is no audio, or cannot be read.
        MissingDependencyError: a format that needs PyAV.
    """
    speech = speech_of(manifest)
    length = int((speech.window_seconds or _WINDOW) * speech.sampling_rate)
    windows: list[tuple[str | os.PathLike[str], int]] = []
    for path in paths:
        with open_audio(path, target_sampling_rate=speech.sampling_rate) as audio:
            windows += [(path, start) for start in range(0, audio.num_samples, length)]
    count = min(len(windows), _MOST_WINDOWS)
    chosen = [windows[number * len(windows) // count] for number in range(count)]
    sounds = []
    for path, start in chosen:
        with open_audio(path, target_sampling_rate=speech.sampling_rate) as audio:
            samples = audio.read(start, start + length)
        whole = length if speech.window_frames is not None else len(samples)
        sounds.append(np.pad(samples, (0, whole - len(samples))))
    return Sounds(RECORDINGS, sounds)


def synthetic_sounds(manifest: Manifest) -> Sounds:
    """Harmonics of a swinging pitch through three formants, in syllables, with noise and pauses.

    No words: what a model makes of it means nothing, but its values are those of speech. The
    layers of Whisper tiny.en and base whose inputs have outliers are the same as over recordings.
    """
    rate = speech_of(manifest).sampling_rate
    generator = np.random.default_rng(0)
    time = np.arange(_SECONDS * rate) / rate
    sounds = []
    for number in range(_SYNTHETIC_WINDOWS):
        pitch = _PITCH * (1 + 0.5 * number)
        phase = 2 * np.pi * pitch * time + 2 * np.sin(2 * np.pi * _SWING * time)
        voice = np.zeros_like(time)
        for harmonic in range(1, int(rate / 2 / pitch)):
            near = [np.exp(-(((harmonic * pitch - formant) / 200) ** 2)) for formant in _FORMANTS]
            voice += (sum(near) + 0.05) / harmonic * np.sin(harmonic * phase)
        syllables = np.maximum(0, np.sin(2 * np.pi * _SYLLABLES * time))
        speaking = np.sin(2 * np.pi * 0.13 * (time + 3 * number)) > -0.3
        sound = 0.1 * voice * syllables * speaking + 0.003 * generator.standard_normal(len(time))
        sounds.append(sound.astype(np.float32))
    return Sounds(SYNTHETIC, sounds)
