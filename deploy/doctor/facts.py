"""Results of the probes. None always means unknown, and sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cpu:
    """The processor.

    Attributes:
        model: its name, or the board's where the kernel names that.
        architecture: as ``uname -m`` says, such as ``x86_64`` or ``aarch64``.
        physical_cores, logical_cores: of the machine, without and with hyper-threads.
        usable_cores: that this process may run on (its affinity).
        cgroup_cores: processor time that the control group allows, in cores; None: no limit.
        features: instructions that matter for inference, by the kernel's names, that every
            core has.
    """

    model: str
    architecture: str | None
    physical_cores: int | None
    logical_cores: int | None
    usable_cores: int | None
    cgroup_cores: float | None
    features: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Main memory, which a Jetson's GPU shares.

    Attributes:
        total, available: as the kernel counts them; available is what a new process can get.
        swap_total, swap_free: of all swap.
        zram_total: the part of swap that is compressed main memory.
        cgroup_limit, cgroup_used: of the control group; None where it has no limit. Used leaves
            out file pages that the kernel would drop first.
    """

    total: int | None
    available: int | None
    swap_total: int | None
    swap_free: int | None
    zram_total: int
    cgroup_limit: int | None
    cgroup_used: int | None

    def usable(self) -> int | None:
        """Bytes that a new process can allocate before the machine or the control group is full."""
        left = None
        if self.cgroup_limit is not None:
            left = max(0, self.cgroup_limit - (self.cgroup_used or 0))
        bounds = [size for size in (self.available, left) if size is not None]
        return min(bounds, default=None)


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime.

    Attributes:
        runs: whether it ran a small graph; None: it was not tried.
        problem: why not.
    """

    name: str
    runs: bool | None
    problem: str | None = None


@dataclass(frozen=True)
class OnnxRuntime:
    """The installed ONNX Runtime; ``version`` is None where there is none that can be imported."""

    version: str | None
    providers: tuple[Provider, ...] = ()
    problem: str | None = None

    def runs(self, provider: str) -> bool:
        return any(entry.name == provider and entry.runs for entry in self.providers)


@dataclass(frozen=True)
class OpenVino:
    """The installed OpenVINO, which can run encoders.

    Attributes:
        version: None where it is not installed or cannot be imported.
        devices: the precision that each computes in unless another is asked for, by its name
            (``cpu``, ``gpu``, ``npu``).
        problem: why it cannot be imported, though it is installed.
    """

    version: str | None = None
    devices: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class TensorRt:
    """TensorRT or TensorRT-RTX.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: None where it is not installed or cannot be imported.
        attention, cache_update: whether networks have these layers (10.14, and 10.15 or RTX).
        compute_capabilities: that it builds for without such a GPU; TensorRT-RTX only.
        problem: why it cannot be imported, though it is installed.
    """

    backend: str
    version: str | None = None
    attention: bool = False
    cache_update: bool = False
    compute_capabilities: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU; ``shared_memory``: it has none of its own, as in a Jetson."""

    name: str
    compute_capability: str | None = None
    memory_total: int | None = None
    memory_free: int | None = None
    shared_memory: bool = False

    def supports(self, major: int, minor: int) -> bool:
        """Whether the compute capability is known and at least ``major.minor``."""
        number = numbers(self.compute_capability)
        return bool(number) and number >= (major, minor)


@dataclass(frozen=True)
class Cuda:
    """NVIDIA GPUs and what reaches them.

    Attributes:
        gpus: those that the driver, CUDA or the board's table knows.
        driver: version of the kernel's driver, such as ``580.65.06``.
        driver_cuda: newest CUDA that the driver runs, such as ``13.0``.
        bindings: version of the cuda-bindings package.
        devices: how many GPUs CUDA itself finds; None: without cuda-bindings it was not asked.
        problem: why GPUs cannot be used.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    driver_cuda: str | None = None
    bindings: str | None = None
    devices: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Stack:
    """The software of a JetPack: versions of CUDA, TensorRT and Python, as ``12.6``.

    Attributes:
        index_tensorrt: the TensorRT of the package index that it supports beside its own; None:
            the index's aarch64 wheels are for servers.
    """

    cuda: str
    tensorrt: str
    python: str
    index_tensorrt: str | None = None


@dataclass(frozen=True)
class PowerMode:
    """An nvpmodel mode."""

    number: int | None
    name: str


@dataclass(frozen=True)
class Jetson:
    """A Jetson module.

    Attributes:
        soc: ``tegra234`` (Orin), ``tegra264`` (Thor), ...
        family: ``Orin``, ``Thor``, ``Xavier``.
        l4t: Jetson Linux, such as ``36.4.3``.
        jetpack: the JetPack of that, such as ``6.2``; ``later than`` or ``newer than`` the newest
            that is known.
        stack: what that JetPack brings; what is installed may differ.
        power_mode: the mode it is in.
        power_modes: those that its nvpmodel.conf has.
    """

    soc: str | None
    family: str | None
    l4t: str | None
    jetpack: str | None
    stack: Stack | None
    power_mode: PowerMode | None
    power_modes: tuple[PowerMode, ...]


@dataclass(frozen=True)
class Clock:
    """A clock of the CPU or the GPU. Hz.

    Attributes:
        kind: ``cpu`` or ``gpu``.
        minimum, maximum: between which it may move at the moment.
    """

    kind: str
    name: str
    current: int | None
    minimum: int | None
    maximum: int | None

    @property
    def locked(self) -> bool:
        """Whether it cannot move, as after ``jetson_clocks``."""
        return self.minimum is not None and self.minimum == self.maximum


@dataclass(frozen=True)
class ThermalZone:
    """A temperature. Degrees Celsius.

    Attributes:
        throttles_at: the lowest trip point above which clocks are lowered.
    """

    name: str
    celsius: float
    throttles_at: float | None


@dataclass(frozen=True)
class Rail:
    """A supply that a sensor on the board measures. Watts."""

    name: str
    watts: float


@dataclass(frozen=True)
class Sensors:
    clocks: tuple[Clock, ...]
    zones: tuple[ThermalZone, ...]
    rails: tuple[Rail, ...]


@dataclass(frozen=True)
class Machine:
    """All of it.

    Attributes:
        board: the device tree's name of it, where there is a device tree.
        python: version of the Python that runs this.
        tensorrt: TensorRT-RTX and TensorRT, installed or not.
        jetson: None: this is not one.
    """

    board: str | None
    system: str | None
    python: str
    cpu: Cpu
    memory: Memory
    onnxruntime: OnnxRuntime
    tensorrt: tuple[TensorRt, ...]
    cuda: Cuda
    jetson: Jetson | None
    sensors: Sensors
    openvino: OpenVino = field(default_factory=OpenVino)

    @property
    def gpu(self) -> Gpu | None:
        """The first GPU, which engines take unless told otherwise."""
        return self.cuda.gpus[0] if self.cuda.gpus else None

    def library(self, backend: str) -> TensorRt:
        """The facts about ``tensorrt`` or ``tensorrt-rtx``."""
        libraries = (entry for entry in self.tensorrt if entry.backend == backend)
        return next(libraries, TensorRt(backend))


def numbers(version: str | None) -> tuple[int, ...]:
    """The leading numbers of a version, (12, 6) of ``12.6rc1``; empty if there are none."""
    leading = []
    for part in (version or "").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        leading.append(int(digits))
        if digits != part:
            break
    return tuple(leading)
