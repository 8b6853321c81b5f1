"""Problems of a machine at the moment, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .facts import Jetson, Machine, Memory, PowerMode, numbers
from .install import bindings_for, cuda_version, has_bindings

#: Less than this share of memory, or so many bytes, is little.
_LITTLE_SHARE, _LITTLE_BYTES = 0.1, 500_000_000

#: Degrees below the point where clocks are lowered that count as close to it.
_CLOSE = 5.0

#: A Jetson Orin lowers its clocks at 99 degrees (NVIDIA's patch "arm64: tegra: Add thermal support
#: for Tegra234" to Linux, linux-tegra, January 2023: trip point cpu-sw-throttle), where its zones
#: do not say themselves. Of Thor no such figure is known here.
_ORIN_THROTTLES = 99.0

_NVIDIA_PROVIDERS = (
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
)


@dataclass(frozen=True)
class Finding:
    """A problem, and the ``command`` that solves it, if one does."""

    text: str
    command: str | None = None


def findings(machine: Machine) -> tuple[Finding, ...]:
    """All of them, those that keep the model from running first."""
    jetson = machine.jetson
    return (
        *_gpu(machine),
        *_libraries(machine),
        *_memory(machine.memory),
        *_swap(machine),
        *_cores(machine),
        *(_power(machine, jetson) if jetson is not None else ()),
        *(_heat(machine, jetson) if jetson is not None else ()),
    )


def _gpu(machine: Machine) -> Iterator[Finding]:
    cuda, jetson = machine.cuda, machine.jetson
    if cuda.problem is not None:
        yield Finding(f"GPU: {cuda.problem}")
    if cuda.bindings is not None and machine.gpu is not None:
        version = cuda_version(machine)
        if not has_bindings(machine, version):
            yield Finding(
                f"cuda-bindings {cuda.bindings} is for another CUDA than {version}",
                f"pip install '{bindings_for(version)}'",
            )
    if jetson is not None and jetson.stack is not None:
        # JetPack's Python packages are for the Python of its Ubuntu.
        required = numbers(jetson.stack.python)
        if numbers(machine.python)[:2] != required:
            yield Finding(
                f"JetPack's TensorRT is for Python {jetson.stack.python}, and this is"
                f" {machine.python}: use /usr/bin/python3"
            )


def _libraries(machine: Machine) -> Iterator[Finding]:
    runtime = machine.onnxruntime
    if runtime.problem is not None:
        yield Finding(f"onnxruntime cannot be used: {runtime.problem}")
    for provider in runtime.providers:
        if provider.runs is False and provider.name in _NVIDIA_PROVIDERS:
            yield Finding(
                f"onnxruntime lists {provider.name} and cannot run it: {provider.problem}"
            )
        elif provider.runs is False and provider.name == "CPUExecutionProvider":
            yield Finding(f"onnxruntime does not run on the CPU: {provider.problem}")
    if machine.openvino.problem is not None:
        yield Finding(f"openvino cannot be used: {machine.openvino.problem}")
    for library in machine.tensorrt:
        if library.problem is not None:
            yield Finding(f"{library.backend} cannot be used: {library.problem}")


def _memory(memory: Memory) -> Iterator[Finding]:
    usable = memory.usable()
    if usable is not None and memory.total:
        whole = min(memory.total, memory.cgroup_limit or memory.total)
        if usable < max(_LITTLE_SHARE * whole, min(_LITTLE_BYTES, whole / 2)):
            yield Finding(f"little memory is left: {usable / 1e6:.0f} of {whole / 1e6:.0f} MB")


def _swap(machine: Machine) -> Iterator[Finding]:
    memory = machine.memory
    if not memory.zram_total or memory.swap_total is None or memory.swap_free is None:
        return
    used = memory.swap_total - memory.swap_free
    yield Finding(
        f"{memory.zram_total / 1e6:.0f} MB of swap are compressed main memory (zram), and"
        f" {used / 1e6:.0f} MB of swap are in use: what is there still takes memory, and time",
        # JetPack's service (dusty-nv/jetson-inference, docs/pytorch-transfer-learning.md). Not
        # while it is in use: what it holds would have to go somewhere.
        "sudo systemctl disable --now nvzramconfig" if machine.jetson and not used else None,
    )


def _cores(machine: Machine) -> Iterator[Finding]:
    allowed, usable = machine.cpu.cgroup_cores, machine.cpu.usable_cores
    if allowed is not None and usable is not None and allowed < usable:
        yield Finding(
            f"the control group allows {allowed:g} of {usable} cores: more threads than that wait"
            f" for each other (--threads {max(1, int(allowed))})"
        )


def _power(machine: Machine, jetson: Jetson) -> Iterator[Finding]:
    mode = jetson.power_mode
    if mode is not None and not mode.name.startswith("MAXN"):
        best = _fastest(jetson.power_modes)
        command = None if best is None else f"sudo nvpmodel -m {best.number}"
        text = f"the power mode is {mode.name}, which is not the fastest"
        if best is None:
            text += " (grep POWER_MODEL /etc/nvpmodel.conf lists them)"
        yield Finding(text, command)
    moving = {clock.kind for clock in machine.sensors.clocks if not clock.locked}
    if moving:
        kinds = " and ".join(kind.upper() for kind in sorted(moving))
        yield Finding(f"the {kinds} clocks change with the load", "sudo jetson_clocks")


def _fastest(modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """MAXN_SUPER where there is one, else MAXN: its number differs between boards."""
    fast = [mode for mode in modes if mode.name.startswith("MAXN")]
    return max(fast, key=lambda mode: len(mode.name), default=None)


def _heat(machine: Machine, jetson: Jetson) -> Iterator[Finding]:
    """The zone that is nearest to lowering clocks, if it is near: the others are beside it."""
    fallback = _ORIN_THROTTLES if jetson.family == "Orin" else None
    limits = [(zone.throttles_at or fallback, zone) for zone in machine.sensors.zones]
    near = [
        (zone.celsius - limit, zone.name, zone.celsius, limit)
        for limit, zone in limits
        if limit is not None and zone.celsius > limit - _CLOSE
    ]
    for above, name, celsius, limit in sorted(near)[-1:]:
        state = "throttles" if above >= 0 else "is close to throttling"
        yield Finding(
            f"{name} {state}: {celsius:.0f} of {limit:.0f} degrees; cool it, or choose a power"
            " mode of fewer watts"
        )
