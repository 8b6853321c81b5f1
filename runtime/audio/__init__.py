"""Sound in, mono samples at a model's rate out; nothing here knows a bundle."""

from __future__ import annotations

from .activity import SpeechOnly, VadOptions, detect_speech
from .opening import open_audio
from .pcm import read_pcm
from .source import SAMPLING_RATE, Audio, AudioSource, Samples

__all__ = [
    "SAMPLING_RATE",
    "Audio",
    "AudioSource",
    "Samples",
    "SpeechOnly",
    "VadOptions",
    "detect_speech",
    "open_audio",
    "read_pcm",
]
