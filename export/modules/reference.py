"""What PyTorch computes: a user's own forward, or PyTorch's layers put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from seq2edge.runtime.bundle.manifest import Manifest

from ..checkpoint import Checkpoint
from ..errors import ParityError
from ..parity import Inputs, Reference, greedy_options, make_inputs, until_end
from ..rounding import greedy_ties, measure
from ..spec import Activation, NormPlacement, NormSpec, StackSpec
from .architecture import Architecture
from .layout import StackLayout
from .parts import ModuleParts

#: (source tokens [B, S], True where they are padding [B, S], target tokens [B, T]) to logits
#: [B, T, V]; no target token may see those after it.
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.RELU: functional.relu,
    Activation.GELU: functional.gelu,
    Activation.GELU_NEW: nn.GELU(approximate="tanh"),
    Activation.SILU: functional.silu,
}


def run_module(
    own: tuple[nn.Module, Forward] | None,
    parts: ModuleParts,
    architecture: Architecture,
    tensors: Checkpoint,
    manifest: Manifest,
) -> Reference:
    """Run PyTorch on the inputs that every bundle is compared on.

    Args:
        own: the user's model and its forward, which gives logits and tokens; None: those come
            from the layers put together again, as the encoder's states always do.

    Raises:
        ParityError: the user's forward fails or gives something of another shape.
    """
    composed = Composed(parts, architecture, tensors)
    inputs = make_inputs(manifest, architecture.spec.source_rows)
    forward: Forward = composed.forward if own is None else _checked(*own, architecture)
    with torch.no_grad(), _evaluating(None if own is None else own[0]):
        source, padding = torch.from_numpy(inputs.input_ids), torch.from_numpy(~inputs.mask)
        targets = torch.from_numpy(inputs.decoder_ids)
        states, logits = measure(
            lambda: (composed.encode(source, padding), forward(source, padding, targets)),
            keep=1,
            repeat=own is not None,
        )
        written, steps = _greedy(forward, inputs, manifest)
        ties = greedy_ties(lambda: forward(source, padding, written[:, :-1]), steps, logits)
    tokens = [until_end(row, manifest.special_tokens.eos) for row in written[:, 1:].tolist()]
    return Reference(inputs, states, logits, tokens, ties)


class Composed:
    """The model that a description means, made of PyTorch's own layers and the tensors."""

    def __init__(self, parts: ModuleParts, architecture: Architecture, tensors: Checkpoint) -> None:
        self._architecture = architecture
        self._tensors = tensors
        layout = architecture.layout
        self._source = self._tensor(f"{parts.source_embedding}.weight")
        self._target = self._tensor(f"{parts.target_embedding}.weight")
        head = parts.generator
        self._head = self._target if head is None else self._tensor(f"{head}.weight")
        self._head_bias = self._tensor(f"{head}.bias") if layout.generator_bias else None
        self._encoder = self._stack(nn.TransformerEncoderLayer, "encoder", layout.encoder)
        self._decoder = self._stack(nn.TransformerDecoderLayer, "decoder", layout.decoder)

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        """See :data:`Forward`."""
        states = self.encode(source, padding)
        spec = self._architecture.spec.decoder
        x = self._embedded(target, self._target, "decoder", spec)
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        for layer in self._decoder:
            x = layer(x, states, tgt_mask=causal, memory_key_padding_mask=padding)
        x = self._final_norm(x, spec, self._architecture.layout.decoder)
        return functional.linear(x, self._head, self._head_bias)

    def encode(self, source: Tensor, padding: Tensor) -> Tensor:
        """States [B, S, D] of source tokens [B, S]."""
        spec = self._architecture.spec.encoder
        x = self._embedded(source, self._source, "encoder", spec)
        for layer in self._encoder:
            x = layer(x, src_key_padding_mask=padding)
        return self._final_norm(x, spec, self._architecture.layout.encoder)

    def _tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self._tensors.load(name))

    def _embedded(self, tokens: Tensor, table: Tensor, side: str, spec: StackSpec) -> Tensor:
        x = functional.embedding(tokens, table) * (spec.embedding_scale or 1.0)
        for rule in self._architecture.rules:
            if rule.parameter != f"{side}.positions.weight":
                continue
            if rule.computed is not None:
                return x + torch.from_numpy(rule.computed(tuple(x.shape[1:])))
            rows = self._tensor(rule.sources[0]).reshape(-1, x.shape[-1])
            return x + rows[: tokens.shape[1]]
        return x

    def _stack(self, kind: type[nn.Module], side: str, stack: StackLayout) -> list[nn.Module]:
        spec = self._architecture.spec
        own = spec.encoder if side == "encoder" else spec.decoder
        layers = []
        for index in range(stack.count):
            layer = kind(
                spec.d_model,
                own.heads,
                own.ffn_dim,
                activation=_ACTIVATIONS[own.activation],
                layer_norm_eps=spec.norm.epsilon,
                batch_first=True,
                norm_first=spec.norm_placement is NormPlacement.PRE,
                bias=spec.bias,
            )
            prefix = f"{stack.layers}.{index}."
            layer.load_state_dict(
                {name: self._tensor(prefix + name) for name in layer.state_dict()}
            )
            layers.append(layer.eval())
        return layers

    def _final_norm(self, x: Tensor, spec: StackSpec, stack: StackLayout) -> Tensor:
        if stack.norm is None:
            return x
        like: NormSpec = spec.last_norm or self._architecture.spec.norm
        bias = self._tensor(f"{stack.norm}.bias") if stack.norm_has_bias else None
        weight = self._tensor(f"{stack.norm}.weight")
        return functional.layer_norm(x, x.shape[-1:], weight, bias, like.epsilon)


def _checked(model: nn.Module, forward: Forward, architecture: Architecture) -> Forward:
    """The user's forward on the model's device, its result on the CPU."""
    device = next(model.parameters()).device

    def run(source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        try:
            logits = forward(source.to(device), padding.to(device), target.to(device))
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ParityError(
                f"forward(source, padding, target) failed, so the bundle cannot be compared:"
                f" {reason}; pass validate=False to export without the comparison"
            ) from error
        wanted = (*target.shape, architecture.spec.vocab_size)
        shape = tuple(getattr(logits, "shape", ()))
        if shape != wanted:
            raise ParityError(
                f"forward gave {list(shape) or type(logits).__name__}, not logits {list(wanted)}"
                " [batch, target, vocabulary]"
            )
        return logits.cpu()

    return run


@contextmanager
def _evaluating(model: nn.Module | None) -> Iterator[None]:
    """Without dropout, and without the fused encoder layers that PyTorch has for inference.

    Those compute the exact GELU where a layer asks for the tanh approximation (torch 2.13).
    """
    modes: list[tuple[Any, bool]] = []
    if model is not None:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training


def _greedy(
    forward: Forward, inputs: Inputs, manifest: Manifest
) -> tuple[Tensor, NDArray[np.float32]]:
    """All tokens of each row [B, 1 + T] and their logits [B, T, V]; no cache."""
    source, padding = torch.from_numpy(inputs.input_ids), torch.from_numpy(~inputs.mask)
    written = torch.full((len(source), 1), manifest.special_tokens.decoder_start)
    steps = []
    for _ in range(greedy_options(manifest).max_new_tokens or 0):
        steps.append(forward(source, padding, written)[:, -1])
        written = torch.cat([written, steps[-1].argmax(-1, keepdim=True)], dim=1)
    return written, torch.stack(steps, dim=1).float().numpy()
