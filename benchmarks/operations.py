"""How much a bundle computes: operations of the encoder and of a step, by precision.

ONNX Runtime's profiler gives the shapes with which each node ran, after all that the engine made of
a graph; a multiplication with its addition is two operations. Products of matrices,
convolutions and attention count; what is left (norms, activations, softmax) is some percent, and
is bound by memory. Integers count as int8, blocks of 4 and 8 bits too: their products are of int8
with inputs that are rounded to it (``accuracy_level`` 4 of MatMulNBits, which all schemes ask for).
"""

from __future__ import annotations

import gc
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from seq2edge.runtime.backends.onnxruntime.session import profiled

#: A type and a shape of a node's input or output.
Shape = tuple[str, tuple[int, ...]]

_FLOATS = {"float": "float32", "float16": "float16", "double": "float64", "bfloat16": "bfloat16"}
#: Operators of ONNX and of ONNX Runtime's own optimizations, by whether their products are int8.
_PRODUCTS = {
    **dict.fromkeys(("MatMul", "Gemm", "FusedMatMul", "FusedGemm"), False),
    **dict.fromkeys(("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), True),
    **dict.fromkeys(("QLinearMatMul", "QGemm", "MatMulNBits"), True),
}
_CONVOLUTIONS = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcFusedConv"), False),
    **dict.fromkeys(("ConvInteger", "QLinearConv"), True),
}
_ATTENTION = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
#: What is in the name of an operator that multiplies matrices.
_MULTIPLIES = re.compile("MatMul|Gemm|Conv(?!ert)|Attention|Einsum|LSTM|GRU")


@dataclass(frozen=True)
class Operations:
    """Of one run of a graph.

    Attributes:
        by_precision: operations, by ``float32``, ``float16`` or ``int8``.
        attention: those of all that are attention's, and grow with lengths.
        not_counted: nodes by operator whose work is not known here.
    """

    by_precision: dict[str, int]
    attention: int = 0
    not_counted: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.by_precision.values())


def count_operations(run: Callable[[], None]) -> dict[str, Operations]:
    """Operations of the last run of each graph, by the names of their files (``decoder_cpu``).

    Args:
        run: loads a bundle, runs its graphs and lets it go; on ONNX Runtime.
    """
    with tempfile.TemporaryDirectory(prefix="seq2edge-operations-") as temporary:
        with profiled(str(Path(temporary) / "of")):
            run()
        gc.collect()  # sessions write their files when they go
        # "of.encoder_2026-11-29_09-43-28_132.json"
        found = {
            re.sub(r"_\d{4}-.*", "", file.name.removeprefix("of.")): _last_run(file)
            for file in sorted(Path(temporary).glob("*.json"))
        }
    return {graph: operations_of(nodes) for graph, nodes in found.items() if nodes}


def operations_of(nodes: Iterable[Mapping[str, Any]]) -> Operations:
    """Add up nodes as the profiler describes them."""
    counted: Counter[str] = Counter()
    attention, unknown = 0, Counter[str]()
    for node in nodes:
        operator = str(node["op_name"])
        inputs, outputs = (
            list(_shapes(node["input_type_shape"])),
            list(_shapes(node["output_type_shape"])),
        )
        work = _multiplications(operator, inputs, outputs)
        if work is None:
            if _MULTIPLIES.search(operator):
                unknown[operator] += 1
            continue
        integer = {**_PRODUCTS, **_CONVOLUTIONS}.get(operator, False)
        precision = "int8" if integer else _FLOATS.get(inputs[0][0], inputs[0][0])
        counted[precision] += 2 * work
        if operator in _ATTENTION:
            attention += 2 * work
    return Operations(dict(counted), attention, dict(unknown))


def _multiplications(
    operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> int | None:
    """Of one node; None: it is none of those that count, or its shapes do not tell."""
    if not inputs or not outputs:
        return None
    first, made = inputs[0][1], prod(outputs[0][1])
    if operator in _PRODUCTS:
        # Weights that are packed are no inputs any more, but what is summed over is the first's
        # last dimension.
        return made * first[-1]
    if operator in _CONVOLUTIONS:
        # Of QLinearConv scales stand between: the weights are what has as many dimensions.
        weights = next((shape for _, shape in inputs[1:] if len(shape) == len(first)), None)
        return None if weights is None else made * prod(weights[1:])
    if operator in _ATTENTION:
        # Keys (of a cache) are [batch, heads, length, dim]; without one [batch, length, all].
        keys = next((shape for _, shape in inputs[1:] if len(shape) >= 3), None)
        # Scores, and values times scores: each as many as outputs, for every key.
        return None if keys is None else 2 * made * keys[-2]
    return None


def _shapes(described: Sequence[Mapping[str, Sequence[int]]]) -> Iterator[Shape]:
    for one in described:
        for kind, shape in one.items():
            yield kind, tuple(shape)


def _last_run(file: Path) -> list[Mapping[str, Any]]:
    runs: list[list[Mapping[str, Any]]] = [[]]
    for event in json.loads(file.read_bytes()):
        if event.get("name") == "model_run":  # it stands after its nodes
            runs.append([])
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs[-1].append(event["args"])
    return next((nodes for nodes in reversed(runs) if nodes), [])
