"""Deployment targets: what a device has, what it needs installed, which bundles it can run.

Nothing here asks the device: a Jetson has what its JetPack brought, and packages are pinned. What
runs where is decided by the doctor, who is shown the machine that it will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seq2edge.runtime.backends.onnxruntime import check_version
from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import BackendError, InputError

from .doctor import Advice, Machine, advise, check_bundle
from .doctor.facts import (
    Cpu,
    Cuda,
    Gpu,
    Memory,
    OnnxRuntime,
    Provider,
    Sensors,
    Stack,
    TensorRt,
    numbers,
)
from .doctor.jetpack import RELEASES, release
from .doctor.machine import ATTENTION_TENSORRT, CACHE_UPDATE_TENSORRT
from .pins import (
    CUDA,
    NEW,
    NUMPY,
    OLD,
    ONNXRUNTIME,
    ONNXRUNTIME_GPU,
    SERVICE,
    TENSORRT,
    TOKENIZERS,
    WYOMING,
    pins_of,
)

Version = tuple[int, int]

#: Where it is not known: the least that all of the pins above are for.
_NEWEST_PYTHON: Version = (3, 11)
#: Of a box with a GPU, the version that is pinned.
_NEWEST_TENSORRT: Version = (10, 16)


@dataclass(frozen=True)
class JetPack:
    """A JetPack release: the targets that it is for, and what it brings."""

    version: str
    targets: tuple[str, ...]
    stack: Stack

    @property
    def python(self) -> Version:
        major, minor = numbers(self.stack.python)[:2]
        return major, minor

    @property
    def tensorrt(self) -> Version:
        major, minor = numbers(self.stack.tensorrt)[:2]
        return major, minor


def _jetpack(l4t: str, *targets: str) -> JetPack:
    """The release of a Jetson Linux that the doctor knows."""
    version, stack = release(l4t)
    if version is None or stack is None:
        raise AssertionError(f"no JetPack has Jetson Linux {l4t}")
    return JetPack(version, targets, stack)


#: The newest last. An update such as 6.2.1 or 7.2.2 brings what 6.2 or 7.2 brings.
JETPACKS = (
    _jetpack("36.4.0", "jetson-orin"),
    _jetpack("36.4.3", "jetson-orin"),
    _jetpack("38.2", "jetson-thor"),
    _jetpack("38.4", "jetson-thor"),
    _jetpack("39.2.0", "jetson-orin", "jetson-thor"),
)


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        engines: that run there, the usual one first.
        device: where the ``onnxruntime`` engine computes.
        capability: the least compute capability of its GPU; None: it has none.
        machine: as ``uname -m`` says it.
        jetpack: the release that is meant when none is named; None: not a Jetson.
    """

    name: str
    summary: str
    machine: str
    engines: tuple[str, ...]
    device: str = "cpu"
    capability: str | None = None
    jetpack: str | None = None


#: Orin boards in the field run JetPack 6; 7.2 is the first that both kinds of board share.
TARGETS = (
    Target(
        "jetson-orin",
        "Jetson Orin, JetPack 6.1, 6.2 or 7.2",
        "aarch64",
        ("tensorrt", "onnxruntime"),
        capability="8.7",
        jetpack="6.2",
    ),
    Target(
        "jetson-thor",
        "Jetson Thor, JetPack 7.0 to 7.2",
        "aarch64",
        ("tensorrt", "onnxruntime"),
        capability="11.0",
        jetpack="7.2",
    ),
    Target(
        "gpu",
        "x86 with an NVIDIA GPU",
        "x86_64",
        ("onnxruntime", "tensorrt", "tensorrt-rtx"),
        device="cuda",
        capability="8.0",
    ),
    Target("cpu", "x86 without a GPU", "x86_64", ("onnxruntime",)),
    Target("cpu-arm64", "64 bit ARM without a GPU", "aarch64", ("onnxruntime",)),
    Target(
        "raspberry-pi",
        "Raspberry Pi 3, 4, 5 or Zero 2 W with a 64 bit system",
        "aarch64",
        ("onnxruntime",),
    ),
)


