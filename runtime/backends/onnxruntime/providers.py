"""Execution providers of NVIDIA GPUs: their options, and errors that say what is missing.

Sources: the options of the CUDA execution provider
(https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html) and of the
TensorRT one (https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html),
checked against the names in onnxruntime-gpu 1.31.1's libraries.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import platform
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...bundle.atomic_write import check_parent
from ...bundle.manifest import TensorSpec
from ...bundle.reader import Bundle
from ...errors import BackendError
from ..limits import Limits
from ..sizes import largest_sizes
from .session import CPU, Provider

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

#: float32 is float32: TensorFloat-32, on by default, rounds inputs to float16's 10 bits.
_CUDA_OPTIONS = {"use_tf32": "0"}

#: What CUDA says of a build without kernels for the GPU (cudaErrorNoKernelImageForDevice).
_NO_KERNELS = ("no kernel image is available", "cudaErrorNoKernelImageForDevice")

#: Library of each provider, beside onnxruntime's own.
_LIBRARIES = {
    CUDA: "libonnxruntime_providers_cuda.so",
    TENSORRT: "libonnxruntime_providers_tensorrt.so",
}

#: Source tokens and cache slots that TensorRT's kernels are chosen for.
_USUAL_LENGTH = 64

#: Compute capabilities that onnxruntime-gpu 1.31.1's aarch64 wheel has kernels for. It has no
#: TensorRT provider either, so neither Orin (8.7) nor Thor (11.0) can use it.
ARM_WHEEL_GPUS = ("9.0", "12.0", "12.1")
_JETSON = (
    "; onnxruntime-gpu's aarch64 wheels on the Python index are for compute capability"
    f" {', '.join(ARM_WHEEL_GPUS)}, not for a Jetson (Orin is 8.7, Thor 11.0): use the engine"
    " tensorrt there (seq2edge build), or NVIDIA's own onnxruntime-gpu wheel for your JetPack"
)


@dataclass(frozen=True)
class Target:
    """The execution providers of a backend's sessions.

    Attributes:
        device: where its arrays are, as ONNX Runtime names it: ``cuda`` or ``cpu``.
        required: providers that must be there, best first.
        options: from a graph's name and whether CUDA graphs are to be captured to the providers
            that its session is opened with.
        captures: whether CUDA graphs are possible at all.
        lowered: whether the graphs that were made for the CUDA provider are for it.
    """

    device: str
    required: tuple[str, ...]
    options: Callable[[str, bool], list[Provider]]
    captures: bool
    lowered: bool = False


def cuda_target() -> Target:
    """The CUDA execution provider, and the CPU for what it has no kernels for."""

    def options(_graph: str, capture: bool) -> list[Provider]:
        cuda = _CUDA_OPTIONS | ({"enable_cuda_graph": "1"} if capture else {})
        return [(CUDA, cuda), CPU]

    return Target("cuda", (CUDA,), options, captures=True, lowered=True)


def tensorrt_target(ort: Any, bundle: Bundle) -> Target:
    """The TensorRT execution provider, then CUDA; its engines are kept in ``BUNDLE.ort-tensorrt``.

    TensorRT builds an engine for each part of a graph that it takes, when the part first runs:
    minutes, once. ONNX Runtime does not notice that the bundle or its own version has changed
    (its documentation, "TensorRT EP Caches"), so both are in the engines' names. A change of
    TensorRT or of the GPU is for the user to notice, who deletes the folder.

    The provider has no strongly typed mode, so TensorRT is told to use float16 or bfloat16 if
    the bundle computes in them, and may then do so where the graph says float32 as well. The
    engines that ``seq2edge build`` makes keep the graph's types.

    Raises:
        OutputError: the folder is to be in one that cannot be written.
    """
    folder = bundle.directory.resolve()
    cache = folder.with_name(f"{folder.name}.ort-tensorrt")
    check_parent(cache)
    files = sorted((name, info.sha256) for name, info in bundle.manifest.files.items())
    version = f"{ort.__version__}-{hashlib.sha256(repr(files).encode()).hexdigest()[:12]}"
    types = {spec.dtype for spec in bundle.manifest.graphs["decoder"].inputs}

    def options(graph: str, _capture: bool) -> list[Provider]:
        if graph == "logsumexp":  # a few nodes: not worth an engine
            return [(CUDA, _CUDA_OPTIONS), CPU]
        tensorrt = {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache),  # ONNX Runtime makes the folder
            "trt_engine_cache_prefix": f"{graph}-{version}",
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache),
            # TensorRT updates a cache in place only if its slots are constant, which they are
            # not here; CUDA's kernel does, and leaves the other slots where they are.
            "trt_op_types_to_exclude": "TensorScatter",
            "trt_fp16_enable": str("float16" in types),
            "trt_bf16_enable": str("bfloat16" in types),
            **_profile_options(bundle, graph),
        }
        return [(TENSORRT, tensorrt), (CUDA, _CUDA_OPTIONS), CPU]

    return Target("cuda", (TENSORRT, CUDA), options, captures=False)


def check_available(ort: Any, target: Target) -> None:
    """Refuse an ONNX Runtime that was built without a required provider.

    Raises:
        BackendError: it is the package for CPUs, or one without TensorRT; what to install.
    """
    if target.device != "cuda":
        return
    missing = [name for name in target.required if name not in ort.get_available_providers()]
    hint = _JETSON if platform.machine() == "aarch64" else ""
    if CUDA in missing:
        raise BackendError(
            f"the installed onnxruntime {ort.__version__} is the one for CPUs: pip uninstall"
            " onnxruntime, then pip install onnxruntime-gpu (both packages are one module and"
            f" cannot be installed together){hint}"
        )
    if missing:
        raise BackendError(
            f"the installed onnxruntime {ort.__version__} has no TensorRT provider: use the"
            f" engine onnxruntime on the device cuda, or the engine tensorrt{hint}"
        )


def preload_libraries(ort: Any) -> None:
    """Load CUDA and cuDNN from NVIDIA's packages of the Python index, if they are installed.

    ONNX Runtime finds them there only if it is told to (``onnxruntime.preload_dlls``, since
    1.21), and prints what it does not find, which :func:`check_started` says better.
    """
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def check_started(ort: Any, session: Any, target: Target) -> None:
    """Refuse a session without its providers: ONNX Runtime leaves out those that do not start.

    Raises:
        BackendError: which one did not start, why as far as that is known, and what it needs.
    """
    for name in target.required:
        if name not in session.get_providers():
            raise _not_started(ort, name)


def explained(ort: Any, error: BackendError) -> BackendError:
    """The error of opening or first running a graph, with what to do if the reason is known."""
    text = str(error)
    if "Please install TensorRT libraries" in text:
        return _not_started(ort, TENSORRT)
    if not any(sign in text for sign in _NO_KERNELS):
        return error
    capability = compute_capability()
    gpu = f"this GPU (SM {capability})" if capability else "this GPU"
    hint = (
        "; install an onnxruntime-gpu that was built for it (a new GPU needs a new version, an"
        " old one an old version), or use the engine tensorrt"
    )
    if platform.machine() == "aarch64":
        hint = _JETSON
    return BackendError(f"onnxruntime {ort.__version__} has no kernels for {gpu}{hint} ({text})")


def _not_started(ort: Any, provider: str) -> BackendError:
    version = getattr(ort, "cuda_version", "")
    reason = load_error(ort, provider)
    needs, build = f"CUDA{f' {version}' if version else ''} and cuDNN 9", ""
    if provider == TENSORRT:
        needs, build = f"{needs}, TensorRT", ", and the TensorRT that it was built with"
    return BackendError(
        f"onnxruntime {ort.__version__} lists {provider} but could not start it"
        f"{f' ({reason})' if reason else ''}; it needs an NVIDIA GPU and driver (nvidia-smi),"
        f" {needs}: pip install 'onnxruntime-gpu[cuda,cudnn]'{build}"
    )


def _profile_options(bundle: Bundle, graph: str) -> dict[str, str]:
    """Shapes that engines are made for, as ``name:1x64,...``; other ones build them anew.

    They hold for graphs that TensorRT takes as a whole. For one that it takes in parts ONNX
    Runtime makes profiles of the shapes that it sees, and widens them (its documentation).
    """
    limits = Limits.of(bundle.manifest.dimensions, speech=bundle.manifest.speech is not None)
    # Smallest, usual and largest. Other than in seq2edge's own engines, T is not constant.
    sizes = {
        "batch": (1, 1, limits.max_batch),
        "source": (1, min(_USUAL_LENGTH, limits.max_source_length), limits.max_source_length),
        "queries": (1, 1, limits.max_num_tokens),
        "slots": (1, min(_USUAL_LENGTH, limits.max_target_length), limits.max_target_length),
        "tokens": (1, min(_USUAL_LENGTH, limits.max_target_length), limits.max_target_length),
    }
    speech = bundle.manifest.speech
    if speech is not None:  # whole windows, but for the last of a recording
        most = largest_sizes(limits, speech)
        sizes["source"] = (1, most["source"], most["source"])
        sizes["frames"] = (speech.frames_per_position, most["frames"], most["frames"])
        shortest = speech.frames_per_position * speech.hop_length
        sizes["samples"] = (shortest, most["samples"], most["samples"])
    inputs = bundle.manifest.graphs[graph].inputs

    def text(spec: TensorSpec, kind: int) -> str:
        shape = (size if isinstance(size, int) else sizes[size][kind] for size in spec.shape)
        return f"{spec.name}:{'x'.join(map(str, shape))}"

    return {
        f"trt_profile_{name}_shapes": ",".join(text(spec, kind) for spec in inputs)
        for kind, name in enumerate(("min", "opt", "max"))
    }


def load_error(ort: Any, provider: str) -> str:
    """The loader's message on a provider's library, such as a missing libcudart; else ""."""
    library = Path(ort.__file__).parent / "capi" / _LIBRARIES[provider]
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        # Symbols of onnxruntime's own are resolved only when it loads the library itself.
        return "" if "undefined symbol" in str(error) else str(error)
    return ""


def compute_capability() -> str:
    """Of GPU 0 as ``87``; empty if it is not known. (cuDeviceGetAttribute 75 and 76.)"""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        major, minor = ctypes.c_int(), ctypes.c_int()
        failed = (
            driver.cuInit(0)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), 75, 0)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0)
        )
    except (OSError, AttributeError):
        return ""
    return "" if failed else f"{major.value}{minor.value}"
