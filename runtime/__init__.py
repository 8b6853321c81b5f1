"""Run a bundle on the device: numpy, tokenizers and one inference engine, nothing else.

>>> from seq2edge.runtime import Seq2SeqModel
>>> with Seq2SeqModel.load("model.bundle") as model:
...     print(model.generate(["a text"])[0].text)
"""

from __future__ import annotations

from .bundle import Bundle
from .decoding import GenerationConfig
from .errors import (
    BundleError,
    EngineError,
    InputError,
    MissingDependencyError,
    OutputError,
    OutputExistsError,
    Seq2EdgeError,
)
from .manifest import Manifest
from .model import Generation, Seq2SeqModel

__all__ = [
    "Bundle",
    "BundleError",
    "EngineError",
    "Generation",
    "GenerationConfig",
    "InputError",
    "Manifest",
    "MissingDependencyError",
    "OutputError",
    "OutputExistsError",
    "Seq2EdgeError",
    "Seq2SeqModel",
]
