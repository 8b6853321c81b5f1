"""Packages of a device, by exact version: what a pack's requirements.txt holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Markers of a pin, by which of two Pythons it is for.
OLD, NEW = ' ; python_version < "3.11"', ' ; python_version >= "3.11"'
#: As requirements/device.txt has them (a test compares), by the board's Python. 3.10 has no newer
#: numpy and onnxruntime.
TOKENIZERS = "tokenizers==0.23.3"
NUMPY = {OLD: "numpy==2.2.6", NEW: "numpy==2.4.6"}
ONNXRUNTIME = {OLD: "onnxruntime==1.23.2", NEW: "onnxruntime==1.32.0"}
ONNXRUNTIME_GPU = {OLD: "onnxruntime-gpu==1.23.2", NEW: "onnxruntime-gpu==1.31.1"}
#: As requirements/service.txt has them (a test compares): a service, and all that it stands on.
SERVICE = (
    {"": "anyio==4.16.0"},
    {"": "click==8.5.1"},
    {OLD: "exceptiongroup==1.3.2"},
    {"": "h11==0.16.0"},
    {"": "idna==3.20"},
    {"": "prometheus-client==0.26.0"},
    {OLD: "python-multipart==0.0.32", NEW: "python-multipart==0.0.34"},
    {OLD: "starlette==1.7.0", NEW: "starlette==1.10.0"},
    {"": "typing_extensions==4.16.0"},
    {"": "uvicorn==0.54.0"},
)
#: Beside it for speech: the protocol of Home Assistant.
WYOMING = {"": "wyoming==1.10.2"}
#: By CUDA's major version, whose minor versions are compatible (nvidia.github.io/cuda-python,
#: "Support"): there are no wheels of 12.6's bindings. cuda-pathfinder is all that they import.
CUDA = {
    12: ("cuda-bindings==12.9.10", "cuda-pathfinder==1.8.3"),
    13: ("cuda-bindings==13.0.3", "cuda-pathfinder==1.8.3"),
}
#: TensorRT for a box with a GPU; on a Jetson it is JetPack's. Bindings and libraries are
#: named, as nothing is installed that is not.
TENSORRT = {
    "tensorrt": tuple(f"tensorrt-cu13{part}==10.16.1.11" for part in ("", "-bindings", "-libs")),
    "tensorrt-rtx": tuple(
        f"tensorrt-rtx-cu13{part}==1.7.1.116" for part in ("", "-bindings", "-libs")
    ),
}


def pins_of(tables: Sequence[Mapping[str, str]], python: tuple[int, int] | None) -> list[str]:
    """Pins for a Python; None: it is not known, and they have markers."""
    pins = [(marker, pin) for table in tables for marker, pin in table.items()]
    if python is None:
        return [pin + marker for marker, pin in pins]
    fitting = ("", OLD if python < (3, 11) else NEW)
    return [pin for marker, pin in pins if marker in fitting]
