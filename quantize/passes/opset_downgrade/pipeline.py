"""Bundle in, bundle of older operators out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seq2edge.runtime.bundle.manifest import BLOCK_ENCODER, CPU_GRAPHS, CUDA_GRAPHS, Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter, check_destination
from seq2edge.runtime.bundle.version import package_version

from ...errors import QuantizationError
from ...request import Request
from ...source import check_paths, load_models
from ...write import write
from ..rewrite import apply_passes
from .attention import AttentionPass
from .norm import RMSNormalizationPass
from .operators import refused_uses, unknown_operators
from .opset import LowestOpsetPass
from .scatter import TensorScatterPass

#: The key of the manifest's quantization record under which a downgraded bundle says so.
OPSET_DOWNGRADE = "opset_downgrade"

#: What stands in the place of each operator that is too new.
REPLACEMENTS = {
    "Attention": "MatMul, Add, Softmax, MatMul",
    "TensorScatter": "ScatterND",
    "RMSNormalization": "Pow, ReduceMean, Add, Sqrt, Div, Mul",
}
#: The record of quantization of a float32 bundle that is downgraded: by it, readers know
#: that the graphs are not an export's, and refuse to quantize them.
_UNQUANTIZED = {
    "scheme": "float32",
    "target": "any",
    "compute": "float32",
    "layers": {},
    "summary": {},
}
#: The oldest ONNX Runtime that downgraded bundles were run on, of those that can; with operators of
#: its own, whose 8 bit forms 1.20.1 refuses, it is a later one.
_OLDEST_ONNXRUNTIME, _OLDEST_WITH_OWN = "1.20", "1.23"
_MOST_REASONS = 3


@dataclass(frozen=True)
class DowngradeResult:
    """What was written: the new bundle and its manifest."""

    path: Path
    manifest: Manifest

    def __repr__(self) -> str:
        return (
            f"DowngradeResult({str(self.path)!r}, {self.manifest!r}, opset {self.record['opset']})"
        )

    @property
    def record(self) -> Mapping[str, Any]:
        """What was done, as the manifest's ``quantization["opset_downgrade"]`` says it: ``opset``;
        ``oldest_onnxruntime`` that runs it; ``replaced``, nodes of each type;
        ``unknown_to_tensorrt``, operators that TensorRT 10.3 does not know."""
        record: Mapping[str, Any] = self.manifest.quantization[OPSET_DOWNGRADE]
        return record


def downgrade_opset(
    bundle: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False
) -> DowngradeResult:
    """Write a copy of a bundle that needs no operator newer than opset 20, or 21 for 4 bits.

    It computes what ``bundle`` computes and has the same inputs and outputs, so that the
    runtime runs it as it is.

    Args:
        bundle: any bundle, quantized or not; of a quantized one ONNX Runtime's own operators
            stay as they are.
        out: folder to write; it appears complete or not at all.
        overwrite: replace a bundle that is already there.

    Raises:
        QuantizationError: a bundle that was downgraded already, one for TensorRT with
            operators that TensorRT 10.3 does not take, or graphs that are not ours.
        BundleError: the bundle cannot be read, or its files have changed.
        OutputExistsError, OutputError: the copy cannot be written.
    """
    path = Path(out)
    source = Bundle.open(bundle)
    source.require_slots("downgrade")
    manifest = source.manifest
    if OPSET_DOWNGRADE in manifest.quantization:
        raise QuantizationError(
            f"{source.directory} was downgraded already (opset"
            f" {manifest.quantization[OPSET_DOWNGRADE]['opset']}); nothing is left to do"
        )
    check_paths(source, Request(source.directory, path, OPSET_DOWNGRADE))
    check_destination(path, overwrite)
    source.verify()  # what is written has hashes of its own, of changed bytes as of others
    models = {
        name: model
        for name, model in load_models(source).items()
        if name not in (*CPU_GRAPHS.values(), *CUDA_GRAPHS.values(), BLOCK_ENCODER)
    }
    nodes = (node for model in models.values() for node in model.graph if not node.domain)
    replaced = Counter(node.op_type for node in nodes if node.op_type in REPLACEMENTS)
    passes = [
        AttentionPass(),
        TensorScatterPass(),
        RMSNormalizationPass(),
        RemoveUnusedNodesPass(),  # what only those have read
        LowestOpsetPass(),
    ]
    for model in models.values():
        apply_passes(model, passes)
    unknown = sorted({kind for model in models.values() for kind in unknown_operators(model)})
    if manifest.quantization.get("target") == "tensorrt":
        _check_tensorrt(source, models, unknown)
    own = any(node.domain for model in models.values() for node in model.graph)
    done = {
        "opset": max(model.opset_imports[""] for model in models.values()),
        "oldest_onnxruntime": _OLDEST_WITH_OWN if own else _OLDEST_ONNXRUNTIME,
        "replaced": dict(sorted(replaced.items())),
        "unknown_to_tensorrt": unknown,
    }
    record = {**(manifest.quantization or _UNQUANTIZED), OPSET_DOWNGRADE: done}
    record.pop("lowering", None)  # those graphs are for the newest runtime only
    with BundleWriter(path, overwrite=overwrite) as writer:
        written = write(source, models, writer, None)
        result = replace(
            written,
            producer=f"seq2edge {package_version()}",
            quantization=record,
            graphs={
                name: replace(info, precision=manifest.graphs[name].precision)
                for name, info in written.graphs.items()
            },
        )
        writer.commit(result)
    return DowngradeResult(path, result)


def _check_tensorrt(source: Bundle, models: Mapping[str, ir.Model], unknown: list[str]) -> None:
    reasons = [f"{kind} is no operator of its parser" for kind in unknown]
    reasons += [line for model in models.values() for line in refused_uses(model)]
    if reasons:
        more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
        raise QuantizationError(
            f"TensorRT 10.3 does not take {source.directory}: "
            + "; ".join(reasons[:_MOST_REASONS])
            + more
        )
