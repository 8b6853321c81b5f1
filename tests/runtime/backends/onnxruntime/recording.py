"""ONNX Runtime on the CPU's memory as the device, and a session that records its runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seq2edge.runtime.backends.onnxruntime.providers import Target
from seq2edge.runtime.backends.onnxruntime.session import CPU, Provider


def cpu_target(*, captures: bool = True) -> Target:
    """What runs everywhere. Graph ids are given out as on a GPU, where they would capture."""

    def options(_graph: str, _capture: bool) -> list[Provider]:
        return [CPU]

    return Target("cpu", ("CPUExecutionProvider",), options, captures)


@dataclass(frozen=True)
class Run:
    """The graph id of a run, and of each bound value its type, shape and address."""

    graph_id: str
    bound: frozenset[tuple[str, Any, tuple[int, ...], int]]


class RecordingSession:
    """A session that keeps what each run is bound to."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs: list[Run] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> RecordingBinding:
        return RecordingBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: RecordingBinding, options: Any = None) -> None:
        self.runs.append(Run(_graph_id(options), frozenset(binding.bound.values())))
        self._session.run_with_iobinding(binding.real, options)


def _graph_id(options: Any) -> str:
    try:
        return str(options.get_run_config_entry("gpu_graph_id"))
    except (AttributeError, RuntimeError):  # no options, or no such entry
        return "-1"


class RecordingBinding:
    """An IOBinding that remembers; ``bound`` is by the value's name."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.bound: dict[str, tuple[str, Any, tuple[int, ...], int]] = {}

    def bind_input(self, name: str, *where: Any) -> None:
        self._bind(self.real.bind_input, name, where)

    def bind_output(self, name: str, *where: Any) -> None:
        self._bind(self.real.bind_output, name, where)

    def _bind(self, bind: Any, name: str, where: tuple[Any, ...]) -> None:
        _device, _number, element, shape, address = where
        self.bound[name] = (name, element, tuple(shape), address)
        bind(name, *where)
