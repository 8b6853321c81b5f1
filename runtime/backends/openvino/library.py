"""The library: its devices, the precisions that they compute in, its errors."""

from __future__ import annotations

from functools import cache
from typing import Any

from ...dependencies import needs
from ...errors import BackendError
from .conversions import add_conversions

#: Precisions that a user may ask for; OpenVINO's own names of the types.
PRECISIONS = ("f32", "bf16", "f16")

#: What OpenVINO says before the reason of an error: where in its source it was found.
_PLACES = ("Exception from ", "Check '", "FrontEnd API failed")


@cache
def load_library() -> Any:
    """OpenVINO's ``Core`` of this process, which finds its devices, and reads our int8 operators.

    Raises:
        MissingDependencyError: openvino is not installed.
    """
    with needs("the backend openvino", "openvino"):
        import openvino
    core = openvino.Core()
    add_conversions(core)
    return core


def version() -> str:
    """Such as ``2026.4.0``."""
    load_library()
    import openvino

    return str(openvino.__version__).partition("-")[0]


def devices(core: Any) -> list[str]:
    """Devices that it finds here, in lower case; of several of a kind ``gpu.0``, ``gpu.1``."""
    return [str(name).lower() for name in core.available_devices]


def check_device(core: Any, device: str | None) -> str:
    """OpenVINO's own name of a device; None is the CPU.

    Raises:
        BackendError: it finds no such device here.
    """
    name = "cpu" if device is None else device
    found = devices(core)
    if name not in found and not any(entry.startswith(f"{name}.") for entry in found):
        raise BackendError(
            f"openvino finds no device {device!r} here, but: {', '.join(found)} (a GPU or NPU needs"
            " Intel's driver)"
        )
    return name.upper()


def default_precisions(core: Any) -> dict[str, str]:
    """What each of :func:`devices` computes in unless another precision is asked for."""
    hint = "INFERENCE_PRECISION_HINT"
    return {name: str(core.get_property(name.upper(), hint).to_string()) for name in devices(core)}


def precision_of(compiled: Any) -> str:
    """What a compiled model computes in where the graph has float32: one of PRECISIONS."""
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())


def reason(error: Exception) -> str:
    """What went wrong, in a line, of an error of many lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_PLACES)]
    return " ".join(kept) or type(error).__name__
