"""Quantize a bundle's graphs: which passes, with which weights, in which order."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from seq2edge.runtime.progress import StageProgress

from .calibration import ActivationStatistics, Calibration
from .calibration.capture import Key
from .errors import QuantizationError
from .numerics.gptq import gptq_blocks
from .numerics.rounding import BlockTensors, quantize_blocks
from .passes import (
    DynamicQuantPass,
    Fp16WeightsPass,
    HalfPrecisionPass,
    PerChannelPass,
    QDQPass,
    RemoveUnusedInitializersPass,
    SmoothQuantPass,
    WeightOnlyPass,
    WeightOnlyStandardPass,
    apply_passes,
)
from .recipe.layers import Layer
from .recipe.options import Options
from .recipe.plan import LayerPlan
from .recipe.weight_formats import (
    QDQ,
    DynamicQuant,
    Fp16Weights,
    PerChannel,
    WeightFormat,
    WeightOnly,
)
from .source import Source, layers_of, load_models

#: The graphs that compute in half precision; the others only follow what they read.
_STACKS = ("encoder", "decoder", "alignment")


def transform(
    source: Source,
    plan: LayerPlan,
    options: Options,
    statistics: Calibration | None,
    progress: StageProgress | None = None,
) -> tuple[dict[str, ir.Model], dict[str, list[str]]]:
    """The source's graphs, quantized.

    Args:
        statistics: of the source's values, if the scheme makes use of them.

    Returns:
        The graphs by name; and for each graph, the values in float32 that do not fit into
        float16.

    Raises:
        QuantizationError: the calibration lacks a layer's input, or a weight does not fit.
    """
    models = load_models(source.bundle)
    layers = layers_of(source.bundle, models)
    inputs: Mapping[Key, ActivationStatistics] = statistics.inputs if statistics else {}
    if statistics and options.smoothquant is not None:
        static = [layer for layer in layers if isinstance(plan.formats[layer.name], QDQ)]
        smoothquant = SmoothQuantPass(static, inputs, options.smoothquant)
        for model in models.values():
            apply_passes(model, [smoothquant])
        inputs = smoothquant.inputs
    stage = "gptq" if options.algorithm == "gptq" else "quantizing"
    passes: list[ir.passes.InPlacePass] = []
    for number, layer in enumerate(layers):
        if progress is not None:
            progress(stage, number, len(layers))
        weight_format = plan.formats[layer.name]
        if weight_format is not None:
            passes.append(_layer_pass(layer, weight_format, inputs))
    if progress is not None:
        progress(stage, len(layers), len(layers))
    compute, target = source.scheme.compute, source.scheme.target
    exact = [layer for layer in layers if layer.name in plan.float32_layers]
    float32_values: dict[str, list[str]] = {}
    for name, model in models.items():
        model_passes = list(passes)
        if compute != "float32" and name in _STACKS:
            largest = None if statistics is None else statistics.largest_in(name)
            half = HalfPrecisionPass(compute, target, exact, largest)
            float32_values[name] = half.float32_values
            model_passes.append(half)
        apply_passes(model, [*model_passes, RemoveUnusedInitializersPass()])
    return models, float32_values


def _layer_pass(
    layer: Layer, weight_format: WeightFormat, inputs: Mapping[Key, ActivationStatistics]
) -> ir.passes.InPlacePass:
    """The pass of one layer; its weight is rounded here, once for all graphs."""
    if isinstance(weight_format, WeightOnly):
        tensors = _blocks(layer, weight_format, inputs)
        make = WeightOnlyStandardPass if weight_format.standard else WeightOnlyPass
        return make(layer, weight_format, tensors)
    if isinstance(weight_format, PerChannel):
        return PerChannelPass(layer)
    if isinstance(weight_format, DynamicQuant):
        stored = weight_format.stored
        return DynamicQuantPass(
            layer, None if stored is None else (stored, _blocks(layer, stored, inputs))
        )
    if isinstance(weight_format, QDQ):
        return QDQPass(layer, weight_format, inputs)
    if isinstance(weight_format, Fp16Weights):
        return Fp16WeightsPass(layer)
    raise AssertionError(weight_format)


def _blocks(
    layer: Layer, weight_format: WeightOnly, inputs: Mapping[Key, ActivationStatistics]
) -> BlockTensors:
    matrix = layer.matrix()
    if weight_format.algorithm != "gptq":
        return quantize_blocks(matrix, weight_format)
    read = [inputs.get((use.graph, use.input_name)) for use in layer.uses]
    moments = [activation.moments for activation in read if activation is not None]
    known = [array for array in moments if array is not None]
    if not known:
        raise QuantizationError(f"the calibration says nothing about {layer.name}'s input")
    return gptq_blocks(matrix, sum(known[1:], known[0]), weight_format)
