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
        self.bias = nn.Parameter([spec.outputs]) if spec.bias else None
        self.norm = None if spec.norm is None else ChannelNorm(spec.outputs, spec.norm)

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        spec = self.spec
        bias = [] if self.bias is None else [self.bias]
        y = op.Conv(
            x,
            self.weight,
            *bias,
            kernel_shape=[spec.kernel],
            strides=[spec.stride],
            pads=[spec.padding, spec.padding],
        )
        y = activate(op, spec.activation, y)
        return y if self.norm is None else self.norm(op, y)


class ChannelNorm(nn.Module):
    """(x - mean) / deviation over channels and times [B, C, F], then a scale and a bias."""

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter([channels])
        self.bias = nn.Parameter([channels])

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        centered = op.Sub(x, op.ReduceMean(x, [1, 2]))
        variance = op.ReduceMean(op.Mul(centered, centered), [1, 2])
        deviation = op.Sqrt(op.Add(variance, op.CastLike(self.epsilon, variance)))
        scale, shift = op.Unsqueeze(self.weight, [1]), op.Unsqueeze(self.bias, [1])
        return op.Add(op.Mul(op.Div(centered, deviation), scale), shift)


class Stem(nn.Module):
    """Features [B, C, F], or audio [B, F], to the first layer's input [B, S, D].

    Without positions.
    """

    def __init__(self, spec: ConvolutionStem) -> None:
        super().__init__()
        self.reads_audio = spec.channels is None
        inputs = [spec.channels or 1, *(conv.outputs for conv in spec.convolutions)]
        self.convs = nn.ModuleList(
            [
                Conv(channels, conv)
                for channels, conv in zip(inputs, spec.convolutions, strict=False)
            ]
        )

    def forward(self, op: Op, x: ir.Value) -> ir.Value:
        if self.reads_audio:
            x = op.Unsqueeze(x, [1])
        for conv in self.convs:
            x = conv(op, x)
        return op.Transpose(x, perm=[0, 2, 1])
