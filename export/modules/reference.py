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
from ..spec import Activation, NormPlacement, StackSpec
from .architecture import Architecture
from .hand_written import HandWrittenLayer, apply_norm
from .layout import NormTensors, StackLayout
from .parts import ModuleDescription

#: Below, the logarithm of all exponentials' sum is 0 but for rounding.
_LOG_PROBABILITIES = 1e-4

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
    description: ModuleDescription,
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
    composed = Composed(description, architecture, tensors)
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


#: (states [B, Q, D], the source's states or None, True where the source is padding [B, S], no
#: token sees those after it) to states.
_Layer = Callable[[Tensor, "Tensor | None", Tensor, bool], Tensor]


class Composed:
    """The model that a description means, made of the tensors.

    Its layers are PyTorch's own, or, where they are named sublayer by sublayer, made of PyTorch's
    functions.
    """

    def __init__(
        self, description: ModuleDescription, architecture: Architecture, tensors: Checkpoint
    ) -> None:
        self._architecture = architecture
        self._tensors = tensors
        layout = architecture.layout
        self._source, self._target = self._tensor(layout.source), self._tensor(layout.target)
        self._head = self._tensor(layout.head)
        self._head_bias = None if layout.head_bias is None else self._tensor(layout.head_bias)
        self._options = {"encoder": description.encoder, "decoder": description.decoder}
        parts = description.parts
        self._encoder = self._stack("encoder", parts.encoder_names is not None)
        self._decoder = self._stack("decoder", parts.decoder_names is not None)

    def forward(self, source: Tensor, padding: Tensor, target: Tensor) -> Tensor:
        """See :data:`Forward`."""
        states = self.encode(source, padding)
        x = self._embedded(target, self._target, "decoder")
        for layer in self._decoder:
            x = layer(x, states, padding, True)
        x = self._once(x, "decoder", self._architecture.layout.decoder.norm)
        return functional.linear(x, self._head, self._head_bias)

    def encode(self, source: Tensor, padding: Tensor) -> Tensor:
        """States [B, S, D] of source tokens [B, S]."""
        x = self._embedded(source, self._source, "encoder")
        for layer in self._encoder:
            x = layer(x, None, padding, False)
        return self._once(x, "encoder", self._architecture.layout.encoder.norm)

    def _tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self._tensors.load(name))

    def _side(self, side: str) -> tuple[StackSpec, StackLayout]:
        spec, layout = self._architecture.spec, self._architecture.layout
        if side == "encoder":
            return spec.encoder, layout.encoder
        return spec.decoder, layout.decoder

    def _embedded(self, tokens: Tensor, table: Tensor, side: str) -> Tensor:
        spec, stack = self._side(side)
        x = functional.embedding(tokens, table) * (spec.embedding_scale or 1.0)
        positions = self._architecture.positions[side]
        if positions is not None:
            x = x + torch.from_numpy(positions.rows(self._tensors, tokens.shape[1]))
        return self._once(x, side, stack.embedding_norm, embedding=True)

    def _stack(self, side: str, hand_written: bool) -> list[_Layer]:
        (own, stack), spec = self._side(side), self._architecture.spec
        activation = _ACTIVATIONS[own.activation]
        if not hand_written:
            return [self._pytorch(side, index) for index in range(stack.count)]
        offset = self._options[side].norm_offset
        return [
            HandWrittenLayer(spec, own, stack, index, self._tensor, activation, offset)
            for index in range(stack.count)
        ]

    def _pytorch(self, side: str, index: int) -> _Layer:
        (own, stack), spec = self._side(side), self._architecture.spec
        kind = nn.TransformerEncoderLayer if side == "encoder" else nn.TransformerDecoderLayer
        layer = kind(
            spec.d_model,
            own.heads,
            own.ffn_dim,
            activation=_ACTIVATIONS[own.activation],
            layer_norm_eps=spec.norm_of(own).epsilon,
            batch_first=True,
            norm_first=spec.placement_of(own) is NormPlacement.PRE,
            bias=stack.bias,
        ).eval()
        prefix = f"{stack.layers}.{index}."
        layer.load_state_dict({name: self._tensor(prefix + name) for name in layer.state_dict()})

        def run(x: Tensor, memory: Tensor | None, padding: Tensor, causal: bool) -> Tensor:
            mask = torch.ones(x.shape[1], x.shape[1]).triu(1).bool() if causal else None
            if memory is None:
                states: Tensor = layer(x, src_mask=mask, src_key_padding_mask=padding)
            else:
                states = layer(x, memory, tgt_mask=mask, memory_key_padding_mask=padding)
            return states

        return run

    def _once(
        self, x: Tensor, side: str, norm: NormTensors | None, *, embedding: bool = False
    ) -> Tensor:
        """A norm that is there once."""
        if norm is None:
            return x
        (own, _), spec = self._side(side), self._architecture.spec
        like = spec.norm_of(own) if embedding else own.last_norm or spec.norm_of(own)
        weight, bias = self._tensor(norm.weight), norm.bias
        added = None if bias is None else self._tensor(bias)
        return apply_norm(x, weight, added, like, self._options[side].norm_offset)


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
        logits = logits.cpu()
        if logits.float().logsumexp(-1).abs().max() < _LOG_PROBABILITIES:
            raise ParityError(
                "forward gave log-probabilities, not logits: leave out the log_softmax, as in"
                " model.generator.proj(states)"
            )
        return logits

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
