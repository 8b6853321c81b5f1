"""Build a bundle's engines: parse each graph, set its shapes, let TensorRT compile it.

TensorRT-RTX needs no GPU for this: it builds for the compute capabilities that it is told.
TensorRT builds for the GPU that it runs on.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...bundle import Bundle
from ...errors import EngineError
from ...manifest import WEIGHTS_NAME, GraphInfo
from .layers import read_log
from .library import Library, Message, load_library, logger, recorded
from .network import attentions, summarize
from .onnx_shapes import set_dimension
from .profile import SLOTS, Limits, check_limits, input_shapes
from .report import GraphReport, make_report
from .store import EngineFile, EngineSet, EngineWriter

#: Called with what is being done, how much of it is done and how much there is.
Progress = Callable[[str, int, int], None]

#: The graphs that become engines.
_GRAPHS = ("encoder", "decoder")

#: Messages of a failed build can hold a whole graph.
_LONGEST_REASON = 600

#: A graph with an operator that TensorRT lacks has it in every layer.
_MOST_REASONS = 3

#: What TensorRT-RTX logs wherever there is no GPU: true, and not why a build failed.
_NO_GPU = "CUDA driver version is insufficient"


@dataclass(frozen=True)
class Plan:
    """A serialized engine, as a buffer, and what is known of it."""

    data: Any
    report: GraphReport


def build_engines(
    bundle: Bundle,
    out: str | os.PathLike[str],
    *,
    engine: str | None = None,
    limits: Limits | None = None,
    compute_capabilities: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> EngineSet:
    """Build the encoder's and the decoder's engine into the folder ``out``, whole or not at all.

    The precision is the graphs' own: networks are strongly typed, nothing is cast.

    Args:
        bundle: the opened bundle.
        out: the folder to write: ``encoder.engine``, ``decoder.engine``, ``engines.json``.
        engine: ``tensorrt-rtx`` or ``tensorrt``; None: the first that is installed.
        limits: the largest shapes; None: :meth:`Limits.of` the model.
        compute_capabilities: of the GPUs to build for, such as ``8.6``; empty: the GPU of this
            machine. Only TensorRT-RTX builds for others.
        overwrite: replace a folder of engines that is there.
        progress: called as the builder goes on; an exception that it raises ends the build.

    Returns:
        What ``engines.json`` says, with a report for each engine. A float32 bundle is built,
        with a ``UserWarning``.

    Raises:
        EngineError: no TensorRT, a GPU that it does not build for, or a graph that it refuses.
        InputError: limits that the model cannot use.
        OutputExistsError, OutputError: ``out`` may not be replaced, or cannot be written.
    """
    manifest = bundle.manifest
    library = load_library(engine)
    capabilities = _capabilities(library, compute_capabilities)
    limits = Limits.of(manifest.dimensions) if limits is None else limits
    check_limits(limits, manifest.dimensions)
    files = {}
    with EngineWriter(out, overwrite=overwrite) as writer:
        for name in _GRAPHS:
            info = manifest.graphs[name]

            def report(phase: str, done: int, total: int, graph: str = name) -> None:
                if progress is not None:
                    progress(f"{graph}: {phase}", done, total)

            plan = build_plan(library, bundle, info, limits, capabilities, report)
            files[name] = EngineFile(*writer.write(f"{name}.engine", plan.data), plan.report)
        used = [manifest.graphs[name].file for name in _GRAPHS] + [WEIGHTS_NAME]
        made = EngineSet(
            engine=library.engine,
            version=library.version,
            compute_capabilities=tuple(dict.fromkeys(compute_capabilities)),
            limits=limits,
            bundle_sha256={file: manifest.files[file].sha256 for file in used},
            engines=files,
        )
        writer.commit(made)
    _warn_of_float32(bundle)  # not of what failed: the error is enough
    return made


def build_plan(
    library: Library,
    bundle: Bundle,
    info: GraphInfo,
    limits: Limits,
    capabilities: Sequence[Any],
    progress: Progress,
) -> Plan:
    """Build one graph of a bundle.

    Args:
        capabilities: members of TensorRT-RTX's ``ComputeCapability``; empty for TensorRT.

    Raises:
        EngineError: TensorRT refuses the graph; with its reason and, from the parser, the node.
        InputError: the graph has a dimension that no limit belongs to.
    """
    trt = library.module
    shapes = input_shapes(info, limits)
    with recorded(library) as messages:
        try:
            builder = trt.Builder(logger(library))
        except (TypeError, RuntimeError) as error:  # the binding's words for "returned null"
            raise _build_error(library, info, messages, str(error)) from None
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(library, network, bundle, info, limits)
        for attention in attentions(trt, network):
            # Where there is no kernel for a whole attention (float32, for one), the build would
            # fail. The report says how many are fused.
            attention.decomposable = True
        config, stopped = _config(library, builder, capabilities, progress)
        profile = builder.create_optimization_profile()
        for name, (small, usual, large) in shapes.items():
            profile.set_shape(name, small, usual, large)
        config.add_optimization_profile(profile)
        data = builder.build_serialized_network(network, config)
        if stopped:
            raise stopped[0]
        if data is None:
            raise _build_error(library, info, messages, "it gave no reason")
        summary = summarize(trt, network)
    return Plan(data, make_report(summary, read_log(messages), data.nbytes))


def _parse(library: Library, network: Any, bundle: Bundle, info: GraphInfo, limits: Limits) -> None:
    path = bundle.path(info.file)
    try:
        model = set_dimension(path.read_bytes(), SLOTS, limits.max_target_length)
    except ValueError as error:
        raise EngineError(f"{path}: {error}; copy or export the bundle again") from None
    parser = library.module.OnnxParser(network, logger(library))
    if parser.parse(model, os.fspath(path)):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    reasons = [
        f"{error.node_name() or 'the graph'} ({error.node_operator() or '-'}):"
        f" {_short(error.desc())}"
        for error in errors[:_MOST_REASONS]
    ]
    if len(errors) > _MOST_REASONS:
        reasons.append(f"and {len(errors) - _MOST_REASONS} more")
    raise EngineError(
        f"{library.engine} {library.version} cannot parse {path}: "
        + ("; ".join(reasons) or "it gave no reason")
        + _target_hint(bundle)
    )


def _target_hint(bundle: Bundle) -> str:
    target = bundle.manifest.quantization.get("target", "tensorrt")
    if target == "tensorrt":
        return ""
    return (
        f" (the bundle was quantized for {target!r}: quantize the float32 bundle again with"
        " --target tensorrt)"
    )


def _config(
    library: Library, builder: Any, capabilities: Sequence[Any], progress: Progress
) -> tuple[Any, list[BaseException]]:
    """A builder's settings, and the list that an exception of ``progress`` is put into."""
    trt = library.module
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for place, capability in enumerate(capabilities):
            config.set_compute_capability(capability, place)
    stopped: list[BaseException] = []
    config.progress_monitor = _monitor(trt, progress, stopped)
    return config, stopped


