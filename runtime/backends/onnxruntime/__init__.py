"""ONNX Runtime: on the CPU, and on NVIDIA GPUs by its CUDA or TensorRT execution provider.

Needs ``onnxruntime`` or ``onnxruntime-gpu``, which is imported when it is used.
"""

from __future__ import annotations

from ...bundle.manifest import GROWING
from ...bundle.reader import Bundle
from ...errors import EngineError
from ..base import Engine
from .cpu import OnnxRuntimeEngine, OrtDecoder, OrtSource
from .session import check_version, import_onnxruntime

__all__ = [
    "ENGINES",
    "OnnxRuntimeEngine",
    "OrtDecoder",
    "OrtSource",
    "check_version",
    "load_onnxruntime",
]

#: Names of its engines, and the devices that each runs on, the default first.
ENGINES = {"onnxruntime": ("cpu", "cuda"), "onnxruntime-tensorrt": ("cuda",)}


def load_onnxruntime(
    bundle: Bundle, *, engine: str, device: str | None, strict: bool, num_threads: int | None
) -> Engine:
    """Load ``bundle`` into one of :data:`ENGINES`; ``device`` None is the engine's default.

    Raises:
        EngineError: unknown device, a missing or too old library, a GPU that it does not run
            on, a graph that it refuses, or with ``strict`` nodes that would run on the CPU.
    """
    devices = ENGINES[engine]
    device = devices[0] if device is None else device
    if device not in devices:
        raise EngineError(
            f"unknown device {device!r}; the engine {engine} runs on: {', '.join(devices)}"
        )
    if bundle.manifest.cache == GROWING:
        if device != "cpu":
            bundle.require_slots(f"the device {device}")
        from .dynamic_cache import GrowingEngine

        return GrowingEngine(bundle, num_threads=num_threads)
    if bundle.manifest.only is not None and device != "cpu":
        raise EngineError(
            f"{bundle.directory} holds only one of encoder and decoder, which runs with"
            " onnxruntime on the CPU; leave out --device, or export a model of both"
        )
    if device == "cpu":
        return OnnxRuntimeEngine(bundle, num_threads=num_threads)
    from .device import DeviceEngine
    from .providers import cuda_target, tensorrt_target

    if engine == "onnxruntime":
        target = cuda_target()
    else:
        target = tensorrt_target(import_onnxruntime(), bundle)
    return DeviceEngine(bundle, target, strict=strict, num_threads=num_threads)
