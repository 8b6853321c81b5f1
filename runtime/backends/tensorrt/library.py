"""The TensorRT that is installed, TensorRT-RTX or TensorRT, and what it logs."""

from __future__ import annotations

import importlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any

from ...errors import BackendError

#: Names of the engine, in order of preference, and the modules that they are.
_MODULES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}

_recording = threading.Lock()


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Attributes:
        engine: ``tensorrt-rtx`` or ``tensorrt``.
        version: as it gives it, such as ``1.7.1.116``.
        module: the module; both kinds have the same classes.
    """

    engine: str
    version: str
    module: Any

    def compute_capabilities(self) -> dict[str, Any]:
        """Members of TensorRT-RTX's ``ComputeCapability`` by name, such as ``8.6``, in order.

        TensorRT has none: it builds for the GPU of the machine that it runs on.
        """
        members = getattr(self.module, "ComputeCapability", None)
        versions = sorted(int(name[2:]) for name in dir(members) if re.fullmatch(r"SM\d+", name))
        return {f"{sm // 10}.{sm % 10}": getattr(members, f"SM{sm}") for sm in versions}


@dataclass(frozen=True)
class Message:
    """One message of TensorRT's log; ``severity`` is ``ERROR``, ``WARNING``, ``INFO``, ..."""

    severity: str
    text: str


def load_library(engine: str | None = None) -> Library:
    """Import TensorRT.

    Args:
        engine: ``tensorrt-rtx`` or ``tensorrt``; None: the first of them that is installed.

    Raises:
        BackendError: an unknown name, or it is not installed.
    """
    if engine is not None and engine not in _MODULES:
        raise BackendError(f"unknown engine {engine!r}; there are: {', '.join(_MODULES)}")
    for name in [engine] if engine else _MODULES:
        try:
            module = importlib.import_module(_MODULES[name])
        except ModuleNotFoundError as error:
            if error.name != _MODULES[name]:  # it is there, and lacks a part
                raise BackendError(f"{name} cannot be imported: {error}") from None
        except (ImportError, OSError) as error:
            raise BackendError(f"{name} cannot be imported: {error}") from None
        else:
            return Library(name, str(module.__version__), module)
    if engine is None:
        raise BackendError(
            "neither tensorrt-rtx nor tensorrt is installed: pip install tensorrt-rtx cuda-bindings"
            " (on a Jetson, JetPack brings tensorrt)"
        )
    raise BackendError(f"{engine} is not installed: pip install {engine} cuda-bindings")


def logger(library: Library) -> Any:
    """The one logger of this process for ``library``; it is silent but while :func:`recorded`.

    One, because TensorRT keeps the first logger that it is given and ignores others.
    """
    return _logger(library.module)


@contextmanager
def recorded(library: Library) -> Iterator[list[Message]]:
    """Within the block the list grows by what TensorRT logs, of every severity.

    Blocks of several threads wait for each other, since TensorRT does not say whose message
    it is.
    """
    shared = logger(library)
    with _recording:
        messages: list[Message] = []
        shared.messages = messages
        try:
            yield messages
        finally:
            shared.messages = None


@contextmanager
def deferred_interrupts() -> Iterator[list[BaseException]]:
    """Within the block what Ctrl-C and SIGTERM raise is put into the list; at its end it is raised.

    Python would raise it in whatever TensorRT calls, its log above all, and there an exception
    is lost: neither would the work end nor anybody learn of it. What else is put into the list
    is raised as well, in place of what came of it.
    """
    raised: list[BaseException] = []

    def deferring(handler: Callable[[int, FrameType | None], Any]) -> Any:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                raised.append(error)

        return handle

    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no other is interrupted
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                handlers[number] = handler
                signal.signal(number, deferring(handler))
    try:
        yield raised
    except Exception:
        if not raised:
            raise
    finally:
        for replaced, handler in handlers.items():
            signal.signal(replaced, handler)
    if raised:
        raise raised[0]


@cache
def _logger(module: Any) -> Any:
    def initialize(self: Any) -> None:
        module.ILogger.__init__(self)
        self.messages = None

    def log(self: Any, severity: Any, text: str) -> None:
        if self.messages is not None:
            self.messages.append(Message(str(severity.name), text))

    # The base class is known only now that the module is imported.
    return type("RecordingLogger", (module.ILogger,), {"__init__": initialize, "log": log})()
