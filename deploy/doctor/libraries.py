"""Inference libraries: which are installed, and which really run here."""

from __future__ import annotations

from .commands import Runner, attempt
from .facts import OnnxRuntime, OpenVino, Provider, TensorRt

#: Sends graphs to a service of Microsoft's; every wheel lists it, and it has nothing to run here.
_REMOTE = "AzureExecutionProvider"

_TENSORRTS = ("tensorrt-rtx", "tensorrt")


def examine_onnxruntime(run: Runner) -> OnnxRuntime:
    """Ask ONNX Runtime for its providers and run a small graph with each."""
    answer, problem = attempt(run, "onnxruntime")
    version = answer.get("version")
    if version is None:
        return OnnxRuntime(None, problem=problem)
    return OnnxRuntime(
        str(version), tuple(_try(run, str(name)) for name in answer.get("providers", ()))
    )


def examine_openvino(run: Runner) -> OpenVino:
    """Ask OpenVINO for its devices and what they compute in."""
    answer, problem = attempt(run, "openvino")
    version, devices = answer.get("version"), answer.get("devices")
    if version is None or not isinstance(devices, dict):
        return OpenVino(problem=problem)
    return OpenVino(str(version), {str(name): str(each) for name, each in devices.items()})


def examine_tensorrt(run: Runner) -> tuple[TensorRt, ...]:
    """Load TensorRT-RTX and TensorRT and look for the layers that bundles use."""
    libraries = []
    for backend in _TENSORRTS:
        answer, problem = attempt(run, backend)
        version = answer.get("version")
        libraries.append(
            TensorRt(
                backend,
                version=None if version is None else str(version),
                attention=bool(answer.get("attention")),
                cache_update=bool(answer.get("cache_update")),
                compute_capabilities=tuple(map(str, answer.get("compute_capabilities", ()))),
                problem=problem,
            )
        )
    return tuple(libraries)


def _try(run: Runner, name: str) -> Provider:
    if name == _REMOTE:
        return Provider(name, None, "is for a remote service")
    answer, problem = attempt(run, "onnxruntime", name)
    return Provider(name, answer.get("runs") is True, problem)
