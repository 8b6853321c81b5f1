"""Size and speed against quality, as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from .compare import Comparison, Variant
from .libraries import library

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Places for a label beside its point, in points, with the side that touches it, from near to far.
_PLACES: list[tuple[int, int, Literal["left", "right"]]] = [
    (across, rise, "left" if across > 0 else "right")
    for rise in (5, -13, 16, -24, 27, -35, 38, -46, 60, -68)
    for across in (7, -7)
]
#: What a label costs that leaves the panel, that covers a label or a point, or a bar.
_OUTSIDE, _COVERS, _CROSSES = 100, 10, 1


def check_picture() -> None:
    """Fail before long work if pictures cannot be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    library("matplotlib.figure", "--output")


def draw(comparison: Comparison) -> bytes:
    """An SVG of two panels that share the metric's axis: size in MB, and milliseconds per source.

    Equal comparisons give equal bytes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    check_picture()
    # Not pyplot: it keeps state, and looks for a display.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "seq2edge", "font.size": 9.0}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        FigureCanvasAgg(figure)  # measures the labels
        panels = figure.subplots(1, 2, sharey=True)
        variants = comparison.variants
        sizes = [variant.bytes / 1e6 for variant in variants]
        times = [variant.speed.milliseconds for variant in variants]
        for axes, values, title in zip(
            panels,
            (sizes, times),
            ("size, MB", f"time of a {comparison.sources.removesuffix('s')}, ms"),
            strict=True,
        ):
            _plot(axes, values, variants)
            axes.set_xlabel(title)
        better = "lower" if comparison.lower_is_better else "higher"
        panels[0].set_ylabel(f"{comparison.metric}, {comparison.unit} ({better} is better)")
        figure.suptitle(f"{variants[0].name}: {comparison.examples} examples, 95 % intervals")
        figure.draw_without_rendering()  # the layout is final when labels are placed
        for axes, values in zip(panels, (sizes, times), strict=True):
            _label(axes, values, variants)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _plot(axes: Axes, values: Sequence[float], variants: Sequence[Variant]) -> None:
    for index, (x, variant) in enumerate(zip(values, variants, strict=True)):
        # The interval need not hold the value, if the examples are few.
        below = max(0.0, variant.value - variant.interval.low)
        above = max(0.0, variant.interval.high - variant.value)
        axes.errorbar(
            x,
            variant.value,
            yerr=[[below], [above]],
            fmt="o",
            capsize=3,
            elinewidth=1,
            color=f"C{index % 10}",
        )
    axes.set_xlim(0, 1.15 * max(values))
    axes.grid(alpha=0.3)


def _label(axes: Axes, values: Sequence[float], variants: Sequence[Variant]) -> None:
    """Name the points; each label takes the place that costs least."""
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    labels: list[Any] = []
    points, bars = [], []
    for x, variant in zip(values, variants, strict=True):
        at = axes.transData.transform([(x, y) for y in (variant.value, *_ends(variant))])
        points.append(Bbox.from_extents(*(at[0] - 4), *(at[0] + 4)))
        bars.append(Bbox.from_extents(*at[1], *at[2]))

    def cost(box: Any) -> int:
        outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
        outside |= box.y0 < axes.bbox.y0 or box.y1 > axes.bbox.y1
        covers = box.count_overlaps([*labels, *points])
        return int(_OUTSIDE * outside + _COVERS * covers + _CROSSES * box.count_overlaps(bars))

    for index, (x, variant) in enumerate(zip(values, variants, strict=True)):
        label = axes.annotate(
            variant.name,
            (x, variant.value),
            xytext=(0, 0),
            textcoords="offset points",
            color=f"C{index % 10}",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0},
        )
        label.set_in_layout(False)  # a label is no reason to lay the panels out anew

        def put(position: tuple[int, int, Literal["left", "right"]], label: Any = label) -> Any:
            label.set_position(position[:2])
            label.set_horizontalalignment(position[2])
            return label.get_window_extent(renderer)

        labels.append(put(min(_PLACES, key=lambda position: cost(put(position)))))


def _ends(variant: Variant) -> tuple[float, float]:
    return variant.interval.low, variant.interval.high
