"""Points of a plot, and numbers beside them that stand for names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .schema import Entry, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, OTHERS, _WRONG = "#d9480f", "#4c78a8", "#b00020"


def numbered(report: Report) -> dict[str, int]:
    """Numbers of the entries, as in the table."""
    return {entry.name: number for number, entry in enumerate(report.entries, 1)}


def points(
    axes: Axes,
    report: Report,
    rows: Sequence[Entry],
    across: Sequence[float],
    up: Sequence[float],
    best: Sequence[bool],
) -> None:
    for entry, x, y, is_best in zip(rows, across, up, best, strict=True):
        ink = color(report, entry)
        axes.plot([x], [y], "o", color=ink, markersize=5)
        if is_best:
            axes.plot([x], [y], "o", color=ink, markersize=11, fillstyle="none")
    axes.grid(visible=True)


def number_points(
    axes: Axes,
    report: Report,
    rows: Sequence[Entry],
    across: Sequence[float],
    up: Sequence[float],
    bars: Sequence[tuple[float, float]],
) -> None:
    """Put each one's number where it covers least: no point, bar or other number, if it can."""
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    taken: list[Bbox] = []
    for x, y, (low, high) in zip(across, up, bars, strict=True):
        middle, *ends = axes.transData.transform([(x, y), (x, low), (x, high)])
        taken.append(Bbox.from_extents(*(middle - 6), *(middle + 6)))
        taken.append(Bbox.from_extents(ends[0][0] - 1, ends[0][1], ends[1][0] + 1, ends[1][1]))
    numbers = numbered(report)
    for entry, x, y in zip(rows, across, up, strict=True):
        label = axes.annotate(
            str(numbers[entry.name]),
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            color=color(report, entry),
            gid=f"number-{numbers[entry.name]}",
        )
        label.set_in_layout(False)  # a label is no reason to lay the panels out anew

        def cost(place: tuple[float, float], label: Any = label) -> float:
            label.set_position(place)
            box = label.get_window_extent(renderer).padded(1)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            return 100 * float(not inside) + 10 * float(box.count_overlaps(taken)) + _far(place)

        label.set_position(min(_PLACES, key=cost))
        taken.append(label.get_window_extent(renderer))


def _far(place: tuple[float, float]) -> float:
    return 0.05 * float(np.hypot(*place))


#: Places for a number beside its point, in points.
_PLACES = [
    (float(radius * np.cos(angle)), float(radius * np.sin(angle)))
    for radius in (10, 14, 19, 25, 32, 40, 50, 62)
    for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)
]


def name_points(figure: Figure, report: Report, rows: Sequence[Entry]) -> None:
    """A legend of the numbers, below."""
    from matplotlib.lines import Line2D

    numbers = numbered(report)
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=5, color=color(report, entry))
        for entry in rows
    ]
    names = [f"{numbers[entry.name]}  {short(entry.name)}" for entry in rows]
    columns = 2 if max(map(len, names)) < 40 else 1
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8)


def color(report: Report, entry: Entry) -> str:
    if entry.name in report.wrong:
        return _WRONG
    return OURS if entry.library == "seq2edge" else OTHERS


def short(name: str) -> str:
    return name if len(name) <= 44 else f"{name[:20]}…{name[-22:]}"
