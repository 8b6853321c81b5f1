"""The convolutions that an encoder of features begins with."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import nn

from ..spec import Convolution, ConvolutionStem
from .layers import Op, activate


class Conv(nn.Module):
    """[B, ``inputs``, F] to [B, outputs, F / stride]; the weight [out, in, kernel] is PyTorch's."""

    def __init__(self, inputs: int, spec: Convolution) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter([spec.outputs, inputs, spec.kernel])
        self.bias = nn.Parameter([spec.outputs])

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        spec = self.spec
        y = op.Conv(
            x,
            self.weight,
            self.bias,
            kernel_shape=[spec.kernel],
            strides=[spec.stride],
            pads=[spec.padding, spec.padding],
        )
        return activate(op, spec.activation, y)


class Stem(nn.Module):
    """Features [B, C, F] to the first layer's input [B, S, D], without positions."""

    def __init__(self, spec: ConvolutionStem) -> None:
        super().__init__()
        inputs = [spec.channels, *(conv.outputs for conv in spec.convolutions)]
        self.convs = nn.ModuleList(
            [
                Conv(channels, conv)
                for channels, conv in zip(inputs, spec.convolutions, strict=False)
            ]
        )

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        for conv in self.convs:
            x = conv(op, x)
        return op.Transpose(x, perm=[0, 2, 1])
