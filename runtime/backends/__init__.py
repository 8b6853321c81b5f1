"""Inference engines behind one protocol; each imports its library only when it is used."""

from __future__ import annotations

from ..bundle.manifest import GROWING
from ..bundle.reader import Bundle
from ..errors import EngineError
from .base import (
    ChainingDecoder,
    Decoder,
    EncodedSource,
    Engine,
    RowDecoder,
    RowEngine,
    Step,
    has_rows,
    makes_chains,
)

__all__ = [
    "ChainingDecoder",
    "Decoder",
    "EncodedSource",
    "Engine",
    "RowDecoder",
    "RowEngine",
    "Step",
    "has_rows",
    "load_engine",
    "makes_chains",
]

#: Their engines are built by ``seq2edge build``.
_TENSORRT = ("tensorrt", "tensorrt-rtx")


def load_engine(
    bundle: Bundle,
    *,
    engine: str = "onnxruntime",
    device: str | None = None,
    strict: bool = False,
    num_threads: int | None,
) -> Engine:
    """Load ``bundle`` into an inference engine; ``device`` None is the engine's default.

    Raises:
        EngineError: unknown engine or device, a missing or too old library, a graph that the
            library refuses, or with ``strict`` nodes that would fall back to the CPU.
    """
    if bundle.manifest.cache == GROWING and engine != "onnxruntime":
        bundle.require_slots(f"the engine {engine}")
    if bundle.manifest.only is not None and engine in _TENSORRT:
        raise EngineError(
            f"{bundle.directory} holds only one of encoder and decoder, which runs with"
            " onnxruntime; leave out --engine"
        )
    if engine in _TENSORRT:
        from .tensorrt.execution.load import load_tensorrt

        return load_tensorrt(bundle, engine=engine, device=device)
    from .onnxruntime import ENGINES, load_onnxruntime

    if engine not in ENGINES:
        known = ", ".join((*ENGINES, *_TENSORRT))
        raise EngineError(f"unknown engine {engine!r}; this version has: {known}")
    return load_onnxruntime(
        bundle, engine=engine, device=device, strict=strict, num_threads=num_threads
    )
