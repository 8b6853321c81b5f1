"""Carry out what was decided: each layer's treatment, then the type that the rest computes in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..calibration import Activation, Calibration
from ..calibration.capture import Key
from ..errors import QuantizationError
from ..numerics.gptq import gptq_blocks
from ..numerics.rounding import BlockTensors, quantize_blocks
from ..recipe.layers import Layer
from ..recipe.weight_formats import (
    BlockWeights,
    ChannelWeights,
    DynamicInt8,
    HalfStorage,
    StaticInt8,
    Treatment,
)
from . import (
    lower_blocks,
    lower_channels,
    lower_compute,
    lower_dynamic,
    lower_standard_blocks,
    lower_static,
    lower_storage,
)
from .half import HEADROOM, LARGEST_HALF

_NORMS = ("RMSNormalization", "LayerNormalization")
#: A norm over the standard deviation is made of these (export/graph/layers.py). They stay in
#: float32, as other norms accumulate: a sum of squares is soon more than float16 holds.
_DEVIATION = ("ReduceMean", "Sub", "ReduceSumSquare", "Sqrt")
_WITHIN = ("ReduceSumSquare", "CastLike", "Div", "Sqrt", "Add")


@dataclass
class Lowering:
    """A bundle's graphs while they are lowered; ``inputs`` are of the graphs as they are."""

    models: Mapping[str, ir.Model]
    inputs: Mapping[Key, Activation]

    def __post_init__(self) -> None:
        self._exact: list[ir.Node] = []

    def layer(self, layer: Layer, treatment: Treatment | None) -> None:
        """Carry out one layer's treatment."""
        models = self.models
        if isinstance(treatment, BlockWeights):
            lower = lower_standard_blocks if treatment.standard else lower_blocks
            lower(models, layer, treatment, self._blocks(layer, treatment))
        elif isinstance(treatment, ChannelWeights):
            lower_channels(models, layer)
        elif isinstance(treatment, DynamicInt8):
            stored = treatment.stored
            blocks = None if stored is None else (stored, self._blocks(layer, stored))
            lower_dynamic(models, layer, blocks)
        elif isinstance(treatment, StaticInt8):
            self._exact += lower_static(models, layer, treatment, self._seen(layer))
        elif isinstance(treatment, HalfStorage):
            lower_storage(models, layer)

    def compute(
        self,
        compute: str,
        excluded: Collection[Layer],
        calibration: Calibration | None,
        *,
        target: str,
    ) -> dict[str, list[str]]:
        """Make encoder and decoder compute in ``compute``; see :func:`.lower_compute`.

        Without a calibration, nobody knows what overflows: the residual stream and the
        feed-forward outputs stay in float32, where T5's do not fit (transformers keeps its
        ``wo`` in float32: ``_keep_in_fp32_modules``).

        Args:
            excluded: layers that stay in float32 as they are.
            target: for TensorRT, norms have float32 inputs and outputs; it does not say that
                it sums squares in float32 otherwise.

        Returns:
            For each graph, the values in float32 that do not fit into float16.
        """
        found = {}
        for name, model in self.models.items():
            if name not in ("encoder", "decoder"):
                continue
            exact = {node for node in self._exact if node.graph is model.graph}
            exact |= {use.node for layer in excluded for use in layer.uses if use.graph == name}
            exact |= _deviations(model)
            if target == "tensorrt":
                exact |= {node for node in model.graph if node.op_type in _NORMS}
            keep = {f"{layer.name}.weight" for layer in excluded}
            too_large = _too_large(name, model, calibration)
            found[name] = lower_compute(
                model, compute, exact, too_large, keep, exact_softmax=target != "tensorrt"
            )
        return found

    def _blocks(self, layer: Layer, plan: BlockWeights) -> BlockTensors:
        matrix = layer.matrix()
        if plan.algorithm != "gptq":
            return quantize_blocks(matrix, plan)
        seen = [self.inputs.get(_read(use.graph, use.node.inputs[0])) for use in layer.uses]
        moments = [found.moments for found in seen if found and found.moments is not None]
        if not moments:
            raise QuantizationError(f"the calibration says nothing about {layer.name}'s input")
        return gptq_blocks(matrix, sum(moments[1:], moments[0]), plan)

    def _seen(self, layer: Layer) -> Callable[[str, ir.Value], Activation]:
        def seen(graph: str, value: ir.Value) -> Activation:
            found = self.inputs.get(_read(graph, value))
            if found is None:
                raise QuantizationError(f"the calibration says nothing about {layer.name}'s input")
            return found

        return seen


def _deviations(model: ir.Model) -> set[ir.Node]:
    """The nodes of norms over the standard deviation, up to the quotient."""
    if not any(node.op_type == "Sqrt" for node in model.graph):
        return set()
    nodes = {node for node in model.graph if node.op_type in _DEVIATION}
    for node in model.graph:  # in order: the sum with epsilon comes before the quotient
        producers = {value.producer() for value in node.inputs if value is not None}
        sums = {p for p in producers if p in nodes and p.op_type in _WITHIN}
        if sums and node.op_type in _WITHIN:
            nodes.add(node)
    return nodes


def _read(graph: str, value: ir.Value | None) -> Key:
    return graph, str(value.name if value is not None else None)


def _too_large(
    graph: str, model: ir.Model, calibration: Calibration | None
) -> Callable[[ir.Value], bool]:
    if calibration is None:
        residual = set(_residual_values(model))
        return residual.__contains__
    limit = LARGEST_HALF / HEADROOM
    return lambda value: calibration.largest.get((graph, str(value.name)), 0.0) > limit


def _residual_values(model: ir.Model) -> Sequence[ir.Value]:
    """Sums of two values that were computed, and feed-forward outputs that go into them."""
    values: list[ir.Value] = []
    for node in model.graph:
        given = [value for value in node.inputs if value is not None]
        if node.op_type == "Add" and not any(value.is_initializer() for value in given):
            if node.outputs[0].dtype == ir.DataType.FLOAT:
                values.append(node.outputs[0])
        elif any(".ffn.down." in str(value.name) for value in given):
            values.append(node.outputs[0])
    return values
