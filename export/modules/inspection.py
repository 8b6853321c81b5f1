"""How a module's layers are set, read off the modules themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import CheckpointError
from ..spec import Activation
from .names import Pattern, norms
from .parts import LayerOptions, ModuleDescription, ModuleParts

#: What may be a layer's activation beside modules.
_FUNCTIONS: tuple[tuple[Any, Activation], ...] = (
    (functional.relu, Activation.RELU),
    (torch.relu, Activation.RELU),
    (functional.gelu, Activation.GELU),
    (functional.silu, Activation.SILU),
)
_STACKS = {"encoder": nn.TransformerEncoder, "decoder": nn.TransformerDecoder}
_LAYERS = {"encoder": nn.TransformerEncoderLayer, "decoder": nn.TransformerDecoderLayer}
_METHODS = ("forward", "_sa_block", "_mha_block", "_ff_block")


def describe(model: nn.Module, parts: ModuleParts) -> ModuleDescription:
    """The options of both stacks; also that each part is of a class whose code is PyTorch's own.

    Raises:
        CheckpointError: a part that is missing, of another class, or set in a way that is not
            supported.
    """
    if parts.hand_written:
        return _hand_written(model, parts)
    for name in dict.fromkeys((parts.source_embedding, parts.target_embedding)):
        embedding = _own(model, name, nn.Embedding)
        if embedding.max_norm is not None:
            raise CheckpointError(f"{name} has max_norm, which changes its rows when it is used")
    if parts.generator is not None:
        _own(model, parts.generator, nn.Linear)
    return ModuleDescription(
        parts,
        _options(model, "encoder", parts.encoder, parts.encoder_norm),
        _options(model, "decoder", parts.decoder, parts.decoder_norm),
    )


def _hand_written(model: nn.Module, parts: ModuleParts) -> ModuleDescription:
    """Layers whose code is the user's: their options are what ``parts`` says."""
    if parts.encoder_names is None or parts.decoder_names is None:
        raise CheckpointError(
            "ModuleParts has names for the layers of one side only; give encoder_names and"
            " decoder_names, or neither"
        )
    if parts.layers is None:
        raise CheckpointError(
            "layers that are not PyTorch's need ModuleParts(layers=layer_options(...)): heads,"
            " activation and where the norms are"
        )
    description = ModuleDescription(parts, parts.layers, parts.decoder_layers or parts.layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.max_norm is not None:
            raise CheckpointError(f"{name} has max_norm, which changes its rows when it is used")
    _check_epsilons(model, description)
    return description


def _check_epsilons(model: nn.Module, description: ModuleDescription) -> None:
    """Refuse an epsilon that PyTorch's own norms do not have: too small a difference to be seen
    when the bundle is compared."""
    options = {"encoder": description.encoder, "decoder": description.decoder}
    for side, own in description.parts.sides().items():
        asked = options[side]
        names = own.names or {}
        for text in (names[name] for name in norms(side) if name in names):
            pattern = Pattern.parse(text)
            path = f"{own.layers}.0.{text}" if pattern is None else pattern.name(0)
            _check_epsilon(model, path, asked.epsilon, "layer_norm_eps")
        final = asked.epsilon if asked.final_epsilon is None else asked.final_epsilon
        if own.norm is not None:
            _check_epsilon(model, own.norm, final, "final_norm_eps")


def _check_epsilon(model: nn.Module, path: str, epsilon: float, option: str) -> None:
    try:
        norm = model.get_submodule(path)
    except AttributeError:  # told with the tensors
        return
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm) and norm.eps not in (None, epsilon):
        raise CheckpointError(f"{path} has eps {norm.eps}, and {option} is {epsilon}")


def _own(model: nn.Module, name: str, *classes: type[nn.Module]) -> Any:
    """The part of that name, which must be of one of ``classes`` and compute as they do."""
    try:
        part = model.get_submodule(name)
    except AttributeError:
        there = ", ".join(child for child, _ in model.named_children())
        raise CheckpointError(
            f"the {type(model).__name__} has no part {name!r}; its parts are {there}"
        ) from None
    base = next((cls for cls in classes if isinstance(part, cls)), None)
    if base is None:
        known = " or ".join(f"nn.{cls.__name__}" for cls in classes)
        raise CheckpointError(
            f"{name} is a {type(part).__name__}, and must be an {known}{_way_out(classes)}"
        )
    for method in _METHODS:
        if getattr(type(part), method, None) is not getattr(base, method, None):
            raise CheckpointError(
                f"{name} is a {type(part).__name__}, whose {method} is not"
                f" nn.{base.__name__}'s{_way_out(classes)}"
            )
    return part


