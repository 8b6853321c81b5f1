"""From a description and tensors to a spec and a name map."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, replace

import numpy as np

from ..checkpoint import Checkpoint, FloatArray
from ..errors import CheckpointError
from ..sinusoids import fairseq_sinusoids, halved_sinusoids, sinusoids
from ..spec import LearnedPositions, NormKind, NormPlacement, NormSpec, Seq2SeqSpec, StackSpec
from ..transforms import Copy, Piece, Pieces, PositionRows, Raised, Shape, Transform, Transpose
from ..weights import WeightMapping
from .layout import Layout, NormTensors, StackLayout, find_layout, tensor_name
from .names import FFN_GATE, PROJECTIONS, norms, providers
from .parts import (
    INVERSE_SQRT_WIDTH,
    SQRT_WIDTH,
    LayerOptions,
    ModuleDescription,
    ModuleParts,
    PositionalEncoding,
    SideParts,
)

_FAMILY = "torch"


@dataclass(frozen=True)
class Architecture:
    """What to build, where it lies, which tensors fill it, and what does not fit, as messages.

    ``positions`` are each side's; None: it has none.
    """

    spec: Seq2SeqSpec
    layout: Layout
    rules: list[WeightMapping]
    positions: dict[str, PositionTable | None]
    problems: list[str]


def read_architecture(description: ModuleDescription, tensors: Checkpoint) -> Architecture:
    """What to build, and from which tensors.

    Raises:
        CheckpointError: parts that are missing or do not fit each other.
    """
    layout = find_layout(description, tensors)
    problems = [*_refused(description.parts, tensors), *layout.problems]
    options = {"encoder": description.encoder, "decoder": description.decoder}
    stacks = {"encoder": layout.encoder, "decoder": layout.decoder}
    sides = description.parts.sides()
    tables = {
        side: _positions(own.positions, layout.d_model, tensors, problems)
        for side, own in sides.items()
    }
    specs = {
        side: _stack_spec(own, options[side], stacks[side], layout, tables[side], problems)
        for side, own in sides.items()
    }
    for side, stack in stacks.items():
        _check_offset(stack, options[side], tensors)
    shared = _shared(tables["encoder"], tables["decoder"], tensors)
    spec = Seq2SeqSpec(
        family=_FAMILY,
        vocab_size=layout.target_vocab_size,
        source_vocab_size=layout.source_vocab_size,
        d_model=layout.d_model,
        encoder=specs["encoder"],
        decoder=specs["decoder"],
        norm=_norm_spec(options["encoder"], layout.encoder),
        norm_placement=_placement(options["encoder"]),
        bias=layout.encoder.bias or layout.decoder.bias,
        attention_bias=layout.encoder.attention_bias or layout.decoder.attention_bias,
        tied_lm_head=layout.tied,
        logits_bias=layout.head_bias is not None,
        separate_decoder_embedding=not layout.shared,
        shared_positions=shared is not None,
    )
    rules = _token_rules(layout)
    if shared is None:
        rules += [table.rule(f"{side}.positions.weight") for side, table in tables.items() if table]
    else:
        rules.append(shared.rule("positions.weight"))
    for side, stack in stacks.items():
        rules += _stack_rules(side, stack, spec, options[side])
    return Architecture(spec, layout, rules, tables, problems)


def _refused(parts: ModuleParts, tensors: Checkpoint) -> list[str]:
    """Computations that a layout may have and that are not exported, by a tensor of theirs."""
    problems = []
    for pattern, what in parts.refused.items():
        names = sorted(name for name in tensors.names if re.fullmatch(pattern, name))
        if names:
            problems.append(f"{what} ({names[0]})")
    return problems


def _check_offset(stack: StackLayout, options: LayerOptions, tensors: Checkpoint) -> None:
    """Warn if norms are stored as they are and not less what ``options`` adds."""
    name = stack.weights.get(("ffn_norm", 0))
    if not options.norm_offset or name not in tensors.names:
        return
    mean = float(tensors.load(name).mean())
    if abs(mean - 1) < abs(mean + options.norm_offset - 1):
        warnings.warn(
            f"{options.norm_offset} is added to the weights of norms, and {name} is {mean:.2f} in"
            " the mean without: if the model stores them as they are, say norm_offset = 0",
            stacklevel=6,
        )


@dataclass(frozen=True)
class PositionTable:
    """Rows [length, D] from a stored table, or computed where ``table`` is None."""

    positions: PositionalEncoding
    table: str | None
    stored: Shape
    length: int
    width: int
    scale: float
    tied: tuple[str, ...] = ()

    def rule(self, parameter: str) -> WeightMapping:
        if self.table is None:
            return WeightMapping(parameter, (), computed=self.compute)
        return WeightMapping(parameter, (self.table,), self._transform(), self.tied)

    def rows(self, tensors: Checkpoint, count: int) -> FloatArray:
        """The first ``count`` rows, loaded or computed."""
        if self.table is None:
            return self.compute((count, self.width))
        return self._transform().apply([tensors.load(self.table)])[:count]

    def _transform(self) -> PositionRows:
        return PositionRows(self.stored, self.length, self.positions.offset, self.scale)

    def compute(self, shape: Shape) -> FloatArray:
        length, width = shape
        offset = self.positions.offset
        if self.positions.order == "fairseq":
            rows = fairseq_sinusoids(length, width, offset)
        else:
            made = halved_sinusoids if self.positions.order == "halves" else sinusoids
            rows = made(offset + length, width)[offset:]
        return rows if self.scale == 1.0 else rows * np.float32(self.scale)


def scale_of(value: float | str, d_model: int, what: str = "the embedding scale") -> float:
    """A factor, or one that is named after the width.

    Raises:
        CheckpointError: neither.
    """
    if value == SQRT_WIDTH:
        return math.sqrt(d_model)
    if value == INVERSE_SQRT_WIDTH:
        return 1 / math.sqrt(d_model)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise CheckpointError(
        f"{what} is {value!r}; give a number, {SQRT_WIDTH!r} or {INVERSE_SQRT_WIDTH!r}"
    )


def _positions(
    positions: PositionalEncoding, d_model: int, tensors: Checkpoint, problems: list[str]
) -> PositionTable | None:
    """None: no positions are added, or there is no such table."""
    scale = scale_of(positions.scale, d_model, "the scale of positions")
    if positions.table is None:
        if positions.length is None:
            return None
        return PositionTable(positions, None, (), positions.length, d_model, scale)
    table = tensor_name(positions.table, tensors.names)
    if table not in tensors.names:
        missing = f"missing tensor {positions.table}"
        problems += [missing] if missing not in problems else []
        return None
    shape = tensors.shape(table)
    rows = math.prod(shape[:-1])
    if len(shape) not in (2, 3) or shape[-1] != d_model or rows != max(shape[:-1]):
        raise CheckpointError(
            f"tensor {table} has shape {list(shape)}, expected [L, {d_model}],"
            f" [1, L, {d_model}] or [L, 1, {d_model}]"
        )
    if positions.length is not None and positions.offset + positions.length > rows:
        after = f" after {positions.offset} others" if positions.offset else ""
        raise CheckpointError(
            f"{positions.length} positions are asked for{after} and {table} has {rows}"
        )
    length = positions.length or rows - positions.offset
    if length < 1:
        raise CheckpointError(f"{table} has no row after the first {positions.offset}")
    return PositionTable(positions, table, shape, length, d_model, scale)


def _shared(
    source: PositionTable | None, target: PositionTable | None, tensors: Checkpoint
) -> PositionTable | None:
    """The longer of two tables that are one; None: they are not."""
    if source is None or target is None or source.scale != target.scale:
        return None
    one, other = source.positions, target.positions
    if one.offset != other.offset or (source.table is None) != (target.table is None):
        return None
    longer = source if source.length >= target.length else target
    if source.table is None or target.table is None:
        return longer if one.order == other.order else None
    if source.table == target.table:
        return longer
    if source.stored != target.stored or not tensors.equal(source.table, target.table):
        return None
    tied = tuple(table for table in (source.table, target.table) if table is not None)
    return replace(longer, tied=tied)


def _placement(options: LayerOptions) -> NormPlacement:
    return NormPlacement.PRE if options.norm_first else NormPlacement.POST


def _norm_spec(options: LayerOptions, stack: StackLayout) -> NormSpec:
    return NormSpec(options.norm or NormKind.LAYER, options.epsilon, stack.norm_bias)


def _stack_spec(
    side: SideParts,
    options: LayerOptions,
    stack: StackLayout,
    layout: Layout,
    positions: PositionTable | None,
    problems: list[str],
) -> StackSpec:
    heads = options.heads
    if stack.inner_dim % heads:
        what = "d_model" if stack.inner_dim == layout.d_model else "the size of queries,"
        problems.append(
            f"{what} {stack.inner_dim} is not a multiple of the {side.side}'s {heads} heads"
        )
        heads = 1
    if stack.norm_question is not None and options.norm is None:
        problems.append(stack.norm_question)
    head_dim = stack.inner_dim // heads
    epsilon = options.epsilon if options.final_epsilon is None else options.final_epsilon
    norm, final = _norm_spec(options, stack), stack.norm
    return StackSpec(
        layers=stack.count,
        heads=heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        ffn_dim=stack.ffn_dim,
        activation=options.activation,
        gated=stack.gated,
        positions=None if positions is None else LearnedPositions(positions.length),
        final_norm=final is not None,
        embedding_norm=stack.embedding_norm is not None,
        embedding_scale=scale_of(side.embedding_scale, layout.d_model),
        last_norm=NormSpec(norm.kind, epsilon, final is not None and final.bias is not None),
        norm=norm,
        norm_placement=_placement(options),
    )


def _token_rules(layout: Layout) -> list[WeightMapping]:
    one_table = dict.fromkeys(
        ((layout.target,) if layout.shared else ()) + ((layout.head,) if layout.tied else ())
    )
    if layout.shared:
        rules = [WeightMapping("embedding.weight", (layout.source,), tied=tuple(one_table))]
    else:
        rules = [
            WeightMapping("embedding.weight", (layout.source,)),
            WeightMapping("decoder_embedding.weight", (layout.target,), tied=tuple(one_table)),
        ]
    if not layout.tied:
        rules.append(WeightMapping("lm_head.weight", (layout.head,), Transpose()))
    if layout.head_bias is not None:
        rules.append(WeightMapping("lm_head.bias", (layout.head_bias,)))
    return rules


def _stack_rules(
    side: str, stack: StackLayout, spec: Seq2SeqSpec, options: LayerOptions
) -> list[WeightMapping]:
    raised = Raised(options.norm_offset) if options.norm_offset else Copy()
    rules = []
    for name, once in (("final_norm", stack.norm), ("embedding_norm", stack.embedding_norm)):
        if once is not None:
            rules += _once(f"{side}.{name}", once, raised)
    for index in range(stack.count):
        ours = f"{side}.layers.{index}"
        own = _LayerRules(stack, index, spec)
        rules += own.projections(f"{ours}.self_attention.qkv", "self_attention", 0, 3)
        linears = ["self_attention.out", "ffn.up", "ffn.down"]
        if side == "decoder":
            rules += own.projections(f"{ours}.cross_attention.query", "cross_attention", 0, 1)
            rules += own.projections(f"cross.{index}.kv", "cross_attention", 1, 3)
            linears.append("cross_attention.out")
        if stack.gated:
            linears.append(FFN_GATE)
        for name in linears:
            rules += own.linear(f"{ours}.{name}", name)
        for name in norms(side):
            rules += own.norm(f"{ours}.{name}", name, raised)
    return rules


def _once(parameter: str, norm: NormTensors, weight: Transform) -> list[WeightMapping]:
    rules = [WeightMapping(f"{parameter}.weight", (norm.weight,), weight)]
    if norm.bias is not None:
        rules.append(WeightMapping(f"{parameter}.bias", (norm.bias,)))
    return rules


def _zeros(shape: Shape) -> FloatArray:
    return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class _LayerRules:
    """Rules of one layer; what the map of names lacks has none (it is told as missing)."""

    stack: StackLayout
    index: int
    spec: Seq2SeqSpec

    def projections(
        self, parameter: str, attention: str, first: int, last: int
    ) -> list[WeightMapping]:
        """One linear layer of those that give query, key and value (from first to last)."""
        parts = providers(self.stack.names, attention, first, last)
        covered = {part for name in parts for part in range(*PROJECTIONS[name])}
        # Each part that is lacking keeps its place, so that the others have the right shapes.
        absent = [Piece(present=False) for part in range(first, last) if part not in covered]
        given, weights, biases = [], [], {}
        for name in parts:
            start, stop = PROJECTIONS[name]
            place = f"{attention}.{name}", self.index
            piece = Piece(max(first, start) - start, min(last, stop) - start, stop - start)
            given.append(piece)
            weights.append(self.stack.weights[place])
            if place in self.stack.biases:
                biases[len(given) - 1] = self.stack.biases[place]
        if not given:
            return []
        rules = [WeightMapping(f"{parameter}.weight", tuple(weights), Pieces((*given, *absent)))]
        if self.spec.attention_has_bias:
            pieces = (replace(p, present=n in biases) for n, p in enumerate(given))
            joined = Pieces((*pieces, *absent))
            rules.append(self._bias(f"{parameter}.bias", tuple(biases.values()), joined))
        return rules

    def linear(self, parameter: str, name: str) -> list[WeightMapping]:
        if (name, self.index) not in self.stack.weights:
            return []
        rules = [
            WeightMapping(
                f"{parameter}.weight", (self.stack.weights[name, self.index],), Transpose()
            )
        ]
        attention = "attention." in name
        if self.spec.attention_has_bias if attention else self.spec.bias:
            bias = self.stack.biases.get((name, self.index))
            rules.append(self._bias(f"{parameter}.bias", () if bias is None else (bias,), Copy()))
        return rules

    def norm(self, parameter: str, name: str, weight: Transform) -> list[WeightMapping]:
        if (name, self.index) not in self.stack.weights:
            return []
        rules = [
            WeightMapping(f"{parameter}.weight", (self.stack.weights[name, self.index],), weight)
        ]
        if self.stack.norm_bias:
            bias = self.stack.biases.get((name, self.index))
            rules.append(self._bias(f"{parameter}.bias", () if bias is None else (bias,), Copy()))
        return rules

    def _bias(
        self, parameter: str, sources: tuple[str, ...], transform: Transform
    ) -> WeightMapping:
        """Of layers where others have biases and this one may have none."""
        if not sources:
            return WeightMapping(parameter, (), computed=_zeros)
        return WeightMapping(parameter, sources, transform)
