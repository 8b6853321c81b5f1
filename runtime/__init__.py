"""Run a bundle on the device: numpy, tokenizers and one inference engine, nothing else.

>>> from seq2edge.runtime import Seq2SeqModel
>>> with Seq2SeqModel.load("model.bundle") as model:
...     print(model.generate(["a text"])[0].text)
"""

from __future__ import annotations

from .bundle.manifest import Manifest
from .bundle.reader import Bundle
from .encoder import EncoderModel
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

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "Choices",
    "EncoderModel",
    "Generation",
    "GenerationConfig",
    "InputError",
    "JsonSchema",
    "Manifest",
    "MissingDependencyError",
    "OutputError",
    "OutputExistsError",
    "Regex",
    "Seq2EdgeError",
    "Seq2SeqModel",
    "TextStream",
]
