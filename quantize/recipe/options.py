"""What a user may say beyond the scheme."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..calibration.statistics import METHODS
from ..errors import QuantizationError

#: Elements that share a scale. Fewer are more exact and larger: float32 scales add
#: 4 bytes a block.
BLOCK_SIZES = (16, 32, 64, 128, 256)
#: Tried in this order where the user names none, until the quantized bundle is near enough.
DEFAULT_BLOCK_SIZES = (128, 32, 16)
ALGORITHMS = ("rtn", "k-quant", "gptq")


@dataclass(frozen=True)
class Options:
    """What a scheme may be told; None: its own default.

    Attributes:
        block_size: inputs that share a scale, at most; None: the first of
            :data:`DEFAULT_BLOCK_SIZES` that passes the check.
        symmetric: blocks without zero points.
        head_bits: 4 or 8, of the head and the embedding where the other layers have 4.
        algorithm: one of :data:`ALGORITHMS`, for 4 bit weights.
        method: one of :data:`.calibration.METHODS`, for static int8.
        smoothquant: SmoothQuant's alpha, 0 to 1: how much of the outliers of static int8's
            inputs moves into the weights; None: nothing moves.
        lowering: for the CPU and for CUDA, write the decoder also in the form that ONNX Runtime
            runs fastest there (:mod:`.passes.cpu_lowering`, :mod:`.passes.cuda_lowering`); None:
            where it can be.
        two_stage_head: on the CPU, let 4 bits propose the tokens that greedy decoding chooses from;
            where it is asked for, the check measures how safe that is (:mod:`.proposals`).
            None: for large heads of speech.
        int8_cross_kv: there, let the encoder give the keys and values of cross-attention in int8;
            None: for speech. Pays from about 256 source positions on.
        int8_attention: there, let the encoder compute attention over 256 positions and more by
            products of int8; None: of text, where the layers have int8 inputs and the check finds
            that it adds little (:mod:`.long_sources`).
    """

    block_size: int | None = None
    symmetric: bool | None = None
    head_bits: int | None = None
    algorithm: str | None = None
    method: str | None = None
    smoothquant: float | None = None
    lowering: bool | None = None
    two_stage_head: bool | None = None
    int8_cross_kv: bool | None = None
    int8_attention: bool | None = None

    def given(self) -> dict[str, Any]:
        """Those that are not None, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def check_options(options: Options, scheme: str, target: str, uses: frozenset[str]) -> None:
    """Refuse values that do not exist, and options that mean nothing to the scheme.

    Raises:
        QuantizationError: the option and what is allowed.
    """
    for name in options.given():
        if name not in uses:
            takes = ", ".join(sorted(uses)) or "no options"
            raise QuantizationError(
                f"{name} means nothing to {scheme} for {target}, which takes {takes}"
            )
    if options.block_size is not None and options.block_size not in BLOCK_SIZES:
        raise QuantizationError(f"block size {options.block_size}; allowed: {BLOCK_SIZES}")
    if options.algorithm is not None and options.algorithm not in ALGORITHMS:
        raise QuantizationError(f"algorithm {options.algorithm!r}; there are: {ALGORITHMS}")
    if options.head_bits not in (None, 4, 8):
        raise QuantizationError(f"head_bits {options.head_bits}; allowed: 4, 8")
    if options.method is not None and options.method not in METHODS:
        raise QuantizationError(f"calibration method {options.method!r}; there are: {METHODS}")
    if options.smoothquant is not None and not 0 <= options.smoothquant <= 1:
        raise QuantizationError(f"smoothquant {options.smoothquant} must lie in 0..1")
    if options.smoothquant is not None and options.method not in (None, "minmax"):
        raise QuantizationError(
            f"method {options.method!r} with smoothquant: only ranges are known after it, so the"
            " method is minmax"
        )
    if options.algorithm == "k-quant" and options.symmetric:
        raise QuantizationError("k-quant chooses zero points: it cannot be symmetric")
    zero_points = options.algorithm == "k-quant" or options.symmetric is False
    if target == "tensorrt" and zero_points:
        raise QuantizationError("TensorRT takes no zero points: 4 bit weights must be symmetric")
