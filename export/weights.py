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

from .checkpoint import Checkpoint, FloatArray
from .errors import CheckpointError
from .mismatch import CONFIG, Mismatch
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
    """Match rules, graph parameters and checkpoint tensors; every tensor must be used.

    Args:
        rules: the family's name map.
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
    for rule in weight_map:
        sources = _resolve(rule, checkpoint)
        used.update(sources, rule.tied)
        if rule.computed is not None and checkpoint.names.isdisjoint(sources):
            shape = parameters[rule.parameter]
            bound[rule.parameter] = BoundWeight(
                rule.parameter, shape, partial(rule.computed, shape)
            )
            continue
        missing = [name for name in sources if name not in checkpoint.names]
        if missing:
            problems.missing += missing
            continue
        shape = parameters[rule.parameter]
        wrong = _shape_problems(rule, sources, shape, checkpoint)
        problems.shapes += wrong
        if not wrong:
            problems.ties += _tie_problems(rule, sources[0], checkpoint)
        bound[rule.parameter] = BoundWeight(
            rule.parameter, shape, _loader(rule.transform, sources, checkpoint)
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
        raise AssertionError(f"the family has no rule for {unfilled}")
    return bound


def _resolve(rule: WeightMapping, checkpoint: Checkpoint) -> tuple[str, ...]:
    if rule.tied and rule.sources[0] not in checkpoint.names:
        return next(((name,) for name in rule.tied if name in checkpoint.names), rule.sources)
    return rule.sources


def _shape_problems(
    rule: WeightMapping, sources: tuple[str, ...], shape: Shape, checkpoint: Checkpoint
) -> list[str]:
    expected = rule.transform.source_shapes(shape, len(sources))
    return [
        f"tensor {name} has shape {list(checkpoint.shape(name))}, expected {list(wanted)}"
        for name, wanted in zip(sources, expected, strict=True)
        if checkpoint.shape(name) != wanted
    ]


def _tie_problems(rule: WeightMapping, source: str, checkpoint: Checkpoint) -> list[str]:
    return [
        f"tensor {name} differs from {source}, which it should be tied to"
        for name in rule.tied
        if name in checkpoint.names and name != source and not checkpoint.equal(name, source)
    ]


def _loader(
    transform: Transform, sources: tuple[str, ...], checkpoint: Checkpoint
) -> Callable[[], FloatArray]:
    return lambda: transform.apply([checkpoint.load(name) for name in sources])
