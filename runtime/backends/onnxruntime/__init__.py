"""ONNX Runtime: on the CPU, and on NVIDIA GPUs by its CUDA or TensorRT execution provider.

Needs ``onnxruntime`` or ``onnxruntime-gpu``, which is imported when it is used.
"""

from __future__ import annotations

from ...bundle.manifest import CONCAT
from ...bundle.reader import Bundle
from ...errors import BackendError
from ..base import Backend
from .cpu import OrtBackend, OrtSlots
from .encoded import OrtEncoderOutput
from .session import check_version, import_onnxruntime

__all__ = [
    "BACKENDS",
    "OrtBackend",
    "OrtEncoderOutput",
    "OrtSlots",
    "check_version",
    "load_onnxruntime",
]

#: Names of its engines, and the devices that each runs on, the default first.
BACKENDS = {"onnxruntime": ("cpu", "cuda"), "onnxruntime-tensorrt": ("cuda",)}


def load_onnxruntime(
    bundle: Bundle,
    *,
    backend: str,
    device: str | None,
    strict: bool,
    num_threads: int | None,
    max_memory: int | None = None,
) -> Backend:
    """Load ``bundle`` into one of :data:`ENGINES`; ``device`` None is the engine's default.

    Raises:
        BackendError: unknown device, a missing or too old library, a GPU that it does not run
            on, a graph that it refuses, or with ``strict`` nodes that would run on the CPU.
    """
    devices = BACKENDS[backend]
    device = devices[0] if device is None else device
    if device not in devices:
        raise BackendError(
            f"unknown device {device!r}; the engine {backend} runs on: {', '.join(devices)}"
        )
    if bundle.manifest.cache == CONCAT:
        if device != "cpu":
            bundle.require_slots(f"the device {device}")
        from .dynamic_cache import OrtConcatBackend

        return OrtConcatBackend(bundle, num_threads=num_threads, max_memory=max_memory)
    if bundle.manifest.single_stack is not None and device != "cpu":
        raise BackendError(
            f"{bundle.directory} holds only one of encoder and decoder, which runs with"
            " onnxruntime on the CPU; leave out --device, or export a model of both"
        )
    if device == "cpu":
        return OrtBackend(bundle, num_threads=num_threads, max_memory=max_memory)
    from .device import OrtDeviceBackend
    from .providers import cuda_target, tensorrt_target

    if backend == "onnxruntime":
        target = cuda_target()
    else:
        target = tensorrt_target(import_onnxruntime(), bundle)
    return OrtDeviceBackend(bundle, target, strict=strict, num_threads=num_threads)