def _way_out(classes: tuple[type[nn.Module], ...]) -> str:
    """What to do about layers that are not PyTorch's."""
    layers = {*_STACKS.values(), *_LAYERS.values()}
    if layers.isdisjoint(classes):
        return ""
    return (
        "; layers of your own are exported by the names of their sublayers: layout_parts(...), or"
        " ModuleParts(encoder_names=..., decoder_names=...) (docs/pytorch.md)"
    )


def _options(model: nn.Module, side: str, path: str | None, norm: str | None) -> LayerOptions:
    if path is None:
        raise CheckpointError(f"ModuleParts does not say where the {side} is")
    stack = _own(model, path, _STACKS[side], nn.ModuleList)
    inside = "" if isinstance(stack, nn.ModuleList) else ".layers"
    layers = stack if isinstance(stack, nn.ModuleList) else stack.layers
    if not len(layers):
        raise CheckpointError(f"{path} has no layers")
    found = [
        _layer_options(
            f"{path}{inside}.{index}", _own(model, f"{path}{inside}.{index}", _LAYERS[side])
        )
        for index in range(len(layers))
    ]
    for index, options in enumerate(found):
        if options != found[0]:
            raise CheckpointError(
                f"{path}{inside}.{index} is set otherwise than the first layer: {options},"
                f" {found[0]}"
            )
    if norm is None and getattr(stack, "norm", None) is not None:
        norm = f"{path}.norm"
    if norm is None:
        return found[0]
    final = _norm_epsilon(norm, _own(model, norm, nn.LayerNorm))
    return replace(found[0], final_epsilon=final)


def _layer_options(name: str, layer: Any) -> LayerOptions:
    attentions = [layer.self_attn, getattr(layer, "multihead_attn", layer.self_attn)]
    for attention in attentions:
        _check_attention(name, attention)
    heads = {attention.num_heads for attention in attentions}
    norms = [getattr(layer, f"norm{n}") for n in (1, 2, 3) if hasattr(layer, f"norm{n}")]
    epsilons = {_norm_epsilon(f"{name}.norm{n}", norm) for n, norm in enumerate(norms, start=1)}
    if len(heads) > 1 or len(epsilons) > 1:
        raise CheckpointError(f"{name} mixes numbers of heads {heads}, or norms {epsilons}")
    return LayerOptions(
        heads=heads.pop(),
        activation=_activation(name, layer.activation),
        norm_first=bool(layer.norm_first),
        epsilon=epsilons.pop(),
    )


def _check_attention(name: str, attention: Any) -> None:
    if type(attention) is not nn.MultiheadAttention:
        raise CheckpointError(
            f"{name} has a {type(attention).__name__} for attention; only nn.MultiheadAttention"
            " is supported"
        )
    if attention.in_proj_weight is None or attention.bias_k is not None or attention.add_zero_attn:
        raise CheckpointError(
            f"{name}: attention with kdim, vdim, add_bias_kv or add_zero_attn is not supported"
        )


def _norm_epsilon(name: str, norm: Any) -> float:
    if type(norm) is not nn.LayerNorm or norm.weight is None or len(norm.normalized_shape) != 1:
        raise CheckpointError(f"{name} is {norm}; only an nn.LayerNorm with weights is supported")
    return float(norm.eps)


def _activation(name: str, function: Callable[..., Any]) -> Activation:
    if isinstance(function, nn.GELU):
        tanh = function.approximate == "tanh"
        return Activation.GELU_NEW if tanh else Activation.GELU
    if type(function) is nn.ReLU:
        return Activation.RELU
    if type(function) is nn.SiLU:
        return Activation.SILU
    for known, activation in _FUNCTIONS:
        if function is known:
            return activation
    called = getattr(function, "__name__", None) or repr(function)
    raise CheckpointError(
        f"{name} has the activation {called}, which is not supported; there are: relu, gelu, silu"
    )
