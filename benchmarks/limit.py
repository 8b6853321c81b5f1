"""How long work takes at least: what it moves by the bandwidth, what it computes by the rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_MS = 1e3


@dataclass(frozen=True)
class Bound:
    """The least time of one run of a graph, in milliseconds.

    Attributes:
        memory_ms: of moving its bytes.
        compute_ms: of its operations, one precision after the other; None: nobody counted them,
            or there is no rate for one of them.
    """

    memory_ms: float
    compute_ms: float | None

    @classmethod
    def of(
        cls,
        moved: float,
        bandwidth: float,
        operations: Mapping[str, float],
        rates: Mapping[str, float],
    ) -> Bound:
        """Of bytes, bytes per second, operations and operations per second by precision."""
        known = bool(operations) and all(rates.get(name) for name in operations)
        seconds = sum(count / rates[name] for name, count in operations.items()) if known else None
        return cls(_MS * moved / bandwidth, None if seconds is None else _MS * seconds)

    @property
    def ms(self) -> float:
        """The higher one: a machine may do both at once, and can do neither faster."""
        return max(self.memory_ms, self.compute_ms or 0.0)

    @property
    def bound_by(self) -> str:
        """``memory`` or ``compute``."""
        return "memory" if self.ms == self.memory_ms else "compute"
