"""All probes, and which engines they found to run."""

from __future__ import annotations

import platform
from pathlib import Path

from .commands import PROGRAM_SECONDS, Runner, run_command
from .cpu import examine_cpu
from .facts import Machine, numbers
from .gpu import examine_gpu
from .jetson import board_name, examine_jetson
from .libraries import examine_onnxruntime, examine_openvino, examine_tensorrt
from .memory import examine_memory
from .sensors import examine_sensors

#: First TensorRT that downgraded bundles build with, and those that have the other bundles'
#: operators, Attention and an in-place cache (https://docs.nvidia.com/deeplearning/tensorrt/latest/
#: getting-started/release-notes-10/10.15.1.html).
OLDEST_TENSORRT, ATTENTION_TENSORRT, CACHE_UPDATE_TENSORRT = (10, 3), (10, 14), (10, 15)


def examine(
    root: Path = Path("/"), run: Runner = run_command, python: str | None = None
) -> Machine:
    """Examine this machine, or another one's files and programs.

    Args:
        root: where its /proc, /sys and /etc are.
        run: runs its programs.
        python: version of the Python that is used there; None: of this one.
    """
    jetson = examine_jetson(root, run)
    return Machine(
        board=board_name(root),
        system=run(["uname", "-sr"], PROGRAM_SECONDS).out.strip() or None,
        python=python or platform.python_version(),
        cpu=examine_cpu(root, run),
        memory=examine_memory(root),
        onnxruntime=examine_onnxruntime(run),
        tensorrt=examine_tensorrt(run),
        cuda=examine_gpu(root, run, jetson),
        jetson=jetson,
        sensors=examine_sensors(root),
        openvino=examine_openvino(run),
    )


def tensorrt_problem(machine: Machine, backend: str) -> str | None:
    """Why ``tensorrt`` or ``tensorrt-rtx`` cannot run engines here; None: nothing is known."""
    library, cuda = machine.library(backend), machine.cuda
    if library.version is None:
        return library.problem or "not installed"
    if backend == "tensorrt" and numbers(library.version) < OLDEST_TENSORRT:
        return f"{library.version} is older than 10.3"
    if machine.gpu is None:
        return "there is no NVIDIA GPU"
    if cuda.bindings is None:
        return cuda.problem or "cuda-bindings is not installed"
    if not cuda.devices:
        return cuda.problem or "CUDA finds no GPU"
    capability = machine.gpu.compute_capability
    if library.compute_capabilities and capability not in library.compute_capabilities:
        return f"it does not build for compute capability {capability}"
    return None


def runnable_engines(machine: Machine) -> tuple[str, ...]:
    """The engines that run something here, the fastest first."""
    engines = [
        entry.backend
        for entry in machine.tensorrt
        if tensorrt_problem(machine, entry.backend) is None
    ]
    if machine.onnxruntime.runs("CUDAExecutionProvider"):
        engines.append("onnxruntime-gpu")
    if machine.onnxruntime.runs("CPUExecutionProvider"):
        engines.append("onnxruntime")
    return tuple(engines)
