"""One graph becomes one plan: parse it, set its shapes, let TensorRT compile it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....bundle.manifest import GraphInfo
from ....bundle.reader import Bundle
from ....errors import BackendError
from ....progress import StageProgress
from ...limits import Limits
from ..library import Library, Message, deferred_interrupts, logger, recorded
from .build_log import read_log
from .network import attentions, summarize
from .onnx_shapes import set_dimension
from .profile import SLOTS, profiles
from .report import GraphReport, make_report
from .timing import TimingCache

#: Messages of a failed build can hold a whole graph.
_LONGEST_REASON = 600

#: A graph with an operator that TensorRT lacks has it in every layer.
_MOST_REASONS = 3

#: What TensorRT-RTX logs wherever there is no GPU: true, and not why a build failed.
_NO_GPU = "CUDA driver version is insufficient"

#: In TensorRT-RTX's reason for refusing a type that these GPUs lack.
_TURING = ("SM75", "sm75")


@dataclass(frozen=True)
class Plan:
    """A serialized engine, as a buffer, and what is known of it."""

    data: Any
    report: GraphReport


@dataclass(frozen=True)
class Target:
    """One TensorRT and what it builds for: checked options.

    ``capabilities`` are members of TensorRT-RTX's ``ComputeCapability``; none for TensorRT.
    """

    library: Library
    capabilities: tuple[Any, ...]
    limits: Limits
    workspace_bytes: int | None


def build_plan(
    bundle: Bundle,
    graph: str,
    target: Target,
    progress: StageProgress,
    timing: TimingCache | None = None,
) -> Plan:
    """Build one graph of a bundle.

    Raises:
        BackendError: TensorRT refuses the graph; with its reason and, from the parser, the node.
        InputError: the graph has a dimension that no limit belongs to.
    """
    library, limits = target.library, target.limits
    trt = library.module
    info = bundle.manifest.graphs[graph]
    shapes = profiles(info, limits, bundle.manifest.speech)
    with recorded(library) as messages, deferred_interrupts() as stopped:
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
        config = _config(target, builder)
        config.progress_monitor = _monitor(trt, progress, stopped)
        if timing is not None:
            timing.use(config)
        for inputs in shapes:
            profile = builder.create_optimization_profile()
            for name, (small, usual, large) in inputs.items():
                profile.set_shape(name, small, usual, large)
            config.add_optimization_profile(profile)
        data = builder.build_serialized_network(network, config)
        if data is None:
            raise _build_error(library, info, messages, "it gave no reason")
        summary = summarize(trt, network)
    log = read_log(messages, len(shapes))
    return Plan(data, make_report(summary, log, data.nbytes))


def _parse(library: Library, network: Any, bundle: Bundle, info: GraphInfo, limits: Limits) -> None:
    path = bundle.path(info.file)
    try:
        model = set_dimension(path.read_bytes(), SLOTS, limits.max_target_length)
    except ValueError as error:
        raise BackendError(f"{path}: {error}; copy or export the bundle again") from None
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
    raise BackendError(
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


def _config(target: Target, builder: Any) -> Any:
    """A builder's settings."""
    trt = target.library.module
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if target.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_bytes)
    if target.capabilities:
        config.num_compute_capabilities = len(target.capabilities)
        for index, capability in enumerate(target.capabilities):
            config.set_compute_capability(capability, index)
    return config


def _monitor(trt: Any, progress: StageProgress, stopped: list[BaseException]) -> Any:
    """TensorRT's progress monitor over ``progress``; a build ends once ``stopped`` is not empty."""
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


def _build_error(
    library: Library, info: GraphInfo, messages: Sequence[Message], fallback: str
) -> BackendError:
    errors = [message.text for message in messages if "ERROR" in message.severity]
    reasons = [text for text in errors if _NO_GPU not in text] or errors or [fallback]
    hint = ""
    if all(_NO_GPU in reason for reason in reasons):
        hint = "; there is no GPU here: name the one to build for with --compute-capability"
    if any(sign in reason for reason in reasons for sign in _TURING):
        hint = "; compute capability 7.5 takes float16 alone: quantize with --scheme fp16"
    if any("workspace" in reason for reason in reasons):
        hint = "; allow kernels more memory with --workspace"
    return BackendError(
        f"{library.engine} {library.version} cannot build {info.file}: {_short(reasons[-1])}{hint}"
    )


def _short(reason: str) -> str:
    """TensorRT's reason on one line, without what it says wherever there is no GPU."""
    lines = [line for line in reason.splitlines() if _NO_GPU not in line] or [reason]
    text = " ".join(" ".join(lines).split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."
