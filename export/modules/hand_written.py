"""Layers that are named sublayer by sublayer, put together with PyTorch's functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..spec import NormKind, NormPlacement, NormSpec, Seq2SeqSpec, StackSpec
from .layout import StackLayout
from .names import FFN_GATE, PROJECTIONS, providers

Load = Callable[[str], Tensor]
_Linear = tuple[Tensor, "Tensor | None"]


def apply_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, spec: NormSpec, offset: float
) -> Tensor:
    """The norm of that kind over the last axis; ``offset`` is added to the weight."""
    weight, epsilon = weight + offset, spec.epsilon
    if spec.kind is NormKind.RMS:
        return functional.rms_norm(x, x.shape[-1:], weight, epsilon)
    if spec.kind is NormKind.STD:
        y = weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + epsilon)
        return y if bias is None else y + bias
    return functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


@dataclass(frozen=True)
class HandWrittenLayer:
    """One layer of a stack whose tensors are named."""

    spec: Seq2SeqSpec
    own: StackSpec
    stack: StackLayout
    index: int
    load: Load
    activation: Callable[[Tensor], Tensor]
    norm_offset: float

    def __call__(self, x: Tensor, memory: Tensor | None, padding: Tensor, causal: bool) -> Tensor:
        """States [B, Q, D] to states; ``memory`` [B, S, D] is the source's, if it is attended."""
        seen = ~padding[:, None, None]
        mask = torch.ones(x.shape[1], x.shape[1]).tril().bool() if causal else seen
        x = self._around(x, "self_attention_norm", lambda y: self._attend(y, y, mask, "self"))
        if memory is not None:
            x = self._around(
                x, "cross_attention_norm", lambda y: self._attend(y, memory, seen, "cross")
            )
        return self._around(x, "ffn_norm", self._feed_forward)

    def _around(self, x: Tensor, norm: str, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.spec.placement_of(self.own) is NormPlacement.PRE:
            return x + sublayer(self._norm(norm, x))
        return self._norm(norm, x + sublayer(x))

    def _attend(self, x: Tensor, read: Tensor, mask: Tensor, which: str) -> Tensor:
        attention = f"{which}_attention"
        three: list[_Linear] = []
        for part in providers(self.stack.names, attention, 0, 3):
            start, stop = PROJECTIONS[part]
            weight, bias = self._linear(f"{attention}.{part}")
            count = stop - start
            biases = [None] * count if bias is None else bias.chunk(count)
            three += zip(weight.chunk(count), biases, strict=True)
        query, key, value = (
            self._heads(functional.linear(states, *linear))
            for states, linear in zip((x, read, read), three, strict=True)
        )
        y = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return functional.linear(y.transpose(1, 2).flatten(2), *self._linear(f"{attention}.out"))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, Q, H * Dh] to [B, H, Q, Dh]."""
        return x.view(*x.shape[:2], self.own.heads, self.own.head_dim).transpose(1, 2)

    def _feed_forward(self, x: Tensor) -> Tensor:
        up = functional.linear(x, *self._linear("ffn.up"))
        if self.stack.gated:
            y = self.activation(functional.linear(x, *self._linear(FFN_GATE))) * up
        else:
            y = self.activation(up)
        return functional.linear(y, *self._linear("ffn.down"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return apply_norm(x, *self._linear(name), self.spec.norm_of(self.own), self.norm_offset)

    def _linear(self, name: str) -> _Linear:
        """Weight and bias of a sublayer."""
        place = name, self.index
        bias = self.stack.biases.get(place)
        return self.load(self.stack.weights[place]), None if bias is None else self.load(bias)
