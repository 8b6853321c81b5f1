"""NVIDIA GPUs: what the driver says, what CUDA finds, and why it finds nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .commands import PROGRAM_SECONDS, Runner, attempt, short
from .facts import Cuda, Gpu, Jetson, numbers
from .jetpack import compute_capability
from .reading import folders, read_text, to_int

#: First driver of a CUDA's major version: minor versions are compatible
#: (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
DRIVER_OF_CUDA = {12: 525, 13: 580}

_QUERY = ("name", "compute_cap", "memory.total", "memory.free", "driver_version")
NVIDIA_SMI = ("nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits")
#: nvidia-smi counts memory in units of 1,048,576 bytes.
_UNIT = 1 << 20

#: PCI vendor NVIDIA, and the class of display controllers (https://pci-ids.ucw.cz/).
_VENDOR, _DISPLAY = "0x10de", "0x03"


def examine_gpu(root: Path, run: Runner, jetson: Jetson | None) -> Cuda:
    """Ask nvidia-smi and the CUDA runtime (cuda-bindings); a Jetson's table fills the gaps."""
    done = run(NVIDIA_SMI, PROGRAM_SECONDS)
    gpus, driver = _parse(done.out) if done.code == 0 else ([], None)
    answer, problem = attempt(run, "cuda")
    gpus = _complete(gpus, [_gpu(entry) for entry in answer.get("gpus", ())], jetson)
    cuda = Cuda(
        gpus=tuple(gpus),
        driver=driver,
        driver_cuda=answer.get("driver_cuda"),
        bindings=answer.get("bindings"),
        devices=answer.get("devices"),
        problem=problem,
    )
    error = answer.get("error")
    if gpus or not _on_bus(root):
        old = _too_old(driver) if jetson is None else None
        return replace(cuda, problem=old or problem or (error if gpus else None))
    output = short(done.out + done.err) or "nvidia-smi is not installed"
    return replace(
        cuda,
        problem=f"an NVIDIA GPU is there and its driver is not ({output}): install NVIDIA's driver"
        f" {DRIVER_OF_CUDA[13]} or newer",
    )


def _parse(text: str) -> tuple[list[Gpu], str | None]:
    gpus, driver = [], None
    for line in text.splitlines():
        columns = [column.strip() for column in line.rsplit(",", len(_QUERY) - 1)]
        if len(columns) != len(_QUERY):
            continue
        name, capability, total, free, version = columns
        gpus.append(
            Gpu(
                name,
                # A Jetson's has "[N/A]" for what it does not know.
                capability if len(numbers(capability)) == 2 else None,
                _bytes(total),
                _bytes(free),
            )
        )
        driver = version if numbers(version) else driver
    return gpus, driver


def _bytes(text: str) -> int | None:
    number = to_int(text)
    return None if number is None else number * _UNIT


def _gpu(entry: dict[str, Any]) -> Gpu:
    return Gpu(
        str(entry.get("name")),
        entry.get("compute_capability"),
        entry.get("memory_total"),
        shared_memory=bool(entry.get("shared_memory")),
    )


def _complete(listed: list[Gpu], enumerated: list[Gpu], jetson: Jetson | None) -> list[Gpu]:
    """The driver's list with what CUDA knows besides, or CUDA's where the driver has none."""
    if jetson is not None:
        soc_gpu = Gpu(f"GPU of {jetson.soc or 'a Jetson'}", compute_capability(jetson.soc))
        first = (listed or enumerated or [soc_gpu])[0]
        capability = first.compute_capability or soc_gpu.compute_capability
        # What it reports as its memory is main memory, which the CPU uses as well.
        return [Gpu(first.name, capability, shared_memory=True)]
    if len(enumerated) != len(listed):  # CUDA_VISIBLE_DEVICES hides some
        return listed or enumerated
    return [
        replace(
            ours,
            compute_capability=ours.compute_capability or theirs.compute_capability,
            memory_total=ours.memory_total or theirs.memory_total,
            shared_memory=theirs.shared_memory,
        )
        for ours, theirs in zip(listed, enumerated, strict=True)
    ]


def _too_old(driver: str | None) -> str | None:
    oldest, newest = DRIVER_OF_CUDA[12], DRIVER_OF_CUDA[13]
    if driver is None or numbers(driver)[0] >= oldest:
        return None
    return f"the driver {driver} is too old: CUDA 12 needs at least {oldest}, CUDA 13 {newest}"


def _on_bus(root: Path) -> bool:
    """Whether there is an NVIDIA GPU on the PCI bus, with a driver or without."""
    return any(
        read_text(device / "vendor") == _VENDOR
        and (read_text(device / "class") or "").startswith(_DISPLAY)
        for device in folders(root / "sys/bus/pci/devices", "*")
    )
