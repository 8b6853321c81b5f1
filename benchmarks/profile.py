"""Where the time of a generation goes: by kind of operator and by layer.

ONNX Runtime's profiler times each node. That costs time itself, some microseconds per node, which
are not counted: shares are of the nodes' times, and their sum is less than the generation's.

Engines of TensorRT and TensorRT-RTX are timed layer by layer by TensorRT's own profiler, without
CUDA graphs. Tested on a fake TensorRT; **not run on a GPU yet**.

A node belongs to the layer in its name (``decoder/layers.3/...``). Nodes that the engine or a
quantizer has made are named otherwise; they count for the layer of the named node before them.
"""

from __future__ import annotations

import gc
import json
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seq2edge.runtime.backends.onnxruntime.session import profiled
from seq2edge.runtime.backends.tensorrt.execution.layer_times import layer_times
from seq2edge.runtime.errors import InputError

from .latency import LatencyRunner
from .workload import Workload

_RUNS = 5
_LAYER = re.compile(r"layers\.(\d+)")
_FUSED = re.compile(r"__myl_(\w+?)_myl\d+_\d+")
_OUTSIDE = "outside the layers"


@dataclass(frozen=True)
class Share:
    """Nodes of one kind, or of one layer, per generation.

    Attributes:
        name: such as ``MatMulNBits`` or ``layer 3``.
        calls: how many nodes were run.
        ms: that they took, the mean over generations.
        share: of the time of all nodes of all graphs.
    """

    name: str
    calls: float
    ms: float
    share: float


@dataclass(frozen=True)
class GraphProfile:
    """One graph, such as ``encoder``: its nodes by kind (slowest first) and by layer."""

    graph: str
    ms: float
    kinds: tuple[Share, ...]
    layers: tuple[Share, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_profile(workload: Workload) -> None:
    """Refuse what would be timed wrongly.

    Raises:
        InputError: ONNX Runtime on a GPU. Its profiler tells how long the CPU takes to start a
            node, and nothing of what a CUDA graph replays (1.31.1, run on an H200).
    """
    if workload.backend.startswith("onnxruntime") and workload.device == "cuda":
        raise InputError(
            "--profile cannot tell where a GPU's time goes: ONNX Runtime's profiler times what the"
            " CPU does meanwhile; leave out --profile, or use NVIDIA's Nsight Systems"
        )


def measure_profile(path: str | os.PathLike[str], workload: Workload) -> list[GraphProfile]:
    """Profile five generations of a bundle, in the order in which the graphs take less time.

    Raises:
        BundleError, BackendError, InputError: as :class:`.LatencyRunner` and :func:`check_profile`.
    """
    check_profile(workload)
    if not workload.backend.startswith("onnxruntime"):
        return _summarized(_of_engines(path, workload))
    with tempfile.TemporaryDirectory(prefix="seq2edge-profile-") as temporary:
        with profiled(str(Path(temporary) / "of")):
            runner = LatencyRunner(path, workload)
        _generate(runner)
        del runner
        gc.collect()  # sessions write their files when they go
        # "of.encoder_2026-11-29_09-43-28_132.json"
        found = {
            re.sub(r"_\d{4}-.*", "", file.name.removeprefix("of.")): list(_nodes(file))
            for file in sorted(Path(temporary).glob("*.json"))
        }
    return _summarized({graph: nodes for graph, nodes in found.items() if nodes})


def _generate(runner: LatencyRunner) -> None:
    try:
        for _ in range(_RUNS):
            runner.generate()
    finally:
        runner.close()


def _of_engines(
    path: str | os.PathLike[str], workload: Workload
) -> dict[str, list[tuple[str, str, float]]]:
    """Kind, layer and microseconds of each layer of TensorRT that ran, by graph."""
    found: dict[str, list[tuple[str, str, float]]] = {}

    def record(graph: str, name: str, ms: float) -> None:
        found.setdefault(graph, []).append((*_of_layer(name), 1e3 * ms))

    with layer_times(record):
        runner = LatencyRunner(path, workload)
    found.clear()  # what loading has run
    _generate(runner)
    return found


def _of_layer(name: str) -> tuple[str, str]:
    """Kind and layer of the model of TensorRT's name for a layer.

    Names are those of nodes (``/layers.0/ffn/up/MatMul``), several joined by ``+``, or of fused
    kernels (``__myl_FcMulAdd_myl0_17``), which do not tell of layers.
    """
    layer = _LAYER.search(name)
    fused = _FUSED.fullmatch(name)
    kind = fused[1] if fused else re.sub(r"[_\d]+$", "", name.rpartition("/")[2]) or name
    return kind, f"layer {layer[1]}" if layer else _OUTSIDE


def _nodes(file: Path) -> Iterator[tuple[str, str, float]]:
    """Kind, layer and microseconds of each run of a node."""
    layer = _OUTSIDE
    for event in json.loads(file.read_bytes()):
        if event.get("cat") == "SequentialExecutor::Execute" or event["name"] == "model_run":
            layer = _OUTSIDE
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        named = _LAYER.search(event["name"])
        if named:
            layer = f"layer {named[1]}"
        elif "/" in event["name"]:  # of our own names: after the layers, or before
            layer = _OUTSIDE
        yield event["args"]["op_name"], layer, float(event["dur"])


def _summarized(found: dict[str, list[tuple[str, str, float]]]) -> list[GraphProfile]:
    total = sum(duration for nodes in found.values() for *_, duration in nodes) or 1.0
    profiles = [
        GraphProfile(
            graph=graph,
            ms=sum(duration for *_, duration in nodes) / 1e3 / _RUNS,
            kinds=_shares([(kind, duration) for kind, _, duration in nodes], total),
            layers=tuple(
                sorted(
                    _shares([(layer, duration) for _, layer, duration in nodes], total),
                    key=lambda share: (len(share.name), share.name),
                )
            ),
        )
        for graph, nodes in found.items()
    ]
    return sorted(profiles, key=lambda profile: -profile.ms)


def _shares(nodes: Sequence[tuple[str, float]], total: float) -> tuple[Share, ...]:
    times: dict[str, list[float]] = defaultdict(list)
    for name, duration in nodes:
        times[name].append(duration)
    shares = [
        Share(name, len(some) / _RUNS, sum(some) / 1e3 / _RUNS, sum(some) / total)
        for name, some in times.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.ms))
