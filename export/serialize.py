"""Write two graphs and the weights they share: each tensor once, one in memory at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from seq2edge.runtime.bundle import BundleWriter
from seq2edge.runtime.manifest import WEIGHTS_NAME, GraphInfo, TensorSpec, WeightInfo

from .graph import OPSET
from .weights import BoundWeight

#: Called with what is being done, how much of it is done and how much there is (0: unknown).
Progress = Callable[[str, int, int], None]

#: Tensors start on a cache line.
_ALIGNMENT = 64
_CHUNK = 1 << 24


def parameter_shapes(models: Iterable[ir.Model]) -> dict[str, tuple[int, ...]]:
    """Shapes of all initializers that have no data yet."""
    shapes = {}
    for model in models:
        for name, value in model.graph.initializers.items():
            if value.const_value is None and value.shape is not None:
                shapes[name] = tuple(int(size) for size in value.shape.numpy())
    return shapes


def write_weights(
    out: BundleWriter, weights: Mapping[str, BoundWeight], progress: Progress | None = None
) -> dict[str, WeightInfo]:
    """Stream the tensors into ``weights.bin`` as float32, hashing on the way."""
    total = sum(4 * int(np.prod(weight.shape)) for weight in weights.values())
    placed: dict[str, WeightInfo] = {}
    digest = hashlib.sha256()
    done = 0
    with (out.directory / WEIGHTS_NAME).open("wb") as file:
        for name, weight in weights.items():
            padding = bytes(-file.tell() % _ALIGNMENT)
            file.write(padding)
            digest.update(padding)
            array = np.ascontiguousarray(weight.load(), np.float32)
            placed[name] = WeightInfo("float32", weight.shape, file.tell(), array.nbytes)
            data = array.data.cast("B")
            for start in range(0, len(data), _CHUNK):
                chunk = data[start : start + _CHUNK]
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress("writing weights", done, total)
    out.known_hash(WEIGHTS_NAME, digest.hexdigest())
    return placed


def write_graph(
    out: BundleWriter, name: str, model: ir.Model, weights: Mapping[str, WeightInfo]
) -> GraphInfo:
    """Write ``name``.onnx, its parameters pointing into ``weights.bin``."""
    file = f"{name}.onnx"
    read = 0
    for key, value in model.graph.initializers.items():
        if value.const_value is not None:
            continue
        place = weights[key]
        value.const_value = ir.ExternalTensor(
            WEIGHTS_NAME,
            place.offset,
            place.length,
            ir.DataType.FLOAT,
            shape=ir.Shape(place.shape),
            name=key,
            base_dir=out.directory,
        )
        if any(use.node.op_type != "Gather" for use in value.uses()):
            read += place.length
    ir.save(model, out.directory / file)
    return GraphInfo(
        file=file,
        opset=OPSET,
        precision="float32",
        inputs=tuple(_spec(value) for value in model.graph.inputs),
        outputs=tuple(_spec(value) for value in model.graph.outputs),
        operators=dict(sorted(Counter(node.op_type for node in model.graph).items())),
        weight_bytes=read,
    )


def _spec(value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None or value.name is None:
        raise AssertionError(f"{value} has no static type")
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)
    return TensorSpec(value.name, str(value.dtype.numpy()), shape)
