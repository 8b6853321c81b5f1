"""An execution context: one engine, one optimization profile, whoever's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import EngineError
from ..library import Library
from .tensors import Placed


class Runner:
    """Enqueues one engine's runs on one stream.

    Contexts take long to make (TensorRT-RTX compiles kernels for them), so every call of an
    engine shares them: whoever runs next binds its own tensors, unless it was the last to run.

    Args:
        library: the TensorRT.
        name: of the graph, for messages.
        context: the execution context, with its profile and device memory set.
        stream: the CUDA stream.
    """

    def __init__(self, library: Library, name: str, context: Any, stream: Any) -> None:
        self._library = library
        self._name = name
        self._context = context
        self._stream = stream
        self._owner: object = None

    def is_bound_to(self, owner: object) -> bool:
        """Whether ``owner``'s tensors are still those that a run would use."""
        return self._owner is owner

    @property
    def capturable(self) -> bool:
        """Whether a run may become part of a CUDA graph, as far as TensorRT says."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return True if asked is None else bool(asked(int(self._stream)))

    def bind(
        self, owner: object, inputs: Mapping[str, Placed], outputs: Mapping[str, Placed]
    ) -> None:
        """Use these tensors from now on.

        Raises:
            EngineError: a shape outside the engine's profile.
        """
        self._owner = None
        for name, tensor in inputs.items():
            if not self._context.set_input_shape(name, tensor.shape):
                raise self._error(f"{name} of shape {list(tensor.shape)} is outside its profile")
        for name, tensor in (*inputs.items(), *outputs.items()):
            if not self._context.set_tensor_address(name, tensor.address):
                raise self._error(f"it does not take an address for {name}")
        self._owner = owner

    def enqueue(self) -> None:
        """Run once, on the stream.

        Raises:
            EngineError: TensorRT does not run it.
        """
        if not self._context.execute_async_v3(int(self._stream)):
            raise self._error("the run could not be enqueued")

    def _error(self, what: str) -> EngineError:
        return EngineError(f"{self._library.engine} failed in the {self._name}: {what}")
