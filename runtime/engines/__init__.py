"""Inference engines behind one protocol; each imports its library only when it is used."""

from __future__ import annotations

from ..bundle import Bundle
from ..errors import EngineError
from .base import Decoder, EncodedSource, Engine, Step

__all__ = ["Decoder", "EncodedSource", "Engine", "Step", "load_engine"]


def load_engine(
    bundle: Bundle, *, engine: str = "onnxruntime", device: str = "cpu", num_threads: int | None
) -> Engine:
    """Load ``bundle`` into an inference engine.

    Raises:
        EngineError: unknown engine or device, a missing or too old library, or a graph that
            the library refuses.
    """
    if engine != "onnxruntime":
        raise EngineError(f"unknown engine {engine!r}; this version has: onnxruntime")
    if device != "cpu":
        raise EngineError(f"unknown device {device!r}; this version runs on: cpu")
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, num_threads=num_threads)
