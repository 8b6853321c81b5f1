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
from .marks import (
    OTHERS,
    OURS,
    color,
    label_points,
    name_points,
    number_labels,
    points,
    short,
)
from .positions import draw_positions
from .roofline_plot import draw_roofline, roofline_points
from .schema import Entry, Report
from .verdict import main_measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of text and axes: in a page it becomes the text's color.
_INK = "#24292f"
_BOUND = "#2b8a3e"
#: Inches; a plot fills a phone's width, and two stand beside each other on a desktop.
_WIDTH, _ROW, _MARGIN = 6.4, 0.27, 1.0
#: A ratio of the largest to the smallest time beyond which the axis is logarithmic.
_WIDE = 6.0
#: Kinds of operators that are shown.
_KINDS = 8


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
            "bounds",
            "A decoder step, and the least that it can take",
            "The bar is the median step; the mark, how long its bytes take at the bandwidth, or its"
            " operations at the rate, that were measured in the same rounds: the longer of both.",
            lambda figure: _bounds(figure, roofs),
            _MARGIN + 0.3 + _ROW * len(roofs),
        )
    dots = roofline_points(report)
    if dots:
        yield Plot(
            "roofline",
            "Roofline",
            "A dot is a decoder step, a square an encoder, with the numbers of the table: how much"
            " it computes with each byte, and how fast. Sloped lines are bandwidths, level ones"
            " rates of products of matrices: medians of the same rounds.",
            lambda figure: draw_roofline(figure, report, dots),
            5.0 + 0.2 * len(roofs),
        )
    followed = [entry for entry in report.entries if len(entry.details.get("positions", ())) > 2]
    if followed:
        yield Plot(
            "positions",
            "Time of a token by its position",
            "Medians with 95 % intervals of single tokens; the cache that a step sees grows.",
            lambda figure: draw_positions(figure, followed),
            3.2 + 0.2 * len(followed),
        )
    profiled = [entry for entry in report.entries if entry.details.get("profile")]
    if profiled:
        yield Plot(
            "profile",
            "Where the time of a generation goes",
            "Time in nodes, by graph and kind of operator; the eight that take most.",
            lambda figure: _profile(figure, profiled),
            _MARGIN + 0.3 + 0.12 * _KINDS * (1 + len(profiled)),
        )
    found = growths(report)
    for unit, name, what in (("ms", "growth", "time"), ("MB", "memory-growth", "peak memory")):
        of_unit = [one for one in found if one.unit == unit]
        if of_unit:
            yield Plot(
                name,
                f"How {what} grows",
                f"{_MEDIAN[unit]} over the length or number that grows, with the line of the"
                " fitted power.",
                lambda figure, of_unit=of_unit: _growth(figure, of_unit),  # type: ignore[misc]
                3.2 * _panels(of_unit) + 0.2 * len(of_unit),
            )


_MEDIAN = {"ms": "Median times", "MB": "Memory of the whole process, its libraries included,"}


def _panels(found: Sequence[Growth]) -> int:
    return len({one.variable for one in found})


def _times(figure: Figure, report: Report, rows: Sequence[Entry], main: str) -> None:
    axes = figure.subplots()
    for place, entry in enumerate(rows):
        found, ink = entry.measurements[main], color(report, entry)
        axes.plot(
            found.samples, [place] * len(found.samples), ".", color=ink, alpha=0.3, markersize=5
        )
        axes.plot([found.interval.low, found.interval.high], [place] * 2, color=ink, linewidth=3)
        axes.plot([found.p50], [place], "|", color=ink, markersize=13, markeredgewidth=2)
    values = [sample for entry in rows for sample in entry.measurements[main].samples]
    _scale(axes, axes.xaxis, values)
    _name_rows(axes, rows)
    axes.set_xlabel("ms")


