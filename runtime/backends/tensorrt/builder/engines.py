"""Build a bundle's engines: a folder of plans, whole or not at all.

TensorRT-RTX needs no GPU for this: it builds for the compute capabilities that it is told.
TensorRT builds for the GPU that it runs on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....bundle.atomic_write import check_folder
from ....bundle.reader import Bundle
from ....errors import BackendError, InputError, OutputExistsError
from ....progress import StageProgress
from ...limits import Limits, check_limits
from ..cuda import DeviceProperties, load_cuda
from ..engine_cache import cache_folder, folder_of, graph_hashes, sound_engines
from ..engine_store import (
    ENGINES_NAME,
    EngineFile,
    EngineKey,
    EngineSet,
    EngineWriter,
    engine_graphs,
)
from ..library import Library, load_library
from .plan import Target, build_plan
from .report import Gemm
from .timing import TimingCache

#: TensorRT counts it in 64 bits, with a sign.
_LARGEST_WORKSPACE = 2**63 - 1

#: GEMMs that a message names.
_MOST_NAMES = 3


@dataclass(frozen=True)
class Options:
    """Options of a build.

    Attributes:
        engine: ``tensorrt-rtx`` or ``tensorrt``; None: the first that is installed.
        limits: the largest shapes; None: :meth:`Limits.of` the model.
        compute_capabilities: of the GPUs to build for, such as ``8.6``; empty: the GPU of this
            machine. Only TensorRT-RTX builds for others.
        workspace_bytes: device memory that kernels may use while they run; None: any.
        allow_fallback: build even where a GEMM comes out in another precision than the graph
            asks for.
    """

    engine: str | None = None
    limits: Limits | None = None
    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    allow_fallback: bool = False


def build_engines(
    bundle: Bundle,
    out: str | os.PathLike[str],
    options: Options | None = None,
    *,
    overwrite: bool = False,
    progress: StageProgress | None = None,
) -> EngineSet:
    """Build the engines of a bundle's graphs into the folder ``out``, whole or not at all.

    The precision is the graphs' own: networks are strongly typed, nothing is cast.

    Args:
        bundle: the opened bundle.
        out: the folder to write: ``encoder.engine``, ``decoder.engine``, ``engines.json`` (of
            speech ``features.engine`` and, for times of words, ``alignment.engine`` too).
        options: what to build; None: the defaults.
        overwrite: replace a folder of engines that is there.
        progress: called as the builder goes on; an exception that it raises ends the build.

    Returns:
        What ``engines.json`` says, with a report for each engine. A float32 bundle is built,
        with a ``UserWarning``.

    Raises:
        BundleError: the bundle's files have changed since they were written.
        BackendError: no TensorRT, a GPU that it does not build for, a graph that it refuses, or
            a GEMM that lost its precision.
        InputError: limits that the model or TensorRT cannot use.
        OutputExistsError, OutputError: ``out`` may not be replaced, or cannot be written.
    """
    options = options or Options()
    target, key = _resolve(bundle, options)
    return _build(bundle, Path(out), target, key, options, overwrite, progress)


def ensure_engines(
    bundle: Bundle,
    options: Options | None = None,
    *,
    overwrite: bool = False,
    progress: StageProgress | None = None,
) -> tuple[Path, EngineSet, bool]:
    """The bundle's engines of these options, from the cache beside it or built into it.

    Engines that are there for the same key are taken as they are, if they are whole; truncated
    or changed ones are built again, and so is everything with ``overwrite``.

    Returns:
        The folder, what it holds, and whether it was built now.

    Raises:
        As :func:`build_engines`.
    """
    options = options or Options()
    target, key = _resolve(bundle, options)
    folder = folder_of(bundle, key)
    if folder.exists():
        _require_engines(folder)
    if folder.exists() and not overwrite:
        try:
            engines = sound_engines(folder)
        except BackendError as error:
            warnings.warn(f"{error}; it is built again", stacklevel=2)
        else:
            _refuse_fallback(library=target.library, engines=engines.engines, options=options)
            return folder, engines, False
    return folder, _build(bundle, folder, target, key, options, True, progress), True


def _require_engines(folder: Path) -> None:
    """Refuse a place in the cache that something else has taken."""
    try:
        check_folder(folder, True, ENGINES_NAME, "a folder of engines")
    except OutputExistsError:
        raise OutputExistsError(
            f"{folder} is where the engines belong, and holds something else; delete it"
        ) from None


def _resolve(bundle: Bundle, options: Options) -> tuple[Target, EngineKey]:
    """Check the options; the key tells engines of one build from those of any other."""
    bundle.require_slots("build")
    manifest = bundle.manifest
    library = load_library(options.engine)
    capabilities = _capabilities(library, options.compute_capabilities)
    limits = options.limits or Limits.of(manifest.dimensions, speech=manifest.speech is not None)
    check_limits(limits, manifest.dimensions)
    workspace = options.workspace_bytes
    if workspace is not None and not 1 <= workspace <= _LARGEST_WORKSPACE:
        raise InputError(
            f"a workspace of {workspace} bytes must be at least 1 and at most {_LARGEST_WORKSPACE}"
        )
    gpu = None if options.compute_capabilities else _gpu(library)
    key = EngineKey(
        engine=library.engine,
        version=library.version,
        compute_capabilities=(gpu.compute_capability,)
        if gpu is not None
        else tuple(dict.fromkeys(options.compute_capabilities)),
        gpu=None if gpu is None else gpu.name,
        limits=limits,
        workspace_bytes=options.workspace_bytes,
        bundle_sha256=graph_hashes(bundle),
    )
    return Target(library, tuple(capabilities), limits, options.workspace_bytes), key


def _gpu(library: Library) -> DeviceProperties:
    try:
        return load_cuda().gpu()
    except BackendError as error:
        hint = ""
        if library.engine == "tensorrt-rtx":
            hint = "; or name the GPU to build for with --compute-capability"
        raise BackendError(f"engines are built for this machine's GPU: {error}{hint}") from None


def _build(
    bundle: Bundle,
    out: Path,
    target: Target,
    key: EngineKey,
    options: Options,
    overwrite: bool,
    progress: StageProgress | None,
) -> EngineSet:
    bundle.verify()  # the key tells engines of these bytes by the manifest's hashes
    files = {}
    timing = TimingCache(cache_folder(bundle), target.library, key)
    with EngineWriter(out, overwrite=overwrite) as writer:
        for name in engine_graphs(bundle.manifest):

            def report(phase: str, done: int, total: int, graph: str = name) -> None:
                if progress is not None:
                    progress(f"{graph}: {phase}", done, total)

            plan = build_plan(bundle, name, target, report, timing)
            files[name] = EngineFile(*writer.write(f"{name}.engine", plan.data), plan.report)
        _refuse_fallback(target.library, files, options)
        engines = EngineSet(key, files)
        writer.commit(engines)
    timing.save()
    _warn_of_float32(bundle)  # not of what failed: the error is enough
    return engines


def _refuse_fallback(library: Library, engines: Mapping[str, EngineFile], options: Options) -> None:
    lost = [gemm for engine in engines.values() for gemm in engine.report.lost]
    if lost and not options.allow_fallback:
        raise BackendError(
            f"{library.engine} {library.version} computes {len(lost)} of the GEMMs in another"
            f" precision than the bundle asks for: {_lost(lost)}; quantize another way, or"
            " accept it with --allow-fallback"
        )


def _lost(gemms: Sequence[Gemm]) -> str:
    shown = [f"{gemm.name} ({gemm.asked}) with {gemm.built}" for gemm in gemms[:_MOST_NAMES]]
    if len(gemms) > _MOST_NAMES:
        shown.append(f"and {len(gemms) - _MOST_NAMES} more")
    return "; ".join(shown)


def _capabilities(library: Library, names: Sequence[str]) -> list[Any]:
    """Members of TensorRT-RTX's ``ComputeCapability``; none for TensorRT, which has no choice."""
    members = getattr(library.module, "ComputeCapability", None)
    if members is None:
        if names:
            raise BackendError(
                f"{library.engine} builds for the GPU of the machine that it runs on; build on"
                " the device without --compute-capability, or use tensorrt-rtx"
            )
        return []
    if not names:
        return [members.CURRENT]
    supported = library.compute_capabilities()
    unknown = [name for name in names if name not in supported]
    if unknown:
        raise BackendError(
            f"{library.engine} {library.version} does not build for compute capability"
            f" {unknown[0]!r}; it does for {', '.join(supported)}"
            " (for Jetson Orin's 8.7, build with tensorrt on the device)"
        )
    return [supported[name] for name in dict.fromkeys(names)]


def _warn_of_float32(bundle: Bundle) -> None:
    cache = {spec.dtype for spec in bundle.manifest.graphs["decoder"].inputs}
    if "float32" in cache:
        warnings.warn(
            f"{bundle.directory} is a float32 bundle, and TensorRT keeps the graph's precision:"
            " these engines compute in float32; for float16, int8 or int4 quantize"
            " the bundle with --target tensorrt first",
            stacklevel=3,
        )
