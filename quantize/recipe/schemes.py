"""Quantization schemes: the format that each layer's weight gets on a target.

A scheme's recipe is a function from a layer to a :data:`.WeightFormat`, or to None for a layer that
is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..errors import QuantizationError
from .layers import Kind, Layer
from .options import DEFAULT_BLOCK_SIZES, Options
from .weight_formats import (
    QDQ,
    DynamicQuant,
    Fp16Weights,
    PerChannel,
    WeightFormat,
    WeightOnly,
)

#: The format of a layer's weight; None: as it was exported.
Recipe = Callable[[Layer], WeightFormat | None]


@dataclass(frozen=True)
class QuantizationScheme:
    """A named way to quantize for a target.

    Attributes:
        precision: what the manifest says of the graphs.
        compute: ``float32``, ``float16`` or ``bfloat16``, for all that has no integers.
        uses: options that mean something to it.
        calibrated: it cannot do without calibration.
        fallback: for layers that have to be more exact than the scheme's own (``--max-drop``);
            None: as they were exported.
    """

    name: str
    target: str
    summary: str
    precision: str
    recipe: Callable[[Options], Recipe]
    compute: str = "float32"
    uses: frozenset[str] = frozenset()
    calibrated: bool = False
    fallback: Callable[[Options], Recipe] | None = None

    @property
    def lowers(self) -> bool:
        """Whether the decoder is written in the CPU's own form as well."""
        return "lowering" in self.uses

    @property
    def integer_encoder(self) -> bool:
        """Whether layers of the encoder read int8 inputs, so that its attention may."""
        return "int8_attention" in self.uses

    @property
    def quantizes_source(self) -> bool:
        """Whether keys and values of a long source may become int8 there."""
        return "int8_cross_kv" in self.uses


def _blocks(options: Options, bits: int, *, standard: bool = False) -> WeightOnly:
    size = options.block_size or DEFAULT_BLOCK_SIZES[0]
    if bits == 8:
        return WeightOnly(8, size)
    algorithm = options.algorithm or "rtn"
    symmetric = standard or algorithm == "rtn"
    if options.symmetric is not None:
        symmetric = options.symmetric
    return WeightOnly(4, size, symmetric, algorithm, standard)


def _int8_cpu(options: Options) -> Recipe:
    weights = _blocks(options, 8)

    def decide(layer: Layer) -> WeightFormat:
        # The encoder sees the whole source at once: it is bound by arithmetic, where int8
        # inputs help; a decoder step is bound by reading weights, where they do not.
        encoder = layer.kind is Kind.LINEAR and layer.stage == "encoder"
        return DynamicQuant() if encoder else weights

    return decide


def _int8_dynamic(_options: Options) -> Recipe:
    return lambda _layer: DynamicQuant()


def _int8_weight_only(options: Options) -> Recipe:
    weights = _blocks(options, 8)
    return lambda _layer: weights


def _int4(options: Options, *, standard: bool = False) -> Recipe:
    """4 bit blocks; head and embedding 8 bit unless ``head_bits`` says otherwise.

    The head chooses among all tokens and the embedding is every layer's input.
    """
    weights = _blocks(options, 4, standard=standard)
    exact: WeightFormat = PerChannel() if standard else _blocks(options, 8)
    # What is only looked up has no output for gptq to keep.
    table = replace(weights, algorithm="rtn") if weights.algorithm == "gptq" else weights

    def decide(layer: Layer) -> WeightFormat:
        if layer.kind is Kind.LINEAR:
            return weights
        if options.head_bits != 4:
            return exact
        return table if layer.kind is Kind.EMBEDDING else weights

    return decide


#: Schemes that quantize nothing but weights of linear layers, whatever the graph.
WEIGHT_ONLY: Mapping[str, Callable[[Options], Recipe]] = {"int8": _int8_weight_only, "int4": _int4}


def _int4_cpu(options: Options) -> Recipe:
    recipe, weights = _int4(options), _blocks(options, 4)

    def decide(layer: Layer) -> WeightFormat | None:
        # 4 bit kernels save reading, which does not bind an encoder (see _int8_cpu).
        encoder = layer.kind is Kind.LINEAR and layer.stage == "encoder"
        return DynamicQuant(weights) if encoder else recipe(layer)

    return decide


def _int4_standard(options: Options) -> Recipe:
    return _int4(options, standard=True)


def _per_channel(_options: Options) -> Recipe:
    return lambda _layer: PerChannel()


def _method(options: Options) -> str:
    """Of the values after SmoothQuant only the ranges are known."""
    return options.method or ("percentile" if options.smoothquant is None else "minmax")


def _qdq_cpu(options: Options) -> Recipe:
    static, ends = QDQ(_method(options), unsigned=True), _blocks(options, 8)
    return lambda layer: static if layer.kind is Kind.LINEAR else ends