def _bounds(figure: Figure, rows: Sequence[Entry]) -> None:
    axes = figure.subplots()
    found = [entry.details["roofline"] for entry in rows]
    steps = [one["step_ms"]["p50"] for one in found]
    axes.barh(range(len(rows)), steps, height=0.55, color=OURS, alpha=0.75, label="step")
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
    axes.set_xlabel("ms of a step; % of what is possible")
    figure.legend(loc="outside lower center", ncols=2)


def _profile(figure: Figure, rows: Sequence[Entry]) -> None:
    axes = figure.subplots()
    times = [
        {
            f"{graph['graph']}: {share['name']}": share["ms"]
            for graph in entry.details["profile"]
            for share in graph["kinds"]
        }
        for entry in rows
    ]
    largest = {name: max(one.get(name, 0.0) for one in times) for one in times for name in one}
    names = sorted(largest, key=lambda name: -largest[name])[:_KINDS]
    height = 0.8 / len(rows)
    for index, (entry, one) in enumerate(zip(rows, times, strict=True)):
        places = [place - 0.4 + height * (index + 0.5) for place in range(len(names))]
        values = [one.get(name, 0.0) for name in names]
        axes.barh(places, values, height=0.9 * height, label=short(entry.name))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("ms")
    figure.legend(loc="outside lower center", ncols=1 if len(rows) > 2 else len(rows), fontsize=8)


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
            axes.plot([x, x], [low, high], color=OTHERS, linewidth=1, alpha=0.6)
        points(axes, report, rows, across, values, _best(across, costs))
        _scale(axes, axes.xaxis, across)
        axes.set_xlabel(title)
    better = "lower" if lower else "higher"
    panels[0].set_ylabel(f"{qualities[0].metric}, {qualities[0].unit} ({better} is better)")
    name_points(figure, report, rows)
    figure.draw_without_rendering()  # the layout is final when labels are placed
    for axes, across in zip(panels, (sizes, times), strict=True):
        label_points(axes, number_labels(report, rows, across, values))


def _size(figure: Figure, report: Report, rows: Sequence[Entry], main: str) -> None:
    axes = figure.subplots()
    sizes = [(entry.disk_bytes or 0) / 1e6 for entry in rows]
    times = [entry.measurements[main].p50 for entry in rows]
    points(axes, report, rows, sizes, times, _best(sizes, times))
    _scale(axes, axes.xaxis, sizes)
    _scale(axes, axes.yaxis, times)
    axes.set_xlabel("MB on disk")
    axes.set_ylabel("ms")
    name_points(figure, report, rows)
    figure.draw_without_rendering()
    label_points(axes, number_labels(report, rows, sizes, times))


def _growth(figure: Figure, found: Sequence[Growth]) -> None:
    variables = list(dict.fromkeys(one.variable for one in found))
    panels = figure.subplots(len(variables), squeeze=False)[:, 0]
    for index, one in enumerate(found):
        axes = panels[variables.index(one.variable)]
        ink, name = f"C{index % 10}", one.variable.replace("_", " ")
        label = f"{one.what}: {name}^{one.power}"
        axes.plot(one.x, one.y, "o", color=ink, markersize=5, label=label)
        curve = np.geomspace(min(one.x), max(one.x), 50)
        axes.plot(curve, one.factor * curve**one.exponent, color=ink, linewidth=1)
    for axes, variable in zip(panels, variables, strict=True):
        axes.set_xscale("log", base=2)
        _scale(axes, axes.yaxis, [y for one in found if one.variable == variable for y in one.y])
        ticks = sorted({x for one in found if one.variable == variable for x in one.x})
        axes.set_xticks(ticks, [f"{tick:.3g}" if tick >= 1e4 else f"{tick:g}" for tick in ticks])
        axes.set_ylabel(found[0].unit)
        axes.set_xlabel(variable.replace("_", " "))
        axes.grid(visible=True)
    figure.legend(loc="outside lower center", ncols=1, fontsize=8)


def _name_rows(axes: Axes, rows: Sequence[Entry]) -> None:
    axes.set_yticks(range(len(rows)), [short(entry.name) for entry in rows])
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


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")
