"""What all loaded models are: a bundle, and the engine that runs it."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from .bundle.manifest import Manifest
from .bundle.reader import Bundle
from .closing import ClosesOnExit
from .text.length_warning import LengthWarning


class Closable(Protocol):
    def close(self) -> None: ...


E = TypeVar("E", bound=Closable)


class LoadedModel(ClosesOnExit, Generic[E]):
    """A context manager that frees the engine."""

    def __init__(self, bundle: Bundle, backend: E) -> None:
        self._bundle = bundle
        self._backend = backend
        self._length_warning = LengthWarning(bundle.manifest.tokenizer.max_length)

    @property
    def manifest(self) -> Manifest:
        return self._bundle.manifest

    @property
    def backend(self) -> E:
        """What runs the graphs."""
        return self._backend

    def __repr__(self) -> str:
        backend = type(self._backend).__name__
        return (
            f"{type(self).__name__}({str(self._bundle.directory)!r}, {self.manifest!r}, {backend})"
        )

    def close(self) -> None:
        """Free the engine. The model cannot be used afterwards."""
        self._backend.close()