def _qdq_tensorrt(options: Options) -> Recipe:
    static = QDQ(_method(options))
    return lambda layer: static if layer.kind is Kind.LINEAR else None


def _fp16_weights(_options: Options) -> Recipe:
    return lambda _layer: Fp16Weights()


def leave_layers(_options: Options) -> Recipe:
    """Leave every layer to what the scheme computes in."""
    return lambda _layer: None


_LOWERING = frozenset({"lowering"})
#: What the CPU's form of the int8 and int4 schemes can do beyond what changes no number.
_APPROXIMATE = frozenset({"two_stage_head", "int8_cross_kv", "int8_attention"})
_BLOCK = frozenset({"block_size"})
_ROUNDING = _BLOCK | {"symmetric", "algorithm", "head_bits"}
_QDQ_OPTIONS = frozenset({"method", "smoothquant"})
SCHEMES = (
    QuantizationScheme(
        "fp32",
        "cpu",
        "float32, the decoder lowered for ONNX Runtime",
        "float32",
        leave_layers,
        uses=_LOWERING,
    ),
    QuantizationScheme(
        "fp16",
        "cpu",
        "half the file; computes in float32",
        "float16 storage",
        _fp16_weights,
        uses=_LOWERING,
    ),
    QuantizationScheme(
        "int8",
        "cpu",
        "8 bit weights, int8 arithmetic in the encoder",
        "int8",
        _int8_cpu,
        uses=_BLOCK | _LOWERING | _APPROXIMATE,
    ),
    QuantizationScheme(
        "int8-dynamic",
        "cpu",
        "int8 weights and inputs everywhere",
        "int8",
        _int8_dynamic,
        uses=_LOWERING | {"int8_cross_kv", "int8_attention"},
        fallback=_int8_weight_only,
    ),
    QuantizationScheme(
        "int4",
        "cpu",
        "4 bit weights, 8 bit embedding and head",
        "int4",
        _int4_cpu,
        uses=_ROUNDING | _LOWERING | _APPROXIMATE,
        fallback=_int8_weight_only,
    ),
    QuantizationScheme(
        "int8-qdq",
        "cpu",
        "static int8, calibrated; 8 bit embedding and head",
        "int8 Q/DQ",
        _qdq_cpu,
        uses=_QDQ_OPTIONS | _BLOCK | _LOWERING | _APPROXIMATE,
        calibrated=True,
        fallback=_int8_weight_only,
    ),
    QuantizationScheme(
        "fp16", "cuda", "float16", "float16", leave_layers, uses=_LOWERING, compute="float16"
    ),
    QuantizationScheme(
        "bf16", "cuda", "bfloat16", "bfloat16", leave_layers, uses=_LOWERING, compute="bfloat16"
    ),
    QuantizationScheme(
        "int8",
        "cuda",
        "8 bit weights, float16",
        "int8",
        _int8_weight_only,
        uses=_BLOCK | _LOWERING,
        compute="float16",
    ),
    QuantizationScheme(
        "int4",
        "cuda",
        "4 bit weights, 8 bit embedding and head, float16",
        "int4",
        _int4,
        uses=_ROUNDING | _LOWERING,
        fallback=_int8_weight_only,
        compute="float16",
    ),
    QuantizationScheme("fp16", "tensorrt", "float16", "float16", leave_layers, compute="float16"),
    QuantizationScheme(
        "bf16", "tensorrt", "bfloat16", "bfloat16", leave_layers, compute="bfloat16"
    ),
    QuantizationScheme(
        "int8-qdq",
        "tensorrt",
        "static int8, calibrated; the rest float16",
        "int8 Q/DQ",
        _qdq_tensorrt,
        uses=_QDQ_OPTIONS,
        calibrated=True,
        compute="float16",
    ),
    QuantizationScheme(
        "int4",
        "tensorrt",
        "4 bit weights, 8 bit embedding and head, float16",
        "int4",
        _int4_standard,
        uses=_ROUNDING,
        fallback=_per_channel,
        compute="float16",
    ),
)


def find_scheme(name: str, target: str) -> QuantizationScheme:
    """The scheme of that name for that target.

    Raises:
        QuantizationError: there is none; those that there are.
    """
    for scheme in SCHEMES:
        if (scheme.name, scheme.target) == (name, target):
            return scheme
    if target not in {scheme.target for scheme in SCHEMES}:
        targets = ", ".join(dict.fromkeys(scheme.target for scheme in SCHEMES))
        raise QuantizationError(f"unknown target {target!r}; there are: {targets}")
    names = ", ".join(scheme.name for scheme in SCHEMES if scheme.target == target)
    raise QuantizationError(f"unknown scheme {name!r} for {target!r}; there are: {names}")
