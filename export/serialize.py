"""Write two graphs and the weights they share: each tensor once, one in memory at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.runtime.bundle.manifest import WEIGHTS_NAME, GraphInfo, TensorSpec, WeightInfo
from seq2edge.runtime.bundle.reader import BundleWriter
from seq2edge.runtime.progress import StageProgress

#: Tensors start on a cache line.
_ALIGNMENT = 64
_CHUNK = 1 << 24


class Weight(Protocol):
    """A tensor that is loaded when it is written; 4 bit types as in ml_dtypes, a byte each."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def load(self) -> NDArray[Any]: ...


def parameter_shapes(models: Iterable[ir.Model]) -> dict[str, tuple[int, ...]]:
    """Shapes of all initializers that have no data yet."""
    shapes = {}
    for model in models:
        for name, value in model.graph.initializers.items():
            if value.const_value is None and value.shape is not None:
                shapes[name] = tuple(int(size) for size in value.shape.numpy())
    return shapes


def write_weights(
    out: BundleWriter,
    weights: Mapping[str, Weight],
    progress: StageProgress | None = None,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, WeightInfo]:
    """Stream the tensors into ``weights.bin``, hashing on the way.

    ``aliases`` maps names of ``weights`` to names of others that have the same bytes under
    another shape; those are written once and placed twice.
    """
    placed: dict[str, WeightInfo] = {}
    digest = hashlib.sha256()
    with (out.directory / WEIGHTS_NAME).open("wb") as file:
        for number, (name, weight) in enumerate(weights.items()):
            if progress is not None:
                progress("writing weights", number, len(weights))
            if name in aliases:
                continue
            padding = bytes(-file.tell() % _ALIGNMENT)
            file.write(padding)
            digest.update(padding)
            array = np.ascontiguousarray(weight.load())
            stored = _packed(array)
            placed[name] = WeightInfo(str(array.dtype), weight.shape, file.tell(), stored.nbytes)
            data = stored.data
            for start in range(0, len(data), _CHUNK):
                chunk = data[start : start + _CHUNK]
                file.write(chunk)
                digest.update(chunk)
    out.known_hash(WEIGHTS_NAME, digest.hexdigest())
    for name, other in aliases.items():
        placed[name] = replace(placed[other], shape=weights[name].shape)
    return placed


def _packed(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes that ONNX stores: two int4 values a byte, the first in the lower half."""
    flat = array.reshape(-1).view(np.uint8)
    if str(array.dtype) not in ("int4", "uint4"):
        return flat
    nibbles = np.append(flat & 15, np.zeros(flat.size % 2, np.uint8))
    packed: NDArray[np.uint8] = nibbles[::2] | nibbles[1::2] << 4
    return packed


def write_graph(
    out: BundleWriter, name: str, model: ir.Model, weights: Mapping[str, WeightInfo]
) -> GraphInfo:
    """Write ``name``.onnx, its initializers of ``weights`` pointing into ``weights.bin``."""
    file = f"{name}.onnx"
    read = 0
    for key, value in model.graph.initializers.items():
        if key not in weights:
            continue
        info = weights[key]
        value.const_value = ir.ExternalTensor(
            WEIGHTS_NAME,
            info.offset,
            info.length,
            ir.DataType.from_numpy(np.dtype(info.dtype)),
            shape=ir.Shape(info.shape),
            name=key,
            base_dir=out.directory,
        )
        if not all("Gather" in use.node.op_type for use in value.uses()):
            read += info.length
    ir.save(model, out.directory / file)
    return GraphInfo(
        file=file,
        opset=model.graph.opset_imports[""],
        precision="float32",
        inputs=tuple(tensor_spec(value) for value in model.graph.inputs),
        outputs=tuple(tensor_spec(value) for value in model.graph.outputs),
        operators=dict(sorted(Counter(node.op_type for node in model.graph).items())),
        weight_bytes=read,
    )


def tensor_spec(value: ir.Value) -> TensorSpec:
    """An input or output of a graph as the manifest has it."""
    if value.shape is None or value.dtype is None or value.name is None:
        raise AssertionError(f"{value} has no static type")
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorSpec(value.name, str(value.dtype.numpy()), shape)
