"""Points of a plot, and numbers beside them that stand for names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .schema import Entry, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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


@dataclass(frozen=True)
class Label:
    """A text for a point of a plot: ``name`` is unlike those of the others in it."""

    text: str
    name: str
    ink: str
    x: float
    y: float


def label_points(axes: Axes, labels: Sequence[Label]) -> None:
    """Put each label where it covers least: no line, point or other label, if it can.

    Call it when all is drawn and laid out.
    """
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    taken = np.concatenate([np.zeros((0, 4)), *(_boxes(axes, line) for line in axes.lines)])
    inner = axes.bbox
    for one in labels:
        label = axes.annotate(
            one.text,
            (one.x, one.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            color=one.ink,
            gid=f"number-{one.name}",
        )
        label.set_in_layout(False)  # a label is no reason to lay the panels out anew

        label.set_position((0, 0))
        extent = label.get_window_extent(renderer).padded(1)
        pixels = axes.figure.dpi / 72
        boxes = np.array(extent.extents) + pixels * np.tile(_PLACES, 2)
        inside = np.all((boxes[:, :2] > inner.min) & (boxes[:, 2:] < inner.max), axis=1)
        apart = (boxes[:, None, :2] > taken[:, 2:]) | (boxes[:, None, 2:] < taken[:, :2])
        covered = np.count_nonzero(~np.any(apart, axis=2), axis=1)
        best = int(np.argmin(100 * ~inside + 10 * covered + _FAR))
        label.set_position(tuple(_PLACES[best]))
        taken = np.concatenate([taken, boxes[best : best + 1]])


def number_labels(
    report: Report, rows: Sequence[Entry], across: Sequence[float], up: Sequence[float]
) -> list[Label]:
    """The entries' numbers."""
    numbers = numbered(report)
    return [
        Label(str(numbers[entry.name]), str(numbers[entry.name]), color(report, entry), x, y)
        for entry, x, y in zip(rows, across, up, strict=True)
    ]


def _boxes(axes: Axes, line: Line2D) -> NDArray[np.float64]:
    """What a line or a point takes: [boxes, 4] in pixels, left, low, right, high."""
    ends = axes.transData.transform(np.asarray(line.get_xydata(), np.float64).reshape(-1, 2))
    if len(ends) == 1:
        return np.concatenate([ends - 6, ends + 6], axis=1)
    paths = [
        np.linspace(start, end, 2 + int(np.hypot(*(end - start)) // 4))
        for start, end in itertools.pairwise(ends)
    ]
    places = np.concatenate([np.zeros((0, 2)), *paths])
    return np.concatenate([places - 1, places + 1], axis=1)


#: Places for a label beside its point, in points, [places, 2]; and what distance costs.
_PLACES = np.array(
    [
        (radius * np.cos(angle), radius * np.sin(angle))
        for radius in (10, 14, 19, 25, 32, 40, 50, 62)
        for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ]
)
_FAR = 0.05 * np.hypot(*_PLACES.T)


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
