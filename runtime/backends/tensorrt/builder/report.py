"""The layer report: in which precision each GEMM was asked for, and in which it was built.

It joins the parsed network with the engine's layers of the builder's log. Without a GPU this
proves the data types that the engine holds and moves: that a GEMM takes int8 inputs and int8
weights, that int4 weights reach the GEMM as int4, that an attention is one kernel, how many
bytes of weights there are. It cannot prove which kernel the GPU then runs (TensorRT-RTX
compiles and chooses it there when the engine is first used), its speed, or its results.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from .build_log import EngineLayer, EngineLog
from .network import AskedGemm, NetworkSummary, Precision

#: In the names of kernels that compute a whole attention.
_FUSED_ATTENTION = "mha"

#: Kinds of engine layers that can be a GEMM, the surest first. A generated kernel is one where
#: a single token is run and the GEMM is a matrix times a vector.
_GEMM_KINDS = ("gemm", "runtime_fusion", "kgen")

_FLOATS = ("float16", "bfloat16", "float32")

#: A generated kernel's name lists its operations; these only move data.
_MOVES = re.compile(r"__myl_(Cast|Conc|Move|Repl|Resh|Slic|Tran)+_")

_CACHE_INPUTS = ("past_key.", "past_value.", "present_key.", "present_value.")
_CROSS_INPUTS = ("cross_key.", "cross_value.")


@dataclass(frozen=True)
class Gemm:
    """A matrix multiplication with constant weights.

    Attributes:
        name: its ONNX node.
        asked: the precision that the graph asks for.
        built: the engine's; None where its log does not say.
        kind: the kind of the engine's layer, or ``""``.
    """

    name: str
    asked: Precision
    built: Precision | None
    kind: str

    @property
    def kept(self) -> bool | None:
        """Whether the engine kept the precision of the weights, and of quantized inputs; None:
        unknown. Floating-point inputs may be fused with a norm that is computed in float32."""
        if self.built is None:
            return None
        inputs = self.asked.inputs in _FLOATS or self.built.inputs == self.asked.inputs
        return inputs and self.built.weights == self.asked.weights


@dataclass(frozen=True)
class ProfileReport:
    """The layers of one optimization profile: for a decoder's first one, of a one-token step.

    Attributes:
        fused_attentions: attentions that are one kernel; the others are GEMMs and a softmax.
        cache_copies: layers that read the keys or values of all slots or source tokens only
            to lay them out anew, which costs memory traffic in every step.
        layers: how many there are, by kind.
    """

    fused_attentions: int
    cache_copies: int
    layers: Mapping[str, int]


@dataclass(frozen=True)
class GraphReport:
    """One engine; None where the builder's log does not say.

    Attributes:
        plan_bytes: size of the engine's file: weights and compiled kernels.
        weight_bytes: weights alone.
        activation_bytes: device memory for what is between layers.
        gemms: those with constant weights, each as it is in the worst optimization profile.
        attentions: how many the graph has, self- and cross-attention.
        cache_updates: writes of keys or values into the cache.
        profiles: by optimization profile; empty if the log does not say.
    """

    plan_bytes: int
    weight_bytes: int | None
    activation_bytes: int | None
    gemms: tuple[Gemm, ...]
    attentions: int
    cache_updates: int
    profiles: tuple[ProfileReport, ...]

    @property
    def fused_attentions(self) -> int | None:
        """Attentions that are one kernel in every profile, or as good as that."""
        return min((profile.fused_attentions for profile in self.profiles), default=None)

    @property
    def lost(self) -> tuple[Gemm, ...]:
        """GEMMs that are computed in another precision than the graph asks for."""
        return tuple(gemm for gemm in self.gemms if gemm.kept is False)

    def outcomes(self) -> dict[tuple[Precision, Precision | None, bool | None], int]:
        """How many GEMMs there are of each ``asked``, ``built`` and ``kept``."""
        return dict(Counter((gemm.asked, gemm.built, gemm.kept) for gemm in self.gemms))


def make_report(network: NetworkSummary, log: EngineLog, plan_bytes: int) -> GraphReport:
    """Join what was asked for with what the builder's log says of the engine."""
    return GraphReport(
        plan_bytes=plan_bytes,
        weight_bytes=log.weight_bytes,
        activation_bytes=log.activation_bytes,
        gemms=tuple(
            _worst([_built(gemm, layers) for layers in log.profiles or ((),)])
            for gemm in network.gemms
        ),
        attentions=len(network.attentions),
        cache_updates=network.cache_updates,
        profiles=tuple(_profile(network, layers) for layers in log.profiles),
    )


def _profile(network: NetworkSummary, layers: tuple[EngineLayer, ...]) -> ProfileReport:
    fused = {
        origin for layer in layers if _FUSED_ATTENTION in layer.name for origin in layer.origins
    }
    return ProfileReport(
        fused_attentions=len(fused.intersection(network.attentions)),
        cache_copies=sum(_copies_cache(layer) for layer in layers),
        layers=dict(sorted(Counter(layer.kind for layer in layers).items())),
    )


def _worst(gemms: list[Gemm]) -> Gemm:
    """Lost before unknown before kept; the first of equals."""
    order = (False, None, True)
    return min(gemms, key=lambda gemm: order.index(gemm.kept))


def _built(gemm: AskedGemm, layers: tuple[EngineLayer, ...]) -> Gemm:
    for kind in _GEMM_KINDS:
        for layer in layers:
            if layer.kind == kind and gemm.name in layer.origins:
                precision = _precision(layer, gemm.precision)
                if precision is not None:
                    return Gemm(gemm.name, gemm.precision, precision, kind)
    return Gemm(gemm.name, gemm.precision, None, "")


def _precision(layer: EngineLayer, requested: Precision) -> Precision | None:
    """Types of a layer's weights and inputs; None if it is not the GEMM, but adds its bias,
    say, or only dequantizes its weights."""
    if not layer.inputs:
        return None
    types = [tensor.dtype for tensor in layer.inputs]
    weights = max(layer.constants, key=lambda tensor: tensor.matrix_elements, default=None)
    if weights is not None and weights.matrix_elements:
        fused = layer.kind != "gemm"  # reads what other operations need as well
        inputs = requested.inputs if fused and requested.inputs in types else types[0]
        return Precision(weights.dtype, inputs)
    if layer.kind == "gemm":  # another kernel wrote the weights, in this precision
        return Precision(types[-1], types[0])
    return None


def _copies_cache(layer: EngineLayer) -> bool:
    reads = any(t.name.startswith((*_CACHE_INPUTS, *_CROSS_INPUTS)) for t in layer.inputs)
    writes = any(t.name.startswith(_CACHE_INPUTS) for t in layer.outputs)
    return reads and not writes and _MOVES.match(layer.name) is not None