def _monitor(trt: Any, progress: Progress, stopped: list[BaseException]) -> Any:
    """TensorRT's progress monitor over ``progress``."""
    totals: dict[str, int] = {}

    def tell(phase: str, done: int) -> bool:
        # An exception may not pass through TensorRT: it is kept, and the build told to end.
        if not stopped:
            try:
                progress(phase, done, totals[phase])
            except BaseException as error:
                stopped.append(error)
        return not stopped

    def initialize(self: Any) -> None:
        trt.IProgressMonitor.__init__(self)

    def start(_self: Any, phase: str, _parent: str | None, steps: int) -> None:
        totals[phase] = steps
        tell(phase, 0)

    def step(_self: Any, phase: str, number: int) -> bool:
        return tell(phase, number + 1)

    def finish(_self: Any, phase: str) -> None:
        tell(phase, totals[phase])

    methods = {
        "__init__": initialize,
        "phase_start": start,
        "step_complete": step,
        "phase_finish": finish,
    }
    return type("Monitor", (trt.IProgressMonitor,), methods)()


def _capabilities(library: Library, names: Sequence[str]) -> list[Any]:
    """Members of TensorRT-RTX's ``ComputeCapability``; none for TensorRT, which has no choice."""
    known = getattr(library.module, "ComputeCapability", None)
    if known is None:
        if names:
            raise EngineError(
                f"{library.engine} builds for the GPU of the machine that it runs on; build on"
                " the device without --compute-capability, or use tensorrt-rtx"
            )
        return []
    if not names:
        return [known.CURRENT]
    there = {
        f"{number[:-1]}.{number[-1]}": getattr(known, f"SM{number}")
        for number in re.findall(r"\bSM(\d+)\b", " ".join(dir(known)))
    }
    unknown = [name for name in names if name not in there]
    if unknown:
        order = sorted(there, key=lambda name: [int(part) for part in name.split(".")])
        raise EngineError(
            f"{library.engine} {library.version} does not build for compute capability"
            f" {unknown[0]!r}; it does for {', '.join(order)}"
            " (for Jetson Orin's 8.7, build with tensorrt on the device)"
        )
    return [there[name] for name in dict.fromkeys(names)]


def _warn_of_float32(bundle: Bundle) -> None:
    cache = {spec.dtype for spec in bundle.manifest.graphs["decoder"].inputs}
    if "float32" in cache:
        warnings.warn(
            f"{bundle.directory} is a float32 bundle, and TensorRT keeps the graph's precision:"
            " these engines compute in float32, without fused attention; for float16, int8 or"
            " int4 quantize the bundle with --target tensorrt first",
            stacklevel=3,
        )


def _build_error(
    library: Library, info: GraphInfo, messages: Sequence[Message], fallback: str
) -> EngineError:
    errors = [message.text for message in messages if "ERROR" in message.severity]
    reasons = [text for text in errors if _NO_GPU not in text] or errors or [fallback]
    hint = ""
    if all(_NO_GPU in reason for reason in reasons):
        hint = "; there is no GPU here: name the one to build for with --compute-capability"
    return EngineError(
        f"{library.engine} {library.version} cannot build {info.file}: {_short(reasons[-1])}{hint}"
    )


def _short(reason: str) -> str:
    """TensorRT's reason on one line, without what it says wherever there is no GPU."""
    lines = [line for line in reason.splitlines() if _NO_GPU not in line] or [reason]
    text = " ".join(" ".join(lines).split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."
