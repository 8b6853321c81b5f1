"""Commands that install what is missing for an engine on this very machine."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import distributions
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .facts import Machine, numbers
from .gpu import DRIVER_OF_CUDA


def install_commands(machine: Machine, backend: str) -> tuple[str, ...]:
    """Commands to paste; none if all is there.

    Args:
        backend: as :class:`.advice.Advice` names it.
    """
    if backend == "tensorrt" and machine.jetson is not None:
        return _jetson(machine)
    if backend.startswith("tensorrt"):
        return _workstation(machine, backend)
    if backend == "onnxruntime-gpu":
        return _onnxruntime_gpu(machine)
    if machine.onnxruntime.version is None:
        return ("pip install onnxruntime",)
    return ()


def own_source() -> str:
    """The source of seq2edge for pip, as a word of the shell: no package index has it.

    The folder or address that this installation came from (PEP 610); else what a clone is named.
    """
    # A build leaves its own metadata in a clone, which may come first and does not say.
    records = (found.read_text("direct_url.json") for found in distributions(name="seq2edge"))
    record = next(filter(None, records), None)
    url = str(json.loads(record).get("url", "")) if record else ""
    if url.startswith("file://"):
        return shlex.quote(url2pathname(urlsplit(url).path))
    return shlex.quote(url or "./seq2edge")


def bindings_for(cuda: str | None) -> str:
    """The cuda-bindings to ask for: of CUDA's major version, whose minors are compatible
    (https://nvidia.github.io/cuda-python/cuda-bindings/latest/support.html).
    """
    return "cuda-bindings~=12.6" if numbers(cuda)[:1] == (12,) else "cuda-bindings~=13.0"


def has_bindings(machine: Machine, cuda: str | None) -> bool:
    """Whether cuda-bindings of the right major version is installed."""
    return numbers(machine.cuda.bindings)[:1] == numbers(cuda)[:1] != ()


def cuda_version(machine: Machine) -> str:
    """The CUDA that libraries should be for: the JetPack's, or the newest for the driver."""
    if machine.jetson is not None and machine.jetson.stack is not None:
        return machine.jetson.stack.cuda
    if machine.cuda.driver_cuda is not None:
        return machine.cuda.driver_cuda
    driver = numbers(machine.cuda.driver)
    return "12.6" if driver and driver[0] < DRIVER_OF_CUDA[13] else "13.0"


def _jetson(machine: Machine) -> tuple[str, ...]:
    # JetPack's TensorRT is a Debian package of the system's Python. A virtual environment sees it
    # only with --system-site-packages. Up to 7.2.1 the index's aarch64 wheels are for servers.
    commands: list[str] = []
    if machine.library("tensorrt").version is None:
        commands += [
            "sudo apt-get update",
            "sudo apt-get install -y nvidia-jetpack python3-libnvinfer python3-venv",
            "python3 -m venv --system-site-packages ~/seq2edge",
            ". ~/seq2edge/bin/activate",
        ]
    cuda = cuda_version(machine)
    if commands:  # for the new environment
        commands.append(f"pip install {own_source()} '{bindings_for(cuda)}'")
    elif not has_bindings(machine, cuda):
        commands.append(f"pip install '{bindings_for(cuda)}'")
    return tuple(commands)


def _workstation(machine: Machine, backend: str) -> tuple[str, ...]:
    cuda = cuda_version(machine)
    if machine.library(backend).version is not None and has_bindings(machine, cuda):
        return ()
    if backend == "tensorrt" and numbers(cuda)[:1] == (12,):
        # The plain name is for the newest CUDA, which this driver does not run.
        return (f"pip install 'tensorrt-cu12>=10.15' '{bindings_for(cuda)}'",)
    return (f"pip install {backend} '{bindings_for(cuda)}'",)


def _onnxruntime_gpu(machine: Machine) -> tuple[str, ...]:
    if machine.onnxruntime.runs("CUDAExecutionProvider"):
        return ()
    install = "pip install onnxruntime-gpu"
    if machine.onnxruntime.version is None:
        return (install,)
    # Both packages are the same module: the one must go before the other comes.
    return ("pip uninstall -y onnxruntime onnxruntime-gpu", install)
