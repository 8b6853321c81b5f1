"""Move outliers of activations into the weights that read them.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large
Language Models" (2023): a channel of a norm's output is divided by s and the rows of the weights
that read it are multiplied by s, which changes nothing in floats. Here s goes into the norm's
own weight, so no node is added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..calibration import ActivationStatistics
from ..calibration.capture import Key
from ..recipe.layers import Layer

_NORMS = ("RMSNormalization", "LayerNormalization")


class SmoothQuantPass(ir.passes.InPlacePass):
    """Evens out the channels of those norms whose every reader is among ``layers``.

    Weights of the layers and of the norms are replaced.

    Args:
        layers: layers with quantized inputs.
        inputs: statistics of what they read.
        alpha: 0 moves nothing into the weights that they do not have; 1 moves all outliers.

    Attributes:
        inputs: after the call, statistics of the layers' inputs as they are now.
    """

    def __init__(
        self, layers: Collection[Layer], inputs: Mapping[Key, ActivationStatistics], alpha: float
    ) -> None:
        super().__init__()
        self._layers = layers
        self._alpha = alpha
        self.inputs = dict(inputs)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        readers: dict[tuple[str, ir.Value], list[Layer]] = {}
        for layer in self._layers:
            for use in layer.uses:
                value = use.node.inputs[0]
                if value is not None and use.model is model:
                    readers.setdefault((use.graph, value), []).append(layer)
        modified = False
        for (graph, value), reading in readers.items():
            norm, key = value.producer(), (graph, str(value.name))
            if norm is None or norm.op_type not in _NORMS or not _all_read(value, reading):
                continue
            if key in self.inputs:
                factor = _factors(self.inputs[key].channel_max, reading, self._alpha)
                _scale(norm, reading, factor)
                self.inputs[key] = self.inputs[key].scaled(np.reciprocal(factor))
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _scale(norm: ir.Node, reading: Collection[Layer], factor: NDArray[np.float32]) -> None:
    """Divide the norm's channels by ``factor`` [D], and multiply the weights that read them."""
    for parameter in norm.inputs[1:]:
        if parameter is not None and parameter.const_value is not None:
            scaled = parameter.const_value.numpy() / factor
            parameter.const_value = ir.tensor(scaled.astype(np.float32), name=parameter.name)
    for layer in reading:
        weight = layer.weight.numpy() * factor[:, None]
        layer.weight = ir.tensor(weight.astype(np.float32), name=layer.weight.name)


def _all_read(value: ir.Value, reading: Collection[Layer]) -> bool:
    """Whether nothing else reads ``value``, and no weight is read elsewhere too."""
    return (
        len(value.uses()) == len(reading)
        and not value.is_graph_output()
        and all(len(layer.uses) == 1 for layer in reading)
    )


def _factors(
    activation: NDArray[np.float32], reading: Collection[Layer], alpha: float
) -> NDArray[np.float32]:
    weights = np.max([np.abs(layer.weight.numpy()).max(axis=1) for layer in reading], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = activation**alpha / weights ** (1 - alpha)
    usable = np.isfinite(factor) & (factor > 0)
    chosen: NDArray[np.float32] = np.where(usable, factor, 1).astype(np.float32)
    return chosen
