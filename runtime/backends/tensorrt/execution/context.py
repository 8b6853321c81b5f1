"""An execution context: one engine, one optimization profile, whoever's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ....errors import BackendError
from ..cuda import Device
from ..library import Library
from .layer_times import profile_layers
from .tensors import Placed


class Runner:
    """Enqueues one engine's runs on one stream.

    Contexts take long to make (TensorRT-RTX compiles kernels for them), so every call of an
    engine shares them: whoever runs next binds its own tensors, unless it was the last to run.
    What is enqueued again and again becomes a CUDA graph, which is good for as long as nobody
    else has bound the runner.

    Args:
        library: the TensorRT.
        name: of the graph, for messages.
        context: the execution context, with its profile and device memory set.
        device: the stream.
    """

    def __init__(self, library: Library, name: str, context: Any, device: Device) -> None:
        self._library = library
        self._name = name
        self._context = context
        self._device = device
        # A token, and not what it stands for: that holds memory that others want.
        self._owner: object = None
        self._graph: Any = None
        self._profiler = profile_layers(library, name, context)
        self._captures = self._profiler is None

    def is_bound_to(self, owner: object) -> bool:
        """Whether ``owner``'s tensors are still those that a run would use."""
        return self._owner is owner

    def bind(
        self, owner: object, inputs: Mapping[str, Placed], outputs: Mapping[str, Placed]
    ) -> None:
        """Use these tensors from now on.

        Raises:
            BackendError: a shape outside the engine's profile.
        """
        self._unbind()
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
            BackendError: TensorRT does not run it.
        """
        if not self._context.execute_async_v3(int(self._device.stream)):
            raise self._error("the run could not be enqueued")

    def repeat(self, enqueue: Callable[[], None]) -> None:
        """``enqueue`` what its owner has enqueued before: as a CUDA graph, if it can be one.

        TensorRT wants one plain run with the shapes and addresses of a graph before it is
        captured. Engines with parts that cannot be captured are run plainly.
        """
        if self._graph is None and self._captures:
            self._graph = self._captured(enqueue)
        if self._graph is None:
            enqueue()
        else:
            self._device.cuda.launch(self._graph, self._device.stream)

    def close(self) -> None:
        """Let go of the context and its graph."""
        self._unbind()
        self._context = None

    def _captured(self, enqueue: Callable[[], None]) -> Any:
        cuda, stream = self._device.cuda, self._device.stream
        # TensorRT-RTX knows; TensorRT finds out.
        is_capturable = getattr(self._context, "is_stream_capturable", None)
        self._captures = is_capturable is None or bool(is_capturable(int(stream)))
        if not self._captures:
            return None
        try:
            with cuda.captured(stream) as graphs:
                enqueue()
        except BackendError:
            self._captures = False
            return None
        return graphs[0]

    def _unbind(self) -> None:
        self._owner = None
        graph, self._graph = self._graph, None
        if graph is not None:
            self._device.cuda.free_graph(graph)

    def _error(self, what: str) -> BackendError:
        return BackendError(f"{self._library.engine} failed in the {self._name}: {what}")
