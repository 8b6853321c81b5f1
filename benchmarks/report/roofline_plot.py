"""The roofline: operations by byte, and operations by second, beside what the machine can do.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for
multicore architectures", Communications of the ACM 52 (4), 2009.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .marks import Label, color, label_points, name_points, numbered
from .schema import Entry, Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GIGA = 1e9
_STEP, _ENCODER = "o", "s"
#: Bandwidths nearer to each other than this are one line.
_NEAR = 1.15


@dataclass(frozen=True)
class Dot:
    """A graph of a bundle.

    Attributes:
        entry: whose.
        mark: matplotlib's, by graph.
        intensity: operations per byte.
        rate: operations per second.
    """

    entry: Entry
    mark: str
    intensity: float
    rate: float


def roofline_points(report: Report) -> list[Dot]:
    """Those of the report whose operations were counted."""
    return list(_points(report))


def roofs(report: Report) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes per second by what is read, and operations per second by precision."""
    found = [entry.details["roofline"] for entry in report.entries if _counted(entry)]
    memory = max(one["memory_bandwidth"] for one in found)
    small = max(one["same_size_bandwidth"] for one in found)
    bandwidths = {"memory": memory}
    if small > _NEAR * memory:
        bandwidths["a buffer as large as the weights"] = small
    used = {name for one in found for name in _precisions(one)}
    rates = {
        name: max(one["gemm"].get(name, 0.0) for one in found)
        for name in ("float32", "float16", "int8")
        if name in used
    }
    return bandwidths, {name: rate for name, rate in rates.items() if rate}


def draw_roofline(figure: Figure, report: Report, dots: list[Dot]) -> None:
    """Draw it; each dot's label is its entry's number in the table."""
    axes = figure.subplots()
    bandwidths, rates = roofs(report)
    ridges = [rate / bandwidth for rate in rates.values() for bandwidth in bandwidths.values()]
    spread = [*ridges, *(dot.intensity for dot in dots)]
    left, right = min(spread) / 3, 3 * max(spread)
    highest = max(rates.values(), default=max(dot.rate for dot in dots))
    for index, (name, bandwidth) in enumerate(bandwidths.items()):
        x = np.array([left, min(highest / bandwidth, right)])
        label = f"{bandwidth / _GIGA:.3g} GB/s, {name}"
        style = ("-", "--")[index]
        axes.plot(x, x * bandwidth / _GIGA, style, color="#2b8a3e", linewidth=1.5, label=label)
    steepest = max(bandwidths.values())
    for name, rate in rates.items():
        x = np.array([rate / steepest, right])
        unit = "GOP/s" if name == "int8" else "GFLOP/s"
        label = f"{rate / _GIGA:.3g} {unit}, {name}"
        style, ink = _LEVELS[name]
        axes.plot(x, [rate / _GIGA] * 2, style, color=ink, linewidth=1.5, label=label)
    for dot in dots:
        axes.plot(
            [dot.intensity],
            [dot.rate / _GIGA],
            dot.mark,
            color=color(report, dot.entry),
            markersize=6,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(min(dot.rate for dot in dots) / _GIGA / 3, 3 * highest / _GIGA)
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("10⁹ operations per second")
    axes.grid(visible=True)
    for mark, label in ((_STEP, "decoder step"), (_ENCODER, "encoder")):
        if any(dot.mark == mark for dot in dots):
            axes.plot([], [], mark, color="#868e96", label=label)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=8)
    name_points(figure, report, list({dot.entry.name: dot.entry for dot in dots}.values()))
    figure.draw_without_rendering()  # the layout is final when labels are placed
    numbers = numbered(report)
    label_points(
        axes,
        [
            Label(
                str(numbers[dot.entry.name]),
                f"{numbers[dot.entry.name]}{'e' if dot.mark == _ENCODER else ''}",
                color(report, dot.entry),
                dot.intensity,
                dot.rate / _GIGA,
            )
            for dot in dots
        ],
    )


_LEVELS = {"float32": ("-", "#1971c2"), "float16": ("-.", "#1971c2"), "int8": ("--", "#1971c2")}


def _points(report: Report) -> Iterator[Dot]:
    for entry in report.entries:
        if not _counted(entry):
            continue
        found = entry.details["roofline"]
        operations = sum(found["operations"].values())
        moved = found["weight_bytes"] + found["cache_bytes"]
        step_ms = found["step_ms"]["p50"]
        yield Dot(entry, _STEP, operations / moved, 1e3 * operations / step_ms)
        encoder = found.get("encoder")
        if encoder and encoder["operations"]:
            operations = sum(encoder["operations"].values())
            rate = 1e3 * operations / encoder["ms"]["p50"]
            yield Dot(entry, _ENCODER, operations / encoder["bytes"], rate)


def _counted(entry: Entry) -> bool:
    return bool(entry.details.get("roofline", {}).get("operations"))


def _precisions(found: dict[str, Any]) -> set[str]:
    encoder = found.get("encoder") or {"operations": {}}
    return {*found["operations"], *encoder["operations"]}
