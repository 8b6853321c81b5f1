"""Formats that a layer's weight can have. Each has a pass in ``passes/``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WeightOnly:
    """Weights of ``bits`` bits, a scale for each block of ``block_size`` inputs.

    ``algorithm``: ``rtn`` rounds to nearest; ``k-quant`` searches each block's scale and zero
    point for the least weighted error (4 bit, asymmetric); ``gptq`` rounds so that the layer's
    output over the calibration text changes least. ``standard``: operators of the ONNX
    standard, which TensorRT takes, in place of ONNX Runtime's own.
    """

    bits: int
    block_size: int
    symmetric: bool = True
    algorithm: str = "rtn"
    standard: bool = False

    def describe(self) -> str:
        zero = "symmetric" if self.symmetric else "asymmetric"
        return f"int{self.bits} weights, blocks of {self.block_size}, {zero}, {self.algorithm}"


@dataclass(frozen=True)
class PerChannel:
    """int8 weights, a scale for each output; whatever loads them computes in floats."""

    def describe(self) -> str:
        return "int8 weights per channel"


@dataclass(frozen=True)
class DynamicQuant:
    """int8 weights, a scale for each output; inputs are quantized as they come.

    ``stored``: weights in the file as these blocks, which become int8 when they are loaded.
    """

    stored: WeightOnly | None = None

    def describe(self) -> str:
        inputs = "dynamic int8 inputs"
        if self.stored is not None:
            return f"{self.stored.describe()}; computed as int8, {inputs}"
        return f"int8 weights per channel, {inputs}"


@dataclass(frozen=True)
class QDQ:
    """int8 weights, a scale for each output; inputs in a range known from calibration.

    ``method`` chooses the range (:data:`.calibration.METHODS`). ``unsigned``: uint8 inputs and
    7 bits of weights, as kernels for x86 without VNNI want it; else int8 for both.
    """

    method: str
    unsigned: bool = False

    def describe(self) -> str:
        return f"int8 weights per channel, static int8 inputs ({self.method})"


@dataclass(frozen=True)
class Fp16Weights:
    """Weights stored in float16; whatever loads them computes in float32."""

    def describe(self) -> str:
        return "float16 storage"


WeightFormat = WeightOnly | PerChannel | DynamicQuant | QDQ | Fp16Weights