@dataclass(frozen=True)
class Deployment:
    """Where and with what a bundle is to run.

    Attributes:
        backend: ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``.
        device: ``cpu`` or ``cuda``.
        python: the least version; on a Jetson the only one.
        requirements: exact pins, lines of a requirements.txt that is installed without
            dependencies.
        service: whether ``seq2edge serve`` is to run there; its packages are pinned too.
    """

    target: Target
    jetpack: JetPack | None
    backend: str
    device: str
    python: Version
    requirements: tuple[str, ...]
    service: bool = False

    @property
    def place(self) -> str:
        """For people, such as ``jetson-orin (JetPack 6.2)``."""
        return self.target.name + (f" (JetPack {self.jetpack.version})" if self.jetpack else "")

    @property
    def builds_engines(self) -> bool:
        return self.backend != "onnxruntime"

    @property
    def service_requirements(self) -> tuple[str, ...]:
        """Those of ``requirements`` that only the service needs."""
        tables = (*SERVICE, WYOMING)
        names = {pin.partition("==")[0] for table in tables for pin in table.values()}
        return tuple(pin for pin in self.requirements if pin.partition("==")[0] in names)


def plan(
    bundle: Bundle,
    target: str,
    *,
    jetpack: str | None = None,
    backend: str | None = None,
    service: bool = False,
) -> Deployment:
    """Plan how a bundle runs on a target: backend, device and packages.

    Args:
        target: a name of :data:`TARGETS`.
        jetpack: a version of :data:`JETPACKS`, or an update of one; None: the target's usual
            one.
        backend: None: the target's usual one, or TensorRT for a bundle quantized for it.
        service: whether it is to answer requests there, which takes more packages.

    Raises:
        InputError: an unknown target, or a JetPack or an engine that it does not have.
        BackendError: the bundle cannot run there; why, and what to do.
    """
    bundle.require_slots("pack")
    spec = _find(target)
    jetpack_release = _release(spec, jetpack)
    backend = backend or _usual_engine(spec, bundle.manifest)
    _check_backend(spec, backend)
    deployment = Deployment(
        target=spec,
        jetpack=jetpack_release,
        backend=backend,
        device=spec.device if backend == "onnxruntime" else "cuda",
        python=jetpack_release.python if jetpack_release else _least_python(bundle.manifest),
        requirements=(
            *_requirements(spec, jetpack_release, backend),
            *(_service_requirements(bundle.manifest, jetpack_release) if service else ()),
        ),
        service=service,
    )
    _check(bundle, deployment)
    return deployment


def advise_target(target: str, *, jetpack: str | None = None, backend: str | None = None) -> Advice:
    """The doctor's advice for a target: backend, quantization schemes, and whether to lower.

    Args:
        target: as of :func:`plan`.
        jetpack: as of :func:`plan`.
        backend: as of :func:`plan`.

    Raises:
        InputError: an unknown target, or a JetPack or an engine that it does not have.
    """
    spec = _find(target)
    jetpack_release = _release(spec, jetpack)
    if backend is not None:
        _check_backend(spec, backend)
        if backend == "onnxruntime" and spec.device == "cuda":
            backend = "onnxruntime-gpu"  # the doctor's name for it
    python = jetpack_release.python if jetpack_release else _NEWEST_PYTHON
    return advise(_machine(spec, jetpack_release, python), backend)


def _find(target: str) -> Target:
    match = next((candidate for candidate in TARGETS if candidate.name == target), None)
    if match is None:
        names = ", ".join(candidate.name for candidate in TARGETS)
        raise InputError(f"unknown target {target!r}; there are: {names}")
    return match


def _check_backend(target: Target, backend: str) -> None:
    if backend not in target.engines:
        raise InputError(
            f"{target.name} has no engine {backend!r}; it has: {', '.join(target.engines)}"
        )


def _release(target: Target, version: str | None) -> JetPack | None:
    if target.jetpack is None:
        if version is not None:
            raise InputError(f"{target.name} is no Jetson: leave out --jetpack")
        return None
    requested = version or target.jetpack
    for jetpack in _releases(target):
        if f"{requested}.".startswith(f"{jetpack.version}."):
            if requested not in RELEASES:
                updates = [name for name in RELEASES if name.startswith(jetpack.version)]
                raise InputError(
                    f"JetPack {requested} is not known here; {jetpack.version} is, up to"
                    f" {updates[-1]}. If it is an update of that, choose {jetpack.version}: updates"
                    " have brought the same TensorRT and Python so far"
                )
            return jetpack
    versions = ", ".join(jetpack.version for jetpack in _releases(target))
    raise InputError(f"{target.name} has no JetPack {requested}; there are: {versions}")


