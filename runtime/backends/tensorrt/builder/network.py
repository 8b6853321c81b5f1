"""Requirements of a parsed network: the precision of its GEMMs, attentions, cache updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .build_log import dtype_name, origins_of


@dataclass(frozen=True)
class Precision:
    """Data types of a GEMM's weights and of what they are multiplied with."""

    weights: str
    inputs: str

    def __str__(self) -> str:
        return f"{self.weights} weights, {self.inputs} inputs"


@dataclass(frozen=True)
class AskedGemm:
    """A matrix multiplication with constant weights. ``name`` is its ONNX node's."""

    name: str
    precision: Precision


@dataclass(frozen=True)
class NetworkSummary:
    """``attentions`` are names of ONNX nodes; ``cache_updates`` counts layers that write keys
    or values into the cache."""

    gemms: tuple[AskedGemm, ...]
    attentions: tuple[str, ...]
    cache_updates: int


@dataclass(frozen=True)
class _Operand:
    dtype: str
    constant: bool


def summarize(library: Any, network: Any) -> NetworkSummary:
    """Look through a parsed network; ``library`` is the module that made it."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producers = {
        layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)
    }
    kinds = library.LayerType
    gemms = []
    for layer in layers:
        if layer.type == kinds.MATRIX_MULTIPLY:
            operands = [_operand(kinds, producers, layer.get_input(i)) for i in range(2)]
            weights = [operand for operand in operands if operand.constant]
            inputs = [operand for operand in operands if not operand.constant]
            if len(weights) == len(inputs) == 1:
                precision = Precision(weights[0].dtype, inputs[0].dtype)
                gemms.append(AskedGemm(_origin(layer), precision))
    return NetworkSummary(
        gemms=tuple(gemms),
        attentions=tuple(_origin(attention) for attention in attentions(library, network)),
        cache_updates=_count(layers, getattr(kinds, "KV_CACHE_UPDATE", None)),
    )


def attentions(library: Any, network: Any) -> Iterator[Any]:
    """TensorRT's attention objects; none where it is too old to have them."""
    kind = getattr(library.LayerType, "ATTENTION_INPUT", None)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if kind is not None and layer.type == kind:
            # Layers come as their base class; TensorRT's own way to the real one.
            layer.__class__ = library.IAttentionInputLayer
            yield layer.attention


def _operand(kinds: Any, producers: dict[str, Any], tensor: Any) -> _Operand:
    """The type that a GEMM reads, seen through shape changes and casts; from a dequantization,
    the type before it."""
    dtype, quantized = dtype_name(tensor.dtype.name), False
    layer = producers.get(tensor.name)
    while layer is not None and layer.type in _seen_through(kinds):
        tensor = layer.get_input(0)
        if layer.type == kinds.DEQUANTIZE and not quantized:
            dtype, quantized = dtype_name(tensor.dtype.name), True
        layer = producers.get(tensor.name)
    return _Operand(dtype, layer is not None and layer.type == kinds.CONSTANT)


def _seen_through(kinds: Any) -> tuple[Any, ...]:
    return (kinds.DEQUANTIZE, kinds.SHUFFLE, kinds.CAST, kinds.IDENTITY)


def _origin(layer: Any) -> str:
    return next(iter(origins_of(layer.metadata)), str(layer.name))


def _count(layers: list[Any], kind: Any) -> int:
    return 0 if kind is None else sum(layer.type == kind for layer in layers)
