"""Inference engines behind one protocol; each imports its library only when it is used."""

from __future__ import annotations

import logging
import time
from functools import partial

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
    "ENCODER_BACKENDS",
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
#: Libraries that can run the encoder of a model whose decoder runs with ONNX Runtime.
ENCODER_BACKENDS = ("openvino",)


def load_backend(
    bundle: Bundle,
    *,
    backend: str = "onnxruntime",
    device: str | None = None,
    strict: bool = False,
    num_threads: int | None,
    max_memory: int | None = None,
    encoder_backend: str | None = None,
    precision: str | None = None,
) -> Backend:
    """Load ``bundle`` into an inference engine; ``device`` None is the engine's default.

    Args:
        max_memory: what a call may take of the CPU's memory (:class:`.MemoryBudget`).
        encoder_backend: ``openvino``: the encoder runs there, on ``device`` (``cpu``, or ``gpu``
            or ``npu`` where OpenVINO finds one), and all else with onnxruntime on the CPU.
        precision: what that encoder computes in where its graph has float32: ``f32``, ``bf16`` or
            ``f16``; None: the device's own choice.

    Raises:
        BackendError: unknown engine, device or precision, a missing or too old library, a graph
            that the library refuses, or with ``strict`` nodes that would fall back to the CPU.
    """
    started = time.monotonic()
    if encoder_backend is None and precision is not None:
        raise BackendError(
            f"the precision {precision} is for an encoder that runs with openvino: choose"
            " encoder_backend='openvino' (--encoder-backend openvino) as well, or leave it out"
        )
    if encoder_backend is not None:
        _check_encoder_backend(bundle, encoder_backend, backend, device, strict)
        loaded: Backend = _with_openvino(bundle, device, precision, num_threads, max_memory)
    else:
        loaded = _load(
            bundle,
            backend=backend,
            device=device,
            strict=strict,
            num_threads=num_threads,
            max_memory=max_memory,
        )
    seconds = time.monotonic() - started
    encoder = loaded.capabilities.encoder
    _log.info(
        "loaded %s into %s%s in %.2f s",
        bundle.directory,
        backend,
        f" (encoder: {encoder})" if encoder else "",
        seconds,
    )
    return loaded


def _check_encoder_backend(
    bundle: Bundle, encoder_backend: str, backend: str, device: str | None, strict: bool
) -> None:
    """Refuse a library for the encoder that the rest cannot go with."""
    if encoder_backend not in ENCODER_BACKENDS:
        supported = ", ".join(ENCODER_BACKENDS)
        raise BackendError(
            f"unknown engine {encoder_backend!r} for an encoder; this version has: {supported}"
        )
    if backend != "onnxruntime":
        raise BackendError(
            f"an encoder on {encoder_backend} goes with the engine onnxruntime, not {backend}:"
            " leave out one of both"
        )
    bundle.require_slots(f"an encoder on {encoder_backend}")
    if "encoder" not in bundle.manifest.graphs:
        raise BackendError(f"{bundle.directory} has no encoder that {encoder_backend} could run")
    if strict and device not in (None, "cpu"):
        raise BackendError(
            f"only the encoder would run on the device {device}, and the rest on the CPU, which"
            " strict refuses"
        )


def _with_openvino(
    bundle: Bundle,
    device: str | None,
    precision: str | None,
    num_threads: int | None,
    max_memory: int | None,
) -> Backend:
    from .onnxruntime import OrtBackend
    from .openvino import open_encoder

    return OrtBackend(
        bundle,
        num_threads=num_threads,
        max_memory=max_memory,
        open_encoder=partial(open_encoder, device=device, precision=precision),
    )


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
