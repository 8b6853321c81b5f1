"""Run a bundle on the device: numpy, tokenizers and one inference engine, nothing else.

>>> from seq2edge.runtime import Seq2SeqModel
>>> with Seq2SeqModel.load("model.bundle") as model:
...     print(model.generate(["a text"])[0].text)

>>> from seq2edge.runtime import SpeechModel
>>> with SpeechModel.load("whisper.bundle") as model:
...     print(model.transcribe("talk.wav").text)

What is loaded, which graphs run and what falls back is logged by the loggers below ``seq2edge``,
which say nothing until the application configures :mod:`logging`.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .bundle.manifest import Manifest
from .bundle.reader import Bundle
from .errors import (
    BackendError,
    BundleError,
    InputError,
    MissingDependencyError,
    OutputError,
    OutputExistsError,
    Seq2EdgeError,
)
from .generation import Choices, GenerationConfig, JsonSchema, Regex
from .generation.result import Generation
from .model import Seq2SeqModel
from .text.detokenizer import TextStream

if TYPE_CHECKING:
    from .asynchronous import AsyncTextStream
    from .continuous_batch import ContinuousBatch, Event, Request
    from .encoder import EncoderModel
    from .speech.model import SpeechModel
    from .speech.options import TranscriptionOptions
    from .speech.transcription import Segment, Transcription, Word

logging.getLogger("seq2edge").addHandler(logging.NullHandler())

# From 1.29 on, official builds for Linux send Microsoft what models are loaded, and keep a database
# in ~/.cache, unless this is set before they are imported. A value that is set already stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

#: Imported when they are asked for: who reads texts does not wait for speech or a service.
_LATER = {
    "AsyncTextStream": "asynchronous",
    "ContinuousBatch": "continuous_batch",
    "EncoderModel": "encoder",
    "Event": "continuous_batch",
    "Request": "continuous_batch",
    "Segment": "speech.transcription",
    "SpeechModel": "speech.model",
    "Transcription": "speech.transcription",
    "TranscriptionOptions": "speech.options",
    "Word": "speech.transcription",
}

__all__ = [
    "AsyncTextStream",
    "BackendError",
    "Bundle",
    "BundleError",
    "Choices",
    "ContinuousBatch",
    "EncoderModel",
    "Event",
    "Generation",
    "GenerationConfig",
    "InputError",
    "JsonSchema",
    "Manifest",
    "MissingDependencyError",
    "OutputError",
    "OutputExistsError",
    "Regex",
    "Request",
    "Segment",
    "Seq2EdgeError",
    "Seq2SeqModel",
    "SpeechModel",
    "TextStream",
    "Transcription",
    "TranscriptionOptions",
    "Word",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
