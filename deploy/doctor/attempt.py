"""Try one engine and print what it can do as a line of JSON.

Run by :func:`.commands.attempt` as a program, because a library that was built for other hardware
may end its process. ``python -m seq2edge.deploy.doctor.attempt onnxruntime [PROVIDER]``, or
``openvino``, ``tensorrt``, ``tensorrt-rtx``, ``cuda``. An engine that is not installed answers
``{}``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from typing import Any

#: An ONNX model, y = (x + x) @ x of [2, 2] float32, opset 13. ``Add`` is a kernel that a provider
#: was compiled with, for certain GPUs; ``MatMul`` is in a vendor's library, which has its own list.
MODEL = bytes.fromhex(
    "08073a500a0e0a01780a017812017322034164640a110a01730a017812017922064d61744d756c1201675a130a"
    "0178120e0a0c080112080a0208020a02080262130a0179120e0a0c080112080a0208020a02080242040a00100d"
)

#: cudaError_t of the CUDA runtime: no such error; the driver is missing or too old for it.
_SUCCESS, _INSUFFICIENT_DRIVER = 0, 35


def list_providers() -> dict[str, Any]:
    """ONNX Runtime's version and the providers that it lists, which is not what it can run."""
    if not _installed("onnxruntime"):
        return {}
    import onnxruntime

    providers = list(onnxruntime.get_available_providers())
    return {"version": onnxruntime.__version__, "providers": providers}


def run_provider(name: str) -> dict[str, Any]:
    """Run the small model; all of it must run on the provider."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if name != "CPUExecutionProvider":
        from ...runtime.backends.onnxruntime.providers import preload_libraries

        preload_libraries(onnxruntime)
        # Else what a provider refuses is run by the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(MODEL, options, providers=[name], enable_fallback=0)
    except Exception as error:  # the bindings raise several unrelated classes
        return {"problem": _load_error(name) or str(error)}
    if name not in session.get_providers():
        lacking = _load_error(name) or "its library or a library that it needs cannot be loaded"
        return {"problem": lacking}
    x = np.array([[1, 2], [3, 4]], np.float32)
    (y,) = session.run(None, {"x": x})
    if not np.array_equal(y, 2 * x @ x):
        return {"problem": f"computes {y.tolist()} where {(2 * x @ x).tolist()} is right"}
    return {"runs": True}


def _load_error(provider: str) -> str:
    """Which library of NVIDIA's a provider lacks; "" for other reasons, and other providers."""
    import onnxruntime

    from ...runtime.backends.onnxruntime.providers import CUDA, TENSORRT, load_error

    return load_error(onnxruntime, provider) if provider in (CUDA, TENSORRT) else ""


def list_openvino() -> dict[str, Any]:
    """OpenVINO's version, its devices and the precision that each computes in by default."""
    if not _installed("openvino"):
        return {}
    from ...runtime.backends.openvino.library import default_precisions, load_library, version

    return {"version": version(), "devices": default_precisions(load_library())}


def load_tensorrt(engine: str) -> dict[str, Any]:
    """TensorRT's version and which of the layers that we use it has."""
    from ...runtime.backends.tensorrt.library import load_library

    if not _installed(engine.replace("-", "_")):
        return {}
    library = load_library(engine)
    network = library.module.INetworkDefinition
    return {
        "version": library.version,
        "attention": hasattr(network, "add_attention"),
        "cache_update": hasattr(network, "add_kv_cache_update"),
        "compute_capabilities": list(library.compute_capabilities()),
    }


def ask_cuda() -> dict[str, Any]:
    """The CUDA runtime's list of GPUs."""
    if not _installed("cuda"):
        return {}
    try:
        bindings = importlib.import_module("cuda.bindings")
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ModuleNotFoundError:  # another package called cuda, or cuda-python before 12.6
        return {}
    answer: dict[str, Any] = {"bindings": bindings.__version__, "gpus": []}
    _, driver = runtime.cudaDriverGetVersion()
    if driver:
        answer["driver_cuda"] = _cuda_version(driver)
    error, count = runtime.cudaGetDeviceCount()
    if error != _SUCCESS:
        name = getattr(error, "name", error)
        if error == _INSUFFICIENT_DRIVER and driver:
            name = f"the driver is for CUDA {_cuda_version(driver)}, and cuda-bindings is newer"
        elif error == _INSUFFICIENT_DRIVER:
            name = "there is no NVIDIA driver"
        return {**answer, "devices": 0, "error": str(name)}
    answer["devices"] = count
    for index in range(count):
        error, properties = runtime.cudaGetDeviceProperties(index)
        if error == _SUCCESS:
            answer["gpus"].append(
                {
                    "name": properties.name.decode(errors="replace").strip("\0"),
                    "compute_capability": f"{properties.major}.{properties.minor}",
                    "memory_total": int(properties.totalGlobalMem),
                    "shared_memory": bool(properties.integrated),
                }
            )
    return answer


def main(what: str, *names: str) -> None:
    """Print the answer, or ``problem`` with the reason that the library gives."""
    answer: dict[str, Any]
    try:
        if what == "onnxruntime":
            answer = run_provider(*names) if names else list_providers()
        elif what == "cuda":
            answer = ask_cuda()
        elif what == "openvino":
            answer = list_openvino()
        else:
            answer = load_tensorrt(what)
    except Exception as error:  # libraries raise classes of their own
        answer = {"problem": str(error) or type(error).__name__}
    print(f"\n{json.dumps(answer)}", flush=True)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _cuda_version(number: int) -> str:
    """``12.6`` of CUDA's 12060."""
    return f"{number // 1000}.{number % 1000 // 10}"


if __name__ == "__main__":
    main(*sys.argv[1:])
