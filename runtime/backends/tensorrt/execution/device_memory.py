"""Device memory that engines need, counted before any of it is allocated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

from ....bundle.manifest import GraphInfo, Manifest
from ....errors import BackendError
from ...limits import Limits
from ...sizes import largest_sizes
from ..engine_store import EngineSet
from .tensors import BlockLayout

#: What CUDA and TensorRT take for themselves is not in the plan: a margin for it.
_MARGIN = 64 << 20

#: Slots are suggested in steps of so many.
_STEP = 16


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of device memory for one call as large as the limits allow.

    Attributes:
        weights: of the engines, as they are in their files.
        activations: between layers; the engines take turns with it.
        cache: keys and values of the decoder's self-attention.
        source: keys and values of the source.
        step: what a step reads and writes besides, its logits above all.
    """

    weights: int
    activations: int
    cache: int
    source: int
    step: int

    @property
    def total(self) -> int:
        return sum(astuple(self))

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "activations": self.activations,
            "cache": self.cache,
            "source": self.source,
            "step": self.step,
        }
        return (
            f"{_megabytes(self.total)} ("
            + ", ".join(f"{name} {_megabytes(size)}" for name, size in parts.items())
            + ")"
        )


def plan_memory(manifest: Manifest, engines: EngineSet, limits: Limits | None = None) -> MemoryPlan:
    """Device memory that one call needs at most; an estimate for ``limits`` of other engines."""
    own = engines.key.limits
    limits = limits or own
    decoder = manifest.graphs["decoder"]
    # Times of words are for those who ask: their engine is opened then.
    reports = [e.report for name, e in engines.engines.items() if name != "alignment"]
    cache = _size(decoder, limits, "past_")
    if not in_place(engines):
        cache *= 2
    return MemoryPlan(
        weights=sum(report.weight_bytes or report.plan_bytes for report in reports),
        activations=max(report.activation_bytes or 0 for report in reports),
        cache=cache,
        source=_size(decoder, limits, "cross_"),
        step=_size(decoder, limits, ""),
    )


def check_memory(manifest: Manifest, engines: EngineSet, free: int) -> None:
    """Refuse engines whose largest call does not fit into ``free`` bytes.

    Raises:
        BackendError: what is needed, what there is and which smaller engines would fit.
    """
    plan = plan_memory(manifest, engines)
    if plan.total + _MARGIN <= free:
        return
    raise BackendError(
        f"a call of these engines needs up to {plan} of device memory besides"
        f" {_megabytes(_MARGIN)} for CUDA, and {_megabytes(free)} are free; "
        + _what_fits(manifest, engines, free)
    )


def in_place(engines: EngineSet) -> bool:
    """Whether the decoder updates its cache in place; else it writes a second one."""
    return engines.engines["decoder"].report.cache_updates > 0


def _what_fits(manifest: Manifest, engines: EngineSet, free: int) -> str:
    limits = engines.key.limits

    def fits(smaller: Limits) -> bool:
        return plan_memory(manifest, engines, smaller).total + _MARGIN <= free

    fewer = (
        ("--max-batch", limits.max_batch, 1, lambda n: replace(limits, max_batch=n)),
        (
            "--max-target-length",
            limits.max_target_length,
            _STEP,
            lambda n: replace(limits, max_target_length=n),
        ),
        (
            "--max-num-tokens (fewer beams)",
            limits.max_num_tokens,
            1,
            lambda n: replace(limits, max_num_tokens=n),
        ),
    )
    for option, most, step, smaller in fewer:
        largest = _largest(most, step, smaller, fits)
        if largest is not None:
            return f"engines built with {option} {largest} would fit"
    return (
        "quantize the bundle to fewer bits, free memory, or build for a smaller batch, fewer"
        " slots and shorter sources"
    )


def _largest(
    most: int, step: int, smaller: Callable[[int], Limits], fits: Callable[[Limits], bool]
) -> int | None:
    for value in range((most - 1) // step * step, 0, -step):
        if fits(smaller(value)):
            return value
    return None


def _size(info: GraphInfo, limits: Limits, prefix: str) -> int:
    """Bytes of inputs of that prefix; with none, of all others and the outputs."""
    large = ("past_", "cross_", "present_")
    specs = [
        spec
        for spec in (*info.inputs, *info.outputs)
        if (spec.name.startswith(prefix) if prefix else not spec.name.startswith(large))
    ]
    return BlockLayout.of(specs, largest_sizes(limits)).size


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.{0 if size >= 1e7 else 1}f} MB"
