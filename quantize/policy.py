"""What is done to which layer: schemes are predicates over layers.

A :class:`Scheme` gives each layer a treatment or leaves it as it is. The decisions are written
into the manifest, layer by layer, so a bundle says exactly what was done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .errors import QuantizationError
from .layers import Kind, Layer

#: Elements that share a scale. Fewer are more exact and larger: float32 scales add
#: 4 bytes a block.
BLOCK_SIZES = (16, 32, 64, 128, 256)
ALGORITHMS = ("rtn", "k-quant")


@dataclass(frozen=True)
class BlockWeights:
    """Weights of ``bits`` bits, a scale for each block of ``block_size`` inputs.

    ``algorithm``: ``rtn`` rounds to nearest; ``k-quant`` searches each block's scale and zero
    point for the least weighted error (4 bit, asymmetric).
    """

    bits: int
    block_size: int
    symmetric: bool = True
    algorithm: str = "rtn"

    def describe(self) -> str:
        zero = "symmetric" if self.symmetric else "asymmetric"
        return f"int{self.bits} weights, blocks of {self.block_size}, {zero}, {self.algorithm}"


@dataclass(frozen=True)
class DynamicInt8:
    """int8 weights, a scale for each output; inputs are quantized as they come."""

    def describe(self) -> str:
        return "int8 weights per channel, dynamic int8 inputs"


@dataclass(frozen=True)
class HalfStorage:
    """Weights stored in float16; whatever loads them computes in float32."""

    def describe(self) -> str:
        return "float16 storage"


Treatment = BlockWeights | DynamicInt8 | HalfStorage
Policy = Callable[[Layer], Treatment | None]


@dataclass(frozen=True)
class Options:
    """What a scheme may be told; None: its own default."""

    block_size: int | None = None
    symmetric: bool | None = None
    algorithm: str | None = None


@dataclass(frozen=True)
class Scheme:
    """A named way to quantize for a target."""

    name: str
    target: str
    summary: str
    #: The manifest's precision of the decoder graph.
    precision: str
    policy: Callable[[Options], Policy]


def _int8_cpu(options: Options) -> Policy:
    weights = BlockWeights(8, options.block_size or 128)

    def decide(layer: Layer) -> Treatment:
        # The encoder sees the whole source at once: it is bound by arithmetic, where int8
        # inputs help; a decoder step is bound by reading weights, where they do not.
        encoder = layer.kind is Kind.LINEAR and layer.stage == "encoder"
        return DynamicInt8() if encoder else weights

    return decide


def _int4_cpu(options: Options) -> Policy:
    algorithm = options.algorithm or "rtn"
    symmetric = algorithm == "rtn" if options.symmetric is None else options.symmetric
    weights = BlockWeights(4, options.block_size or 128, symmetric, algorithm)
    # The head chooses among all tokens and the embedding is every layer's input.
    ends = BlockWeights(8, options.block_size or 128)
    return lambda layer: weights if layer.kind is Kind.LINEAR else ends


def _float16_cpu(_options: Options) -> Policy:
    return lambda _layer: HalfStorage()


SCHEMES = (
    Scheme("int8", "cpu", "8 bit weights, int8 arithmetic in the encoder", "int8", _int8_cpu),
    Scheme("int4", "cpu", "4 bit weights, 8 bit embedding and head", "int4", _int4_cpu),
    Scheme("fp16", "cpu", "half the file; computes in float32", "float16 storage", _float16_cpu),
)


def find_scheme(name: str, target: str) -> Scheme:
    """The scheme of that name for that target.

    Raises:
        QuantizationError: there is none; those that there are.
    """
    for scheme in SCHEMES:
        if (scheme.name, scheme.target) == (name, target):
            return scheme
    known = ", ".join(f"{scheme.name} for {scheme.target}" for scheme in SCHEMES)
    raise QuantizationError(f"unknown scheme {name!r} for {target!r}; there are: {known}")


def check_options(options: Options) -> None:
    """Refuse block sizes and algorithms that do not exist.

    Raises:
        QuantizationError: the value and what is allowed.
    """
    if options.block_size is not None and options.block_size not in BLOCK_SIZES:
        raise QuantizationError(f"block size {options.block_size}; allowed: {BLOCK_SIZES}")
    if options.algorithm is not None and options.algorithm not in ALGORITHMS:
        raise QuantizationError(f"algorithm {options.algorithm!r}; there are: {ALGORITHMS}")
    if options.algorithm == "k-quant" and options.symmetric:
        raise QuantizationError("k-quant chooses zero points: it cannot be symmetric")


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
    excluded = [any(fnmatchcase(layer.name, pattern) for pattern in exclude) for layer in layers]
    return [
        (layer, None if skip else policy(layer))
        for layer, skip in zip(layers, excluded, strict=True)
    ]
