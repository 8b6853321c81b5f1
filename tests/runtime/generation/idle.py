"""A model whose engine must not run, and the ways to call it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seq2edge.runtime import (
    Bundle,
    GenerationConfig,
    Seq2SeqModel,
)
from seq2edge.runtime.backends import Capabilities
from seq2edge.runtime.text.tokenizer import load_tokenizer


class NoBackend:
    """A backend that must not be used."""

    num_threads, capabilities = 1, Capabilities()

    def encode(self, *_: Any) -> Any:
        raise AssertionError("the encoder ran")

    def new_cache(self, *_: Any) -> Any:
        raise AssertionError("the decoder ran")

    def close(self) -> None:
        pass


def idle_model(path: Path) -> Seq2SeqModel:
    """The bundle's model over an engine that fails as soon as it is used."""
    bundle = Bundle.open(path)
    return Seq2SeqModel(bundle, NoBackend(), load_tokenizer(bundle))


#: How a caller may pass options; each must refuse them itself.
CALLS: dict[str, Callable[[Seq2SeqModel, GenerationConfig], object]] = {
    "generate": lambda model, config: model.generate(["a text"], config),
    "generate_ids": lambda model, config: model.generate_ids([[5, 6, 1]], config=config),
    "stream": lambda model, config: model.stream("a text", config),
    "without a text": lambda model, config: model.generate([], config),
}
