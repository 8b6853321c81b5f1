"""Whether a bundle can run on a machine: the engine, the hardware, the memory."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.backends.limits import Limits, cache_bytes
from ...runtime.backends.onnxruntime import check_version
from ...runtime.bundle.manifest import WEIGHTS_NAME, GraphInfo, Manifest
from ...runtime.bundle.reader import Bundle
from ...runtime.errors import BackendError
from .facts import Machine
from .machine import tensorrt_problem

#: Python, numpy, tokenizers and onnxruntime before there is a model (docs/results, "Size and
#: memory").
_PROCESS_BYTES = 59_000_000

#: What a float32 bundle is "quantized" for, as it is or downgraded.
_ANY = "any"

#: Operators that a downgraded bundle has not, and that TensorRT has since 10.14 and 10.15.
_ATTENTION, _CACHE_UPDATE = "Attention", "TensorScatter"


@dataclass(frozen=True)
class EngineFit:
    """Whether an engine of this machine runs the bundle; ``problem``: why not."""

    backend: str
    runs: bool
    problem: str | None


@dataclass(frozen=True)
class BundleFit:
    """Whether a bundle can run here. Sizes are bytes.

    Attributes:
        target: what it was quantized for; ``any``: it is float32.
        opset: newest of its graphs.
        limits: the lengths that the cache is counted for.
        weight_bytes, cache_bytes: of the weights' file, and of self- and cross-attention.
        needed_bytes: of memory: those two and the process.
        usable_bytes: of memory, at the moment.
        engines: each engine that we know.
        problem: why it does not fit; None: it runs.
    """

    bundle: str
    target: str
    opset: int
    limits: Limits
    weight_bytes: int
    cache_bytes: int
    needed_bytes: int
    usable_bytes: int | None
    engines: tuple[EngineFit, ...]
    problem: str | None

    @property
    def fits(self) -> bool:
        return self.problem is None


def check_bundle(bundle: Bundle, machine: Machine) -> BundleFit:
    """Compare what a bundle needs with what a machine has.

    The cache is counted for one source and the lengths that ``seq2edge build`` takes by itself.
    """
    bundle.require_slots("doctor")
    manifest = bundle.manifest
    limits = Limits.of(manifest.dimensions, speech=manifest.speech is not None)
    weights = manifest.files[WEIGHTS_NAME].size
    decoder = manifest.graphs["decoder"]
    cache = cache_bytes(
        decoder, limits.max_batch, limits.max_target_length, limits.max_source_length
    )
    needed, usable = weights + cache + _PROCESS_BYTES, machine.memory.usable()
    engines = tuple(
        EngineFit(backend, problem is None, problem)
        for backend, problem in _engine_problems(manifest, machine, weights + cache).items()
    )
    problem = None
    if not any(backend.runs for backend in engines):
        problem = "no engine of this machine runs it"
    elif usable is not None and needed > usable:
        problem = f"it needs {needed / 1e6:.0f} MB of memory, and {usable / 1e6:.0f} MB are left"
    return BundleFit(
        bundle=str(bundle.directory),
        target=_target(manifest),
        opset=max(graph.opset for graph in manifest.graphs.values()),
        limits=limits,
        weight_bytes=weights,
        cache_bytes=cache,
        needed_bytes=needed,
        usable_bytes=usable,
        engines=engines,
        problem=problem,
    )


def _engine_problems(manifest: Manifest, machine: Machine, size: int) -> dict[str, str | None]:
    """Why each engine does not run the bundle, whose weights and cache have ``size`` bytes."""
    gpu = _gpu_memory(machine, size)
    return {
        **{
            backend: tensorrt_problem(machine, backend)
            or _tensorrt(manifest, machine, backend)
            or gpu
            for backend in ("tensorrt-rtx", "tensorrt")
        },
        "onnxruntime-gpu": _provider(machine, "CUDAExecutionProvider")
        or _onnxruntime(manifest, machine, "onnxruntime-gpu")
        or gpu,
        "onnxruntime": _provider(machine, "CPUExecutionProvider")
        or _onnxruntime(manifest, machine, "onnxruntime"),
    }


def _gpu_memory(machine: Machine, size: int) -> str | None:
    gpu = machine.gpu
    if gpu is None or gpu.memory_free is None or size <= gpu.memory_free:
        return None
    return f"weights and cache are {size / 1e6:.0f} MB, of {gpu.memory_free / 1e6:.0f} on the GPU"


def _provider(machine: Machine, name: str) -> str | None:
    runtime = machine.onnxruntime
    if runtime.version is None:
        return runtime.problem or "not installed"
    provider = next((entry for entry in runtime.providers if entry.name == name), None)
    if provider is None:
        return f"the installed onnxruntime has no {name}"
    return None if provider.runs else provider.problem or f"{name} does not run"


def _onnxruntime(manifest: Manifest, machine: Machine, backend: str) -> str | None:
    try:
        check_version(machine.onnxruntime.version or "", manifest)
    except BackendError as error:
        return str(error)
    if backend == "onnxruntime-gpu":
        target = _target(manifest)
        return None if target in (_ANY, "cuda") else f"the bundle is quantized for {target}"
    if _type(manifest.graphs["decoder"]) == "bfloat16":
        return "onnxruntime cannot compute in bfloat16 on a CPU"
    return None


def _tensorrt(manifest: Manifest, machine: Machine, backend: str) -> str | None:
    library = machine.library(backend)
    target = _target(manifest)
    if target not in (_ANY, "tensorrt"):
        return f"the bundle is quantized for {target}: quantize with --target tensorrt"
    used = {name for graph in manifest.graphs.values() for name in graph.operators}
    missing = [
        name
        for name, supported in (
            (_ATTENTION, library.attention),
            (_CACHE_UPDATE, library.cache_update),
        )
        if name in used and not supported
    ]
    if missing:
        return f"it has no {' and no '.join(missing)}: run seq2edge downgrade on the bundle"
    bfloat16 = _type(manifest.graphs["decoder"]) == "bfloat16"
    if bfloat16 and machine.gpu is not None and not machine.gpu.supports(8, 0):
        return "bfloat16 needs compute capability 8.0"
    return None


def _target(manifest: Manifest) -> str:
    return str(manifest.quantization.get("target", _ANY))


def _type(decoder: GraphInfo) -> str:
    """The type that the decoder computes in: its cache's."""
    types = (spec.dtype for spec in decoder.inputs if spec.name.startswith("past_"))
    return next(types, "float32")
