"""Time of a token by its position: a later one sees a longer cache."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .marks import short
from .schema import Entry
from .statistics import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Before the position, in the names under which a process tells times.
NAME = "token at "


def at_positions(stamps: Sequence[float], count: int) -> dict[str, float]:
    """Milliseconds of single tokens, by :data:`NAME` and position.

    Positions are 2, 4, 8 ... and the last but one: the last one's time has what ends a call in it.

    Args:
        stamps: seconds: of each step's start or end, and of the end of the last one.
        count: tokens that were made. Steps are counted from the last one backwards, as engines
            differ in whether the first one is told of.

    Returns:
        Empty where the stamps are not one a step.
    """
    steps = np.diff(np.asarray(stamps, np.float64))
    if len(steps) not in (count - 1, count):
        return {}
    last = count - 1
    wanted = sorted({*(2**power for power in range(1, count.bit_length())), last})
    return {
        f"{NAME}{place}": 1e3 * float(steps[place - 1 - count])
        for place in wanted
        if 2 <= place <= last
    }


def positions_of(milliseconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """What a report's ``details`` say: ``position`` and its ``ms``, in ascending order."""
    return [
        {"position": int(name.removeprefix(NAME)), "ms": asdict(Measurement.of(samples))}
        for name, samples in milliseconds.items()
        if name.startswith(NAME)
    ]


@dataclass(frozen=True)
class Slope:
    """A line through the medians: milliseconds at position 0, and microseconds a position."""

    ms: float
    us_per_position: float


def slope_of(positions: Sequence[Mapping[str, Any]]) -> Slope | None:
    """The median of the slopes of all pairs (Sen 1968): the first steps of a call are often slow.

    None: fewer than three positions.
    """
    if len(positions) < 3:
        return None
    points = [(one["position"], one["ms"]["p50"]) for one in positions]
    pairs = itertools.combinations(points, 2)
    slope = float(np.median([(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs]))
    return Slope(float(np.median([y - slope * x for x, y in points])), 1e3 * slope)


def draw_positions(figure: Figure, rows: Sequence[Entry]) -> None:
    """Medians with their intervals, a line an entry."""
    axes = figure.subplots()
    ticks: set[int] = set()
    for index, entry in enumerate(rows):
        found = entry.details["positions"]
        x = [one["position"] for one in found]
        ticks |= set(x)
        ink = f"C{index % 10}"
        label = short(entry.name)
        slope = slope_of(found)
        if slope is not None:
            label += f": {slope.us_per_position:+.3g} µs a position"
        axes.plot(
            x,
            [one["ms"]["p50"] for one in found],
            "o-",
            color=ink,
            markersize=4,
            linewidth=1,
            label=label,
        )
        for one in found:
            ends = one["ms"]["interval"]
            axes.plot([one["position"]] * 2, [ends["low"], ends["high"]], color=ink, alpha=0.5)
    axes.set_xscale("log", base=2)
    # Not the last position as well: its number may stand on that of a power of two.
    powers = [tick for tick in sorted(ticks) if tick & (tick - 1) == 0]
    axes.set_xticks(powers, [str(tick) for tick in powers])
    axes.minorticks_off()
    # An interval may reach far beyond all medians.
    most = max(one["ms"]["p50"] for entry in rows for one in entry.details["positions"])
    axes.set_ylim(0, 1.3 * most)
    axes.set_xlabel("position of the token")
    axes.set_ylabel("ms")
    axes.grid(visible=True)
    figure.legend(loc="outside lower center", ncols=1, fontsize=8)
