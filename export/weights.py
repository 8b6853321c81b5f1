"""Name maps: which checkpoint tensors fill which parameter, and how.

A family gives one :class:`Rule` for each parameter of the graphs. :func:`bind` checks all of
them at once (missing, unused, wrongly shaped, wrongly tied) before anything is written;
tensors are then loaded one at a time, when they are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .checkpoint import Checkpoint, FloatArray
from .errors import CheckpointError
from .mismatch import CONFIG, Mismatch
from .spec import ModelSpec, StackSpec
from .transforms import Copy, Shape, Transform, Transpose


@dataclass(frozen=True)
class WeightMapping:
    """``parameter`` is filled by ``transform`` from ``sources``.

    ``tied`` are other names under which checkpoints save the same tensor; they may be absent
    and must be equal where they are there. The first of sources and tied names that exists is
    read. ``computed`` makes the parameter of its shape where no source is there (sinusoids,
    which few checkpoints store).
    """

    parameter: str
    sources: tuple[str, ...]
    transform: Transform = field(default_factory=Copy)
    tied: tuple[str, ...] = ()
    computed: Callable[[Shape], FloatArray] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class BoundWeight:
    """A parameter that can be loaded."""

    name: str
    shape: Shape
    load: Callable[[], FloatArray]


def linear(parameter: str, *sources: str, bias: bool = False) -> list[WeightMapping]:
    """Rules of a linear layer made of one or several of the checkpoint's, side by side."""
    weight_map = [
        WeightMapping(f"{parameter}.weight", tuple(f"{s}.weight" for s in sources), Transpose())
    ]
    if bias:
        weight_map.append(WeightMapping(f"{parameter}.bias", tuple(f"{s}.bias" for s in sources)))
    return weight_map


def norm(parameter: str, source: str, bias: bool = False) -> list[WeightMapping]:
    """Rules of a norm's scale and, where it has one, its bias."""
    kinds = ("weight", "bias") if bias else ("weight",)
    return [WeightMapping(f"{parameter}.{kind}", (f"{source}.{kind}",)) for kind in kinds]


def bind(
    weight_map: Iterable[WeightMapping],
    parameters: Mapping[str, Shape],
    checkpoint: Checkpoint,
    ignored: Iterable[str] = (),
    described_by: str = CONFIG,
    known: Iterable[str] = (),
) -> dict[str, BoundWeight]:
    """Match name map, graph parameters and checkpoint tensors; every tensor must be used.

    Args:
        weight_map: the family's name map.
        parameters: shapes of the graphs' parameters, by name.
        checkpoint: the opened checkpoint.
        ignored: regular expressions of tensors that the architecture never reads.
        described_by: what says which tensors there should be, for messages.
        known: what does not fit already, as messages; told with the rest.

    Raises:
        CheckpointError: naming the missing, unused, wrongly shaped and wrongly tied tensors, the
            first few where there are many, and the cause where it shows.
    """
    problems = Mismatch(described_by, list(known))
    bound: dict[str, BoundWeight] = {}
    used: set[str] = set()
    for mapping in weight_map:
        sources = _resolve(mapping, checkpoint)
        used.update(sources, mapping.tied)
        if mapping.computed is not None and checkpoint.names.isdisjoint(sources):
            shape = parameters[mapping.parameter]
            bound[mapping.parameter] = BoundWeight(
                mapping.parameter, shape, partial(mapping.computed, shape)
            )
            continue
        missing = [name for name in sources if name not in checkpoint.names]
        if missing:
            problems.missing += missing
            continue
        shape = parameters[mapping.parameter]
        wrong = _shape_problems(mapping, sources, shape, checkpoint)
        problems.shapes += wrong
        if not wrong:
            problems.ties += _tie_problems(mapping, sources[0], checkpoint)
        bound[mapping.parameter] = BoundWeight(
            mapping.parameter, shape, _loader(mapping.transform, sources, checkpoint)
        )
    patterns = [re.compile(pattern) for pattern in ignored]
    problems.unused += sorted(
        name
        for name in checkpoint.names - used
        if not any(pattern.fullmatch(name) for pattern in patterns)
    )
    if problems:
        raise CheckpointError(
            f"{checkpoint.directory} does not fit {described_by}: {problems.describe(len(bound))}"
        )
    unfilled = sorted(set(parameters) - set(bound))
    if unfilled:
        raise AssertionError(f"the family has no mapping for {unfilled}")
    return bound


def fold_attention_scale(
    weights: Mapping[str, BoundWeight], spec: ModelSpec
) -> dict[str, BoundWeight]:
    """``weights`` with each stack's attention scale in those that make queries.

    The graphs multiply scores by nothing, which kernels have a faster path for (MLAS takes its
    matrix-vector product only where the factor is 1). Exact where the scale is a power of two,
    as for heads of 64; else one rounding per weight.
    """
    folded = dict(weights)
    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        if stack is None or stack.attention_scale == 1.0:
            continue
        for index in range(stack.layers):
            for layer in ("self_attention.qkv", "cross_attention.query"):
                for kind in ("weight", "bias"):
                    name = f"{side}.layers.{index}.{layer}.{kind}"
                    if name in folded:
                        folded[name] = _with_scaled_query(folded[name], stack)
    return folded


def _with_scaled_query(weight: BoundWeight, stack: StackSpec) -> BoundWeight:
    """``weight`` [..., outputs], whose first outputs are the query's."""

    def load() -> FloatArray:
        array = np.array(weight.load())
        array[..., : stack.inner_dim] *= np.float32(stack.attention_scale)
        return array

    return BoundWeight(weight.name, weight.shape, load)


def _resolve(mapping: WeightMapping, checkpoint: Checkpoint) -> tuple[str, ...]:
    if mapping.tied and mapping.sources[0] not in checkpoint.names:
        return next(((name,) for name in mapping.tied if name in checkpoint.names), mapping.sources)
    return mapping.sources


def _shape_problems(
    mapping: WeightMapping, sources: tuple[str, ...], shape: Shape, checkpoint: Checkpoint
) -> list[str]:
    shapes = mapping.transform.source_shapes(shape, len(sources))
    return [
        f"tensor {name} has shape {list(checkpoint.shape(name))}, expected {list(expected)}"
        for name, expected in zip(sources, shapes, strict=True)
        if checkpoint.shape(name) != expected
    ]


def _tie_problems(mapping: WeightMapping, source: str, checkpoint: Checkpoint) -> list[str]:
    return [
        f"tensor {name} differs from {source}, which it should be tied to"
        for name in mapping.tied
        if name in checkpoint.names and name != source and not checkpoint.equal(name, source)
    ]


def _loader(
    transform: Transform, sources: tuple[str, ...], checkpoint: Checkpoint
) -> Callable[[], FloatArray]:
    return lambda: transform.apply([checkpoint.load(name) for name in sources])
