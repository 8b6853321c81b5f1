"""From a description and tensors to a spec and a name map."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..sinusoids import sinusoids
from ..spec import LearnedPositions, NormKind, NormPlacement, NormSpec, Seq2SeqSpec, StackSpec
from ..transforms import FirstPositions, Projections, Transpose
from ..weights import WeightMapping, linear, norm
from .layout import Layout, StackLayout, find_layout
from .parts import SQRT_WIDTH, LayerOptions, ModuleDescription, ModuleParts, PositionalEncoding

_FAMILY = "torch"


@dataclass(frozen=True)
class Architecture:
    """What to build, where it lies, and which tensors fill it."""

    spec: Seq2SeqSpec
    layout: Layout
    rules: list[WeightMapping]


def read_architecture(description: ModuleDescription, tensors: Checkpoint) -> Architecture:
    """What to build, and from which tensors.

    Raises:
        CheckpointError: parts that are missing or do not fit each other.
    """
    parts, layout = description.parts, find_layout(description, tensors)
    for what, ours, theirs in (
        ("norm_first", description.encoder.norm_first, description.decoder.norm_first),
        ("layer_norm_eps", description.encoder.epsilon, description.decoder.epsilon),
    ):
        if ours != theirs:
            raise CheckpointError(
                f"{what} is {ours} in the encoder and {theirs} in the decoder; it must be the same"
            )
    sides = {
        "encoder": (description.encoder, layout.encoder, parts.positions),
        "decoder": (
            description.decoder,
            layout.decoder,
            parts.target_positions or parts.positions,
        ),
    }
    scales = {"encoder": _scale(parts.embedding_scale, layout.d_model)}
    target_scale = parts.target_embedding_scale
    scales["decoder"] = (
        scales["encoder"] if target_scale is None else _scale(target_scale, layout.d_model)
    )
    stacks, rules = {}, _token_rules(parts, layout)
    for side, (options, stack, positions) in sides.items():
        length = _length(positions, layout.d_model, tensors)
        stacks[side] = _stack_spec(side, options, stack, layout, length, scales[side])
        if length is not None:
            parameter = f"{side}.positions.weight"
            if positions.table is None:
                rules.append(WeightMapping(parameter, (), computed=lambda shape: sinusoids(*shape)))
            else:
                stored = tensors.shape(positions.table)
                rules.append(
                    WeightMapping(parameter, (positions.table,), FirstPositions(stored, length))
                )
        rules += _stack_rules(side, stack)
    spec = Seq2SeqSpec(
        family=_FAMILY,
        vocab_size=layout.target_vocab_size,
        source_vocab_size=layout.source_vocab_size,
        d_model=layout.d_model,
        encoder=stacks["encoder"],
        decoder=stacks["decoder"],
        norm=NormSpec(NormKind.LAYER, description.encoder.epsilon, layout.encoder.norm_bias),
        norm_placement=(
            NormPlacement.PRE if description.encoder.norm_first else NormPlacement.POST
        ),
        bias=layout.encoder.bias,
        tied_lm_head=layout.tied,
        logits_bias=layout.generator_bias,
        separate_decoder_embedding=not layout.shared,
    )
    return Architecture(spec, layout, rules)


def _scale(value: float | str, d_model: int) -> float:
    if value == SQRT_WIDTH:
        return math.sqrt(d_model)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise CheckpointError(f"the embedding scale is {value!r}; give a number or {SQRT_WIDTH!r}")


def _length(positions: PositionalEncoding, d_model: int, tensors: Checkpoint) -> int | None:
    """Number of positions; None without any."""
    if positions.table is None:
        return positions.length
    if positions.table not in tensors.names:
        raise CheckpointError(
            f"{tensors.directory} does not fit its description: missing tensor {positions.table}"
        )
    shape = tensors.shape(positions.table)
    rows = math.prod(shape[:-1])
    if len(shape) not in (2, 3) or shape[-1] != d_model or rows != max(shape[:-1]):
        raise CheckpointError(
            f"tensor {positions.table} has shape {list(shape)}, expected [L, {d_model}],"
            f" [1, L, {d_model}] or [L, 1, {d_model}]"
        )
    if positions.length is not None and positions.length > rows:
        raise CheckpointError(
            f"{positions.length} positions are asked for and {positions.table} has {rows}"
        )
    return positions.length or rows


def _stack_spec(
    side: str,
    options: LayerOptions,
    stack: StackLayout,
    layout: Layout,
    length: int | None,
    scale: float,
) -> StackSpec:
    if layout.d_model % options.heads:
        raise CheckpointError(
            f"d_model {layout.d_model} is not a multiple of the {side}'s {options.heads} heads"
        )
    head_dim = layout.d_model // options.heads
    epsilon = options.epsilon if options.final_epsilon is None else options.final_epsilon
    return StackSpec(
        layers=stack.count,
        heads=options.heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        ffn_dim=stack.ffn_dim,
        activation=options.activation,
        gated=False,
        positions=None if length is None else LearnedPositions(length),
        final_norm=stack.norm is not None,
        embedding_norm=False,
        embedding_scale=scale,
        last_norm=NormSpec(NormKind.LAYER, epsilon, stack.norm_has_bias),
    )


def _token_rules(parts: ModuleParts, layout: Layout) -> list[WeightMapping]:
    source, target = f"{parts.source_embedding}.weight", f"{parts.target_embedding}.weight"
    head = target if parts.generator is None else f"{parts.generator}.weight"
    one_table = dict.fromkeys(
        ((target,) if layout.shared else ()) + ((head,) if layout.tied else ())
    )
    if layout.shared:
        rules = [WeightMapping("embedding.weight", (source,), tied=tuple(one_table))]
    else:
        rules = [
            WeightMapping("embedding.weight", (source,)),
            WeightMapping("decoder_embedding.weight", (target,), tied=tuple(one_table)),
        ]
    if not layout.tied:
        rules.append(WeightMapping("lm_head.weight", (head,), Transpose()))
    if layout.generator_bias:
        rules.append(WeightMapping("lm_head.bias", (f"{parts.generator}.bias",)))
    return rules


def _stack_rules(side: str, stack: StackLayout) -> list[WeightMapping]:
    rules = []
    if stack.norm is not None:
        rules += norm(f"{side}.final_norm", stack.norm, bias=stack.norm_has_bias)
    for index in range(stack.count):
        ours, theirs = f"{side}.layers.{index}", f"{stack.layers}.{index}"
        rules += _projections(f"{ours}.self_attention.qkv", f"{theirs}.self_attn", (0, 3), stack)
        rules += linear(
            f"{ours}.self_attention.out", f"{theirs}.self_attn.out_proj", bias=stack.bias
        )
        norms = ["self_attention_norm", "ffn_norm"]
        if side == "decoder":
            norms.insert(1, "cross_attention_norm")
            attention = f"{theirs}.multihead_attn"
            rules += _projections(f"{ours}.cross_attention.query", attention, (0, 1), stack)
            rules += _projections(f"cross.{index}.kv", attention, (1, 3), stack)
            rules += linear(f"{ours}.cross_attention.out", f"{attention}.out_proj", bias=stack.bias)
        for number, name in enumerate(norms, start=1):
            rules += norm(f"{ours}.{name}", f"{theirs}.norm{number}", bias=stack.norm_bias)
        rules += linear(f"{ours}.ffn.up", f"{theirs}.linear1", bias=stack.bias)
        rules += linear(f"{ours}.ffn.down", f"{theirs}.linear2", bias=stack.bias)
    return rules


def _projections(
    parameter: str, attention: str, taken: tuple[int, int], stack: StackLayout
) -> list[WeightMapping]:
    kinds = ("weight", "bias") if stack.bias else ("weight",)
    return [
        WeightMapping(f"{parameter}.{kind}", (f"{attention}.in_proj_{kind}",), Projections(*taken))
        for kind in kinds
    ]
