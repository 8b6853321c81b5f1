"""How long each layer of an engine takes, by TensorRT's own profiler (``IProfiler``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..library import Library

#: Told of each layer of each run: the graph, the layer's name in the engine, milliseconds.
Record = Callable[[str, str, float], None]

_record: ContextVar[Record | None] = ContextVar("layer_times", default=None)


@contextmanager
def layer_times(record: Record) -> Iterator[None]:
    """Engines that are loaded within tell of their layers, for as long as they live.

    Their runs are enqueued one by one, as a CUDA graph has no layers, and each waits for its end.
    """
    token = _record.set(record)
    try:
        yield
    finally:
        _record.reset(token)


def profile_layers(library: Library, graph: str, context: Any) -> Any:
    """Give an execution context a profiler, if one is asked for: keep it as long as the context.

    None: nobody asked.
    """
    record = _record.get()
    if record is None:
        return None
    profiler = _profiler(library.module.IProfiler, graph, record)
    context.profiler = profiler
    return profiler


def _profiler(base: Any, graph: str, record: Record) -> Any:
    class Profiler(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)  # as the bindings ask

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            record(graph, layer_name, ms)

    return Profiler()