def _releases(target: Target) -> list[JetPack]:
    return [jetpack for jetpack in JETPACKS if target.name in jetpack.targets]


def _usual_engine(target: Target, manifest: Manifest) -> str:
    quantized_for = manifest.quantization.get("target")
    return quantized_for if quantized_for in target.engines else target.engines[0]


def _least_python(manifest: Manifest) -> Version:
    """3.10 where the onnxruntime that it has is new enough for the graphs."""
    try:
        check_version(_version_of(ONNXRUNTIME[OLD]), manifest)
    except BackendError:
        return (3, 11)
    return (3, 10)


def _requirements(target: Target, jetpack: JetPack | None, backend: str) -> tuple[str, ...]:
    """Pins; with markers where the machine's Python is not known."""
    tables: list[Mapping[str, str]] = [NUMPY]
    if backend == "onnxruntime" or target.device == "cpu":  # on a Jetson also beside TensorRT
        tables.append(ONNXRUNTIME if target.device == "cpu" else ONNXRUNTIME_GPU)
    pins = pins_of(tables, jetpack.python if jetpack else None)
    pins.append(TOKENIZERS)
    if backend != "onnxruntime":
        pins += CUDA[numbers(jetpack.stack.cuda)[0] if jetpack else 13]
        pins += () if jetpack else TENSORRT[backend]
    return tuple(pins)


def _service_requirements(manifest: Manifest, jetpack: JetPack | None) -> list[str]:
    tables = [*SERVICE, *([WYOMING] if manifest.speech is not None else [])]
    return pins_of(tables, jetpack.python if jetpack else None)


def _check(bundle: Bundle, deployment: Deployment) -> None:
    """Refuse a bundle that the deployment's engine cannot run."""
    if deployment.backend == "onnxruntime" and deployment.python < _least_python(bundle.manifest):
        raise BackendError(
            f"the newest onnxruntime for the Python of {deployment.place} is"
            f" {_version_of(ONNXRUNTIME[OLD])}, too old for the bundle's operators: run"
            " 'seq2edge downgrade' on the bundle, or use a newer JetPack"
        )
    name = deployment.backend
    if name == "onnxruntime" and deployment.device == "cuda":
        name = "onnxruntime-gpu"  # the doctor's name for it
    machine = _machine(deployment.target, deployment.jetpack, deployment.python)
    fits = check_bundle(bundle, machine).engines
    problem = next(fit.problem for fit in fits if fit.backend == name)
    if problem is not None:
        raise BackendError(
            f"the bundle cannot run on {deployment.place} with {deployment.backend}: {problem}"
        )


def _machine(target: Target, jetpack: JetPack | None, python: Version) -> Machine:
    """The machine as it will be when all is installed, as far as a bundle's fit asks."""
    gpu = target.capability is not None
    tensorrt = jetpack.tensorrt if jetpack else _NEWEST_TENSORRT
    attention = tensorrt >= ATTENTION_TENSORRT
    update = tensorrt >= CACHE_UPDATE_TENSORRT
    old = jetpack is not None and jetpack.python < (3, 11)
    return Machine(
        board=None,
        system=None,
        python=_dotted(python),
        cpu=Cpu(target.name, target.machine, None, None, None, None, ()),
        memory=Memory(None, None, None, None, 0, None, None),
        onnxruntime=OnnxRuntime(
            _version_of(ONNXRUNTIME[OLD if old else NEW]),
            tuple(Provider(f"{kind}ExecutionProvider", True) for kind in ("CPU", "CUDA")),
        ),
        tensorrt=tuple(
            TensorRt(backend, _dotted(tensorrt), attention, update)
            for backend in target.engines
            if backend != "onnxruntime"
        ),
        cuda=Cuda((Gpu(target.name, target.capability),), bindings="any", devices=1)
        if gpu
        else Cuda(),
        jetson=None,
        sensors=Sensors((), (), ()),
    )


def _version_of(pin: str) -> str:
    return pin.partition("==")[2]


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
