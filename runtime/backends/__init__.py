"""Inference engines behind one protocol; each imports its library only when it is used."""

from __future__ import annotations

import logging
import time

from ..bundle.manifest import CONCAT
from ..bundle.reader import Bundle
from ..errors import BackendError
from .base import (
    Backend,
    Capabilities,
    ConcatCache,
    EncoderInputs,
    EncoderOutput,
    SlotBackend,
    SlotCache,
    Step,
    slot_backend,
)

__all__ = [
    "Backend",
    "Capabilities",
    "ConcatCache",
    "EncoderInputs",
    "EncoderOutput",
    "SlotBackend",
    "SlotCache",
    "Step",
    "load_backend",
    "slot_backend",
]

_log = logging.getLogger(__name__)

#: Their engines are built by ``seq2edge build``.
_TENSORRT = ("tensorrt", "tensorrt-rtx")


def load_backend(
    bundle: Bundle,
    *,
    backend: str = "onnxruntime",
    device: str | None = None,
    strict: bool = False,
    num_threads: int | None,
    max_memory: int | None = None,
) -> Backend:
    """Load ``bundle`` into an inference engine; ``device`` None is the engine's default.

    ``max_memory`` is what a call may take of the CPU's memory (:class:`.MemoryBudget`).

    Raises:
        BackendError: unknown engine or device, a missing or too old library, a graph that the
            library refuses, or with ``strict`` nodes that would fall back to the CPU.
    """
    started = time.monotonic()
    loaded = _load(
        bundle,
        backend=backend,
        device=device,
        strict=strict,
        num_threads=num_threads,
        max_memory=max_memory,
    )
    seconds = time.monotonic() - started
    _log.info("loaded %s into %s in %.2f s", bundle.directory, backend, seconds)
    return loaded


def _load(
    bundle: Bundle,
    *,
    backend: str,
    device: str | None,
    strict: bool,
    num_threads: int | None,
    max_memory: int | None,
) -> Backend:
    if bundle.manifest.cache == CONCAT and backend != "onnxruntime":
        bundle.require_slots(f"the engine {backend}")
    if bundle.manifest.single_stack is not None and backend in _TENSORRT:
        raise BackendError(
            f"{bundle.directory} holds only one of encoder and decoder, which runs with"
            " onnxruntime; leave out --backend"
        )
    if bundle.manifest.speech is not None and (backend != "onnxruntime" or device == "cuda"):
        raise BackendError(
            f"{bundle.directory} hears speech, which runs with onnxruntime on the CPU; leave out"
            " --backend and --device"
        )
    if backend in _TENSORRT:
        from .tensorrt.execution.load import load_tensorrt

        return load_tensorrt(bundle, engine=backend, device=device)
    from .onnxruntime import BACKENDS, load_onnxruntime

    if backend not in BACKENDS:
        supported = ", ".join((*BACKENDS, *_TENSORRT))
        raise BackendError(f"unknown engine {backend!r}; this version has: {supported}")
    return load_onnxruntime(
        bundle,
        backend=backend,
        device=device,
        strict=strict,
        num_threads=num_threads,
        max_memory=max_memory,
    )
