"""Plots of a report, as SVG that stands in a page of either color scheme.

Names of entries stand beside an axis, or in a legend by number: a label in the middle of a plot is
a number, at a place where it covers nothing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seq2edge.runtime.dependencies import needs

from .growth import Growth, growths
from .schema import Entry, Report
from .verdict import main_measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of text and axes: in a page it becomes the text's color.
_INK = "#24292f"
_OURS, _OTHERS, _WRONG, _BOUND = "#d9480f", "#4c78a8", "#b00020", "#2b8a3e"
#: Inches; a plot fills a phone's width, and two stand beside each other on a desktop.
_WIDTH, _ROW, _MARGIN = 6.4, 0.27, 1.0
#: A ratio of the largest to the smallest time beyond which the axis is logarithmic.
_WIDE = 6.0


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: for files and tests.
        title: what it shows.
        caption: how to read it.
        draw: puts it on a figure.
        height: inches.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Figure], None]
    height: float


def check_plots(user: str) -> None:
    """Fail before long work if plots cannot be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    with needs(user):
        import matplotlib.figure  # noqa: F401


def plots_of(report: Report) -> list[Plot]:
    """Those that the report has something for."""
    return list(_plots(report))


def svg(plot: Plot, *, in_page: bool) -> str:
    """The plot; equal reports give equal texts.

    ``in_page``: without a background, and in the color of the text around it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    check_plots("a plot")
    buffer = io.StringIO()
    with figure_of(plot) as figure:
        figure.savefig(buffer, format="svg", transparent=in_page, metadata={"Date": None})
    text = buffer.getvalue()
    if not in_page:
        return text
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    # A number of points would keep it from shrinking.
    text = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", text, count=1)
    text = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{_attribute(plot.title)}"', 1)


@contextmanager
def figure_of(plot: Plot) -> Iterator[Figure]:
    """The plot drawn, in the style that all have."""
    # Not pyplot: it keeps state, and looks for a display.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(inked, _INK)
    style |= {"svg.hashsalt": plot.name, "font.size": 9.0, "axes.spines.top": False}
    style |= {"axes.spines.right": False, "legend.frameon": False, "grid.alpha": 0.25}
    with rc_context(style):
        figure = Figure(figsize=(_WIDTH, plot.height), layout="constrained")
        FigureCanvasAgg(figure)  # measures the labels
        plot.draw(figure)
        yield figure


def numbered(report: Report) -> dict[str, int]:
    """Numbers of the entries, as in the table."""
    return {entry.name: number for number, entry in enumerate(report.entries, 1)}


def _plots(report: Report) -> Iterator[Plot]:
    main = main_measurement(report)
    rows = [entry for entry in report.entries if main in entry.measurements]
    tall = _MARGIN + _ROW * len(rows)
    if main is not None and rows:
        yield Plot(
            "times",
            f"Time of {'a generation' if main == 'all' else f'a {main}'}",
            "Each dot is a measured call; the bar is the median with its 95 % interval.",
            lambda figure: _times(figure, report, rows, main),
            tall,
        )
    if main is not None and len(rows) > 1:
        if all(entry.quality is not None for entry in rows):
            yield Plot(
                "quality",
                "Quality beside size and time",
                "Numbers are those of the table. A ring: nothing else is both better and smaller or"
                " faster. Vertical lines are 95 % intervals of the metric.",
                lambda figure: _quality(figure, report, rows, main),
                3.4 + 0.2 * len(rows),
            )
        elif len({entry.disk_bytes for entry in rows}) > 1:
            yield Plot(
                "size",
                "Size and time",
                "Numbers are those of the table. A ring: nothing else is both smaller and faster.",
                lambda figure: _size(figure, report, rows, main),
                3.4 + 0.2 * len(rows),
            )
    roofs = [entry for entry in report.entries if entry.details.get("roofline")]
    if roofs:
        yield Plot(
            "roofline",
            "A decoder step beside the memory's bandwidth",
            "The bar is the median step; the mark, how long reading its weights and cache takes at"
            " the highest bandwidth that was measured in the same rounds.",
            lambda figure: _roofline(figure, roofs),
            _MARGIN + 0.3 + _ROW * len(roofs),
        )
    found = growths(report)
    if found:
        yield Plot(
            "growth",
            "How time grows",
            "Median times over the length or number that grows, with the line of the fitted power.",
            lambda figure: _growth(figure, found),
            3.2 + 0.2 * len(found),
        )


def _times(figure: Figure, report: Report, rows: Sequence[Entry], main: str) -> None:
    axes = figure.subplots()
    for place, entry in enumerate(rows):
        found, color = entry.measurements[main], _color(report, entry)
        axes.plot(
            found.samples, [place] * len(found.samples), ".", color=color, alpha=0.3, markersize=5
        )
        axes.plot([found.interval.low, found.interval.high], [place] * 2, color=color, linewidth=3)
        axes.plot([found.p50], [place], "|", color=color, markersize=13, markeredgewidth=2)
    values = [sample for entry in rows for sample in entry.measurements[main].samples]
    _scale(axes, axes.xaxis, values)
    _name_rows(axes, rows)
    axes.set_xlabel("ms")


def _roofline(figure: Figure, rows: Sequence[Entry]) -> None:
    axes = figure.subplots()
    found = [entry.details["roofline"] for entry in rows]
    steps = [one["step_ms"]["p50"] for one in found]
    axes.barh(range(len(rows)), steps, height=0.55, color=_OURS, alpha=0.75, label="step")
    bounds = [one["bound_ms"] for one in found]
    axes.plot(bounds, range(len(rows)), "|", color=_BOUND, markersize=15, markeredgewidth=3)
    axes.plot([], [], "|", color=_BOUND, markersize=9, markeredgewidth=3, label="bound")
    axes.set_xlim(0, 1.25 * max(*steps, *bounds))
    for place, (one, step) in enumerate(zip(found, steps, strict=True)):
        axes.annotate(
            f"{100 * one['share']:.0f} %",
            (max(step, one["bound_ms"]), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
        )
    _name_rows(axes, rows)
    axes.set_xlabel("ms of a step; % of the bandwidth")
    figure.legend(loc="outside lower center", ncols=2)


def _quality(figure: Figure, report: Report, rows: Sequence[Entry], main: str) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    qualities = [entry.quality for entry in rows if entry.quality is not None]
    values = [quality.value for quality in qualities]
    lower = qualities[0].lower_is_better
    costs = [value if lower else -value for value in values]
    bars = [(quality.interval.low, quality.interval.high) for quality in qualities]
    sizes = [(entry.disk_bytes or 0) / 1e6 for entry in rows]
    times = [entry.measurements[main].p50 for entry in rows]
    for axes, across, title in zip(
        panels, (sizes, times), ("MB on disk", f"ms of a {main}"), strict=True
    ):
        for x, (low, high) in zip(across, bars, strict=True):
            axes.plot([x, x], [low, high], color=_OTHERS, linewidth=1, alpha=0.6)
        _points(axes, report, rows, across, values, _best(across, costs))
        _scale(axes, axes.xaxis, across)
        axes.set_xlabel(title)
    better = "lower" if lower else "higher"
    panels[0].set_ylabel(f"{qualities[0].metric}, {qualities[0].unit} ({better} is better)")
    _name_points(figure, report, rows)
    figure.draw_without_rendering()  # the layout is final when labels are placed
    for axes, across in zip(panels, (sizes, times), strict=True):
        _number_points(axes, report, rows, across, values, bars)


def _size(figure: Figure, report: Report, rows: Sequence[Entry], main: str) -> None:
    axes = figure.subplots()
    sizes = [(entry.disk_bytes or 0) / 1e6 for entry in rows]
    times = [entry.measurements[main].p50 for entry in rows]
    _points(axes, report, rows, sizes, times, _best(sizes, times))
    _scale(axes, axes.xaxis, sizes)
    _scale(axes, axes.yaxis, times)
    axes.set_xlabel("MB on disk")
    axes.set_ylabel("ms")
    _name_points(figure, report, rows)
    figure.draw_without_rendering()
    _number_points(axes, report, rows, sizes, times, [(y, y) for y in times])


def _growth(figure: Figure, found: Sequence[Growth]) -> None:
    axes = figure.subplots()
    for index, one in enumerate(found):
        color = f"C{index % 10}"
        label = f"{one.what}: {one.variable.replace('_', ' ')}^{one.exponent:.2f}"
        axes.plot(one.x, one.y, "o", color=color, markersize=5, label=label)
        ends = np.array([min(one.x), max(one.x)], np.float64)
        axes.plot(ends, one.factor * ends**one.exponent, color=color, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({x for one in found for x in one.x})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylabel("ms")
    axes.set_xlabel(", ".join(dict.fromkeys(one.variable.replace("_", " ") for one in found)))
    axes.grid(visible=True)
    figure.legend(loc="outside lower center", ncols=1, fontsize=8)


def _points(
    axes: Axes,
    report: Report,
    rows: Sequence[Entry],
    across: Sequence[float],
    up: Sequence[float],
    best: Sequence[bool],
) -> None:
    for entry, x, y, is_best in zip(rows, across, up, best, strict=True):
        color = _color(report, entry)
        axes.plot([x], [y], "o", color=color, markersize=5)
        if is_best:
            axes.plot([x], [y], "o", color=color, markersize=11, fillstyle="none")
    axes.grid(visible=True)


def _number_points(
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
            color=_color(report, entry),
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


def _name_points(figure: Figure, report: Report, rows: Sequence[Entry]) -> None:
    """A legend of the numbers, below."""
    from matplotlib.lines import Line2D

    numbers = numbered(report)
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=5, color=_color(report, entry))
        for entry in rows
    ]
    names = [f"{numbers[entry.name]}  {_short(entry.name)}" for entry in rows]
    columns = 2 if max(map(len, names)) < 40 else 1
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8)


def _name_rows(axes: Axes, rows: Sequence[Entry]) -> None:
    axes.set_yticks(range(len(rows)), [_short(entry.name) for entry in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=True, axis="x")


def _scale(axes: Axes, axis: Any, values: Sequence[float]) -> None:
    """From zero, or logarithmic where values lie far apart; with room for numbers at the ends."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = min(values), max(values)
    across = axis is axes.xaxis
    limit = axes.set_xlim if across else axes.set_ylim
    if low <= 0 or high / low <= _WIDE:
        limit(0, 1.12 * high)
        return
    (axes.set_xscale if across else axes.set_yscale)("log")
    room = (high / low) ** 0.08
    limit(low / room, high * room)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _best(across: Sequence[float], costs: Sequence[float]) -> list[bool]:
    """Those that no other one beats in both (the Pareto front)."""
    pairs = list(zip(across, costs, strict=True))
    return [not any(x <= a and c <= b and (x, c) != (a, b) for x, c in pairs) for a, b in pairs]


def _color(report: Report, entry: Entry) -> str:
    if entry.name in report.wrong:
        return _WRONG
    return _OURS if entry.library == "seq2edge" else _OTHERS


def _short(name: str) -> str:
    return name if len(name) <= 44 else f"{name[:20]}…{name[-22:]}"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")
