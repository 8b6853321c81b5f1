"""From what a machine has to an engine, a quantization scheme, and commands to paste."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.backends.onnxruntime.providers import ARM_WHEEL_GPUS
from ...runtime.backends.onnxruntime.session import MINIMUM_VERSION
from .facts import Gpu, Jetson, Machine, numbers
from .findings import Finding, findings
from .gpu import DRIVER_OF_CUDA
from .install import bindings_for, install_commands
from .machine import CACHE_UPDATE_TENSORRT, OLDEST_TENSORRT

#: First ONNX Runtime with opset 24, and the first Python that it is for: 3.10 stops at 1.23.
_TREE_STEP_ONNXRUNTIME, _ITS_PYTHON = MINIMUM_VERSION[24], (3, 11)

#: GPUs that TensorRT-RTX 1.7.1 builds for (its ComputeCapability), where none is installed to ask.
_RTX = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")

#: CPUs that multiply bfloat16.
BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16")
#: CPUs that multiply int8 in one instruction (see int8-dynamic in docs/design.md).
INT8_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp")

#: Below so much memory the smallest weights come first.
_LITTLE_MEMORY = 2_000_000_000


@dataclass(frozen=True)
class SchemeAdvice:
    """``seq2edge quantize --scheme scheme --target target``, and when that is right."""

    scheme: str
    target: str
    when: str


@dataclass(frozen=True)
class Instruction:
    """Commands to paste, and what they are for."""

    what: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """A recommended setup.

    Attributes:
        backend: ``tensorrt``, ``tensorrt-rtx``, ``onnxruntime-gpu`` or ``onnxruntime`` (CPU).
        reason: why.
        alternatives: other backends, with their conditions.
        schemes: the first is where to start.
        downgrade: None, or why ``seq2edge downgrade`` is needed.
        steps: from here to a running model.
        findings: what is wrong or slow at the moment.
    """

    backend: str
    reason: str
    alternatives: tuple[str, ...]
    schemes: tuple[SchemeAdvice, ...]
    downgrade: str | None
    steps: tuple[Instruction, ...]
    findings: tuple[Finding, ...]


def advise(machine: Machine, backend: str | None = None) -> Advice:
    """Advice for a machine.

    Args:
        backend: to advise on, as :attr:`Advice.backend` names it; None: the best one.
    """
    if backend is None:
        backend, reason = _backend(machine)
    else:
        reason = "it was asked for"
    schemes = _gpu_schemes(machine, backend) if backend != "onnxruntime" else _cpu_schemes(machine)
    downgrade = _downgrade(machine, backend)
    steps = []
    commands = install_commands(machine, backend)
    if commands:
        steps.append(Instruction("install, on this machine", commands))
    steps += _model_steps(backend, schemes[0], downgrade)
    return Advice(
        backend=backend,
        reason=reason,
        alternatives=_alternatives(machine, backend),
        schemes=schemes,
        downgrade=downgrade,
        steps=tuple(steps),
        findings=findings(machine),
    )


def _backend(machine: Machine) -> tuple[str, str]:
    gpu, cuda = machine.gpu, machine.cuda
    if machine.jetson is not None:
        return _engine_of_jetson(machine, machine.jetson)
    if gpu is None:
        return "onnxruntime", "no NVIDIA GPU can be used: the CPU runs the model"
    capability = gpu.compute_capability
    driver = (numbers(cuda.driver) or (DRIVER_OF_CUDA[13],))[0]
    if driver < DRIVER_OF_CUDA[12]:
        return "onnxruntime", f"the GPU's driver {cuda.driver} is too old: the CPU runs the model"
    capabilities = machine.library("tensorrt-rtx").compute_capabilities or _RTX
    if capability in capabilities and driver >= DRIVER_OF_CUDA[13]:
        return (
            "tensorrt-rtx",
            f"{gpu.name} (compute capability {capability}): fused attention, a cache in place,"
            " and engines that a workstation without a GPU can build",
        )
    if gpu.supports(7, 5):
        return "tensorrt", f"{gpu.name} (compute capability {capability})"
    return (
        "onnxruntime-gpu",
        f"{gpu.name} (compute capability {capability or 'unknown'}) is not one that TensorRT 10"
        " is for",
    )


def _engine_of_jetson(machine: Machine, jetson: Jetson) -> tuple[str, str]:
    installed = machine.library("tensorrt").version
    version = installed or (jetson.stack.tensorrt if jetson.stack else None)
    whose = "installed" if installed else f"that JetPack {jetson.jetpack or '?'} brings"
    if numbers(version) >= OLDEST_TENSORRT:
        return "tensorrt", f"TensorRT {version}, {whose}, is built for this GPU"
    if version is None:
        return "onnxruntime", (
            f"which TensorRT this Jetson has is not known (JetPack {jetson.jetpack or 'unknown'})"
        )
    return (
        "onnxruntime",
        f"TensorRT {version}, {whose}, is older than 10.3: install JetPack 6.2 or newer for the"
        " GPU; until then the CPU runs the model",
    )


def _alternatives(machine: Machine, backend: str) -> tuple[str, ...]:
    alternatives = []
    capability = machine.gpu.compute_capability if machine.gpu else None
    arm = machine.cpu.architecture == "aarch64"
    if machine.gpu is not None and backend != "onnxruntime-gpu":
        if machine.onnxruntime.runs("CUDAExecutionProvider"):
            alternatives.append("onnxruntime-gpu, which is installed and runs")
        elif not arm or capability in ARM_WHEEL_GPUS:
            alternatives.append(
                "onnxruntime-gpu in place of onnxruntime: pip install onnxruntime-gpu"
            )
        else:
            alternatives.append(
                "not onnxruntime-gpu: the index's aarch64 wheel has kernels for compute capability"
                f" {', '.join(ARM_WHEEL_GPUS)} alone, not {capability or 'this one'}, and no"
                " TensorRT provider, whatever it lists"
            )
    stack = machine.jetson.stack if machine.jetson else None
    if stack is not None and stack.index_tensorrt is not None and backend == "tensorrt":
        newer = f"tensorrt-cu13~={stack.index_tensorrt}"
        if numbers(machine.library("tensorrt").version) < numbers(stack.index_tensorrt):
            alternatives.append(
                f"TensorRT {stack.index_tensorrt}, in an environment without the system's packages:"
                f" pip install '{newer}' '{bindings_for(stack.cuda)}'"
            )
    if backend != "onnxruntime":
        runs = machine.onnxruntime.runs("CPUExecutionProvider")
        how = ", which is installed and runs" if runs else ": pip install onnxruntime"
        old = _downgrade(machine, "onnxruntime")
        downgraded = "" if old is None else f"; with a downgraded bundle ({old})"
        alternatives.append(f"onnxruntime on the CPU{how}{downgraded}")
    elif machine.gpu is None and machine.library("tensorrt-rtx").version is not None:
        alternatives.append(
            "tensorrt-rtx is installed: seq2edge build --compute-capability builds here for the"
            " GPUs of other machines"
        )
    if backend == "onnxruntime" and any(f in machine.cpu.features for f in BFLOAT16_FEATURES):
        how = "installed" if machine.openvino.version is not None else "pip install openvino"
        alternatives.append(
            f"encoders on openvino, for this CPU has bfloat16 ({how}): 'seq2edge bench BUNDLE"
            " --encoder-backend openvino' says whether that is faster"
        )
    return tuple(alternatives)


def _cpu_schemes(machine: Machine) -> tuple[SchemeAdvice, ...]:
    fast = [name for name in INT8_FEATURES if name in machine.cpu.features]
    int8 = SchemeAdvice("int8", "cpu", "8 bit weights, int8 arithmetic in the encoder")
    int4 = SchemeAdvice("int4", "cpu", "the fewest bytes to hold and to read per token")
    if fast:
        dynamic = f"beams or batches, which int8 arithmetic ({fast[0]}) may help: measure both"
    else:
        dynamic = "beams or batches: without VNNI or dot products it is faster than int8 there"
    usable = machine.memory.usable()
    first, second = int8, int4
    if usable is not None and usable < _LITTLE_MEMORY:
        first, second = int4, int8
    return first, SchemeAdvice("int8-dynamic", "cpu", dynamic), second


def _gpu_schemes(machine: Machine, backend: str) -> tuple[SchemeAdvice, ...]:
    gpu = machine.gpu or Gpu("unknown")
    target = "cuda" if backend == "onnxruntime-gpu" else "tensorrt"
    schemes = [SchemeAdvice("fp16", target, "start here; --calibration finds out what overflows")]
    turing = backend == "tensorrt-rtx" and not gpu.supports(8, 0)
    if target == "cuda":
        schemes.append(SchemeAdvice("int8", target, "half of fp16's weights"))
    elif not turing:  # TensorRT-RTX's support matrix: 7.5 has float16 alone
        schemes.append(
            SchemeAdvice(
                "int8-qdq", target, "long sources and batches; needs --calibration with text"
            )
        )
    if not turing:
        schemes.append(SchemeAdvice("int4", target, "single sentences, and where memory is small"))
    if gpu.supports(8, 0):
        schemes.append(SchemeAdvice("bf16", target, "models that overflow float16"))
    return tuple(schemes)


def _downgrade(machine: Machine, backend: str) -> str | None:
    if backend == "tensorrt":
        library, jetson = machine.library(backend), machine.jetson
        if library.version is not None:
            if library.cache_update and library.attention:
                return None
            version: str | None = library.version
        else:  # the index has newer ones, a JetPack has its own
            version = jetson.stack.tensorrt if jetson and jetson.stack else None
        if version is None or numbers(version) >= CACHE_UPDATE_TENSORRT:
            return None
        return f"TensorRT {version} has no cache in place and no Attention, which 10.15 has"
    if backend.startswith("onnxruntime"):
        installed = machine.onnxruntime.version
        if installed is not None and numbers(installed) < _TREE_STEP_ONNXRUNTIME:
            return f"onnxruntime {installed} has no opset 24, which 1.25 has"
        if installed is None and numbers(machine.python) < _ITS_PYTHON:
            return f"Python {machine.python} has no onnxruntime newer than 1.23, without opset 24"
    return None


def _model_steps(backend: str, scheme: SchemeAdvice, downgrade: str | None) -> list[Instruction]:
    bundle = f"model.{scheme.scheme}.bundle"
    commands = [
        f"seq2edge quantize model.bundle {bundle} --scheme {scheme.scheme} --target {scheme.target}"
    ]
    if downgrade is not None:
        downgraded = f"model.{scheme.scheme}.downgraded.bundle"
        commands.append(f"seq2edge downgrade {bundle} {downgraded}")
        bundle = downgraded
    steps = [Instruction("prepare the model, on a workstation", tuple(commands))]
    here = [f"seq2edge doctor --bundle {bundle}"]
    if backend.startswith("tensorrt"):
        here.append(f"seq2edge build {bundle} --backend {backend}")
    return [*steps, Instruction("then, on this machine", tuple(here))]
