"""Write the graphs of a quantized bundle, their weights, and what the source bundle had."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from seq2edge.export.serialize import write_graph, write_weights
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter
from seq2edge.runtime.progress import StageProgress

from .passes import aliases

#: Larger constants go to weights.bin, smaller ones stay in the graph.
_INLINE_BYTES = 1024


def write(
    source: Bundle,
    models: Mapping[str, ir.Model],
    writer: BundleWriter,
    progress: StageProgress | None,
) -> Manifest:
    """Fill the writer's folder; the source's manifest with what is there now.

    Raises:
        BundleError: a file of the source cannot be read.
    """
    manifest = source.manifest
    weights: dict[str, _Tensor] = {}
    for model in models.values():
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and (
                isinstance(tensor, ir.ExternalTensor) or tensor.nbytes > _INLINE_BYTES
            ):
                weights.setdefault(name, _Tensor(tensor))
    placed = write_weights(writer, weights, progress, aliases(weights))
    graphs = {name: write_graph(writer, name, model, placed) for name, model in models.items()}
    kept = {info.file for info in manifest.graphs.values()} | {WEIGHTS_NAME, MANIFEST_NAME}
    copy_others(source, kept, writer)
    return replace(manifest, graphs=graphs, weights=placed, files=writer.files())


def copy_others(source: Bundle, rewritten: Collection[str], writer: BundleWriter) -> None:
    """Copy the files of ``source`` that are not ``rewritten``.

    Raises:
        BundleError: a file cannot be read, or has changed.
    """
    for name in source.manifest.files:
        if name not in rewritten:
            source.copy_file(name, writer.directory / name)


class _Tensor:
    """A tensor that is read when it is written."""

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self.shape = tuple(int(size) for size in tensor.shape.numpy())
        self._tensor = tensor

    def load(self) -> np.ndarray[Any, np.dtype[Any]]:
        array: np.ndarray[Any, np.dtype[Any]] = self._tensor.numpy()
        return array
