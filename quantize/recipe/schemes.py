"""What is done to which layer: schemes are predicates over layers.

A :class:`Scheme` gives each layer a treatment or leaves it as it is. The decisions are written
into the manifest, layer by layer, so a bundle says exactly what was done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..errors import QuantizationError
from .layers import Kind, Layer
from .options import DEFAULT_BLOCK_SIZES, Options
from .weight_formats import (
    BlockWeights,
    ChannelWeights,
    DynamicInt8,
    HalfStorage,
    StaticInt8,
    Treatment,
)

Policy = Callable[[Layer], Treatment | None]


@dataclass(frozen=True)
class Scheme:
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
    policy: Callable[[Options], Policy]
    compute: str = "float32"
    uses: frozenset[str] = frozenset()
    calibrated: bool = False
    fallback: Callable[[Options], Policy] | None = None


def _blocks(options: Options, bits: int, *, standard: bool = False) -> BlockWeights:
    size = options.block_size or DEFAULT_BLOCK_SIZES[0]
    if bits == 8:
        return BlockWeights(8, size)
    algorithm = options.algorithm or "rtn"
    symmetric = standard or algorithm == "rtn"
    if options.symmetric is not None:
        symmetric = options.symmetric
    return BlockWeights(4, size, symmetric, algorithm, standard)


def _int8_cpu(options: Options) -> Policy:
    weights = _blocks(options, 8)

    def decide(layer: Layer) -> Treatment:
        # The encoder sees the whole source at once: it is bound by arithmetic, where int8
        # inputs help; a decoder step is bound by reading weights, where they do not.
        encoder = layer.kind is Kind.LINEAR and layer.stage == "encoder"
        return DynamicInt8() if encoder else weights

    return decide


def _int8_dynamic(_options: Options) -> Policy:
    return lambda _layer: DynamicInt8()


def _int8_weights(options: Options) -> Policy:
    weights = _blocks(options, 8)
    return lambda _layer: weights


def _int4(options: Options, *, standard: bool = False) -> Policy:
    """4 bit blocks; head and embedding 8 bit unless ``head_bits`` says otherwise.

    The head chooses among all tokens and the embedding is every layer's input.
    """
    weights = _blocks(options, 4, standard=standard)
    exact: Treatment = ChannelWeights() if standard else _blocks(options, 8)
    # What is only looked up has no output for gptq to keep.
    table = replace(weights, algorithm="rtn") if weights.algorithm == "gptq" else weights

    def decide(layer: Layer) -> Treatment:
        if layer.kind is Kind.LINEAR:
            return weights
        if options.head_bits != 4:
            return exact
        return table if layer.kind is Kind.EMBEDDING else weights

    return decide


#: Schemes that quantize nothing but weights of linear layers, whatever the graph.
WEIGHT_ONLY: Mapping[str, Callable[[Options], Policy]] = {"int8": _int8_weights, "int4": _int4}


def _int4_cpu(options: Options) -> Policy:
    policy, weights = _int4(options), _blocks(options, 4)

    def decide(layer: Layer) -> Treatment | None:
        # 4 bit kernels save reading, which does not bind an encoder (see _int8_cpu).
        encoder = layer.kind is Kind.LINEAR and layer.stage == "encoder"
        return DynamicInt8(weights) if encoder else policy(layer)

    return decide


def _int4_standard(options: Options) -> Policy:
    return _int4(options, standard=True)


def _channels(_options: Options) -> Policy:
    return lambda _layer: ChannelWeights()


def _method(options: Options) -> str:
    """Of the values after migration only the ranges are known."""
    return options.method or ("percentile" if options.migration is None else "minmax")


def _static_cpu(options: Options) -> Policy:
    static, ends = StaticInt8(_method(options), unsigned=True), _blocks(options, 8)
    return lambda layer: static if layer.kind is Kind.LINEAR else ends


def _static_tensorrt(options: Options) -> Policy:
    static = StaticInt8(_method(options))
    return lambda layer: static if layer.kind is Kind.LINEAR else None


def _storage(_options: Options) -> Policy:
    return lambda _layer: HalfStorage()


def nothing(_options: Options) -> Policy:
    """Leave every layer to what the scheme computes in."""
    return lambda _layer: None


_BLOCK = frozenset({"block_size"})
_ROUNDING = _BLOCK | {"symmetric", "algorithm", "head_bits"}
_STATIC = frozenset({"method", "migration"})
SCHEMES = (
    Scheme("fp16", "cpu", "half the file; computes in float32", "float16 storage", _storage),
    Scheme(
        "int8",
        "cpu",
        "8 bit weights, int8 arithmetic in the encoder",
        "int8",
        _int8_cpu,
        uses=_BLOCK,
    ),
    Scheme(
        "int8-dynamic",
        "cpu",
        "int8 weights and inputs everywhere",
        "int8",
        _int8_dynamic,
        fallback=_int8_weights,
    ),
    Scheme(
        "int4",
        "cpu",
        "4 bit weights, 8 bit embedding and head",
        "int4",
        _int4_cpu,
        uses=_ROUNDING,
        fallback=_int8_weights,
    ),
    Scheme(
        "int8-qdq",
        "cpu",
        "static int8, calibrated; 8 bit embedding and head",
        "int8 Q/DQ",
        _static_cpu,
        uses=_STATIC | _BLOCK,
        calibrated=True,
        fallback=_int8_weights,
    ),
    Scheme("fp16", "cuda", "float16", "float16", nothing, compute="float16"),
    Scheme("bf16", "cuda", "bfloat16", "bfloat16", nothing, compute="bfloat16"),
    Scheme(
        "int8",
        "cuda",
        "8 bit weights, float16",
        "int8",
        _int8_weights,
        uses=_BLOCK,
        compute="float16",
    ),
    Scheme(
        "int4",
        "cuda",
        "4 bit weights, 8 bit embedding and head, float16",
        "int4",
        _int4,
        uses=_ROUNDING,
        fallback=_int8_weights,
        compute="float16",
    ),
    Scheme("fp16", "tensorrt", "float16", "float16", nothing, compute="float16"),
    Scheme("bf16", "tensorrt", "bfloat16", "bfloat16", nothing, compute="bfloat16"),
    Scheme(
        "int8-qdq",
        "tensorrt",
        "static int8, calibrated; the rest float16",
        "int8 Q/DQ",
        _static_tensorrt,
        uses=_STATIC,
        calibrated=True,
        compute="float16",
    ),
    Scheme(
        "int4",
        "tensorrt",
        "4 bit weights, 8 bit embedding and head, float16",
        "int4",
        _int4_standard,
        uses=_ROUNDING,
        fallback=_channels,
        compute="float16",
    ),
)


def find_scheme(name: str, target: str) -> Scheme:
    """The scheme of that name for that target.

    Raises:
        QuantizationError: there is none; those that there are.
    """
    for scheme in SCHEMES:
        if (scheme.name, scheme.target) == (name, target):
            return scheme
    if target not in {scheme.target for scheme in SCHEMES}:
        known = ", ".join(dict.fromkeys(scheme.target for scheme in SCHEMES))
        raise QuantizationError(f"unknown target {target!r}; there are: {known}")
    known = ", ".join(scheme.name for scheme in SCHEMES if scheme.target == target)
    raise QuantizationError(f"unknown scheme {name!r} for {target!r}; there are: {known}")


def decide(
    layers: Iterable[Layer], policy: Policy, exclude: Sequence[str]
) -> list[tuple[Layer, Treatment | None]]:
    """Each layer with its treatment; layers that match ``exclude`` are left as they are.

    Raises:
        QuantizationError: a pattern that matches no layer.
    """
    layers = list(layers)
    for pattern in exclude:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            names = ", ".join(layer.name for layer in layers[:3])
            raise QuantizationError(
                f"the pattern {pattern!r} matches no layer; layers are named like {names}"
            )
    return [(layer, None if is_excluded(layer, exclude) else policy(layer)) for layer in layers]


def is_excluded(layer: Layer, exclude: Sequence[str]) -> bool:
    return any(fnmatchcase(layer.name, pattern) for pattern in exclude)
