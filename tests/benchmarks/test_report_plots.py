"""Plots of a report: no label covers another, a point for each graph, the same each time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seq2edge.benchmarks.report.plots import figure_of, plots_of, svg
from seq2edge.benchmarks.report.roofline_plot import roofline_points, roofs
from seq2edge.benchmarks.report.schema import Report

from .reports import entry, peers_report, report_of


@pytest.fixture(scope="module")
def report() -> Report:
    return peers_report()


def dense() -> Report:
    """Twelve variants, most of them next to each other."""
    names = [f"seq2edge:variant-{number}" for number in range(12)]
    random = np.random.default_rng(0)
    rows = [
        entry(name, 1 + 0.02 * number, 10 + 0.3 * number, 6.8 + 0.05 * random.random())
        for number, name in enumerate(names)
    ]
    return replace(report_of([*rows, entry("seq2edge:large", 5, 90, 9)], "compare"), left_out={})


def test_no_label_covers_another_a_point_or_a_bar() -> None:
    checked = 0
    for plot in plots_of(dense()):
        with figure_of(plot) as figure:
            figure.draw_without_rendering()
            for axes in figure.axes:
                labels = [
                    text for text in axes.texts if (text.get_gid() or "").startswith("number")
                ]
                boxes = [text.get_window_extent() for text in labels]
                for index, box in enumerate(boxes):
                    assert box.count_overlaps(boxes[:index]) == 0, plot.name
                    checked += 1
                    for line in filter(lambda line: len(line.get_xdata()), axes.lines):
                        points = axes.transData.transform(line.get_xydata())
                        path = np.linspace(points[0], points[-1], 500)
                        inside = [box.contains(x, y) for x, y in path]
                        assert not any(inside), (plot.name, labels[index].get_text())
                names = [text.get_window_extent() for text in axes.get_yticklabels()]
                for index, box in enumerate(names):
                    assert box.count_overlaps(names[:index]) == 0, plot.name
    # Quality beside size and beside time; of the roofline steps and encoders.
    assert checked == 4 * 13


def test_the_roofline_has_a_point_for_each_graph(report: Report) -> None:
    dots = roofline_points(report)
    assert [(dot.entry.name, dot.mark) for dot in dots] == [
        (name, mark) for name in ("seq2edge:float32", "seq2edge:int8") for mark in "os"
    ]
    for dot in dots:
        found = dot.entry.details["roofline"]
        if dot.mark == "o":
            operations, seconds = sum(found["operations"].values()), found["step_ms"]["p50"] / 1e3
            moved = found["weight_bytes"] + found["cache_bytes"]
        else:
            encoder = found["encoder"]
            operations, seconds = sum(encoder["operations"].values()), encoder["ms"]["p50"] / 1e3
            moved = encoder["bytes"]
        assert dot.intensity == pytest.approx(operations / moved)
        assert dot.rate == pytest.approx(operations / seconds)
    assert roofs(report) == (
        {"memory": 4e9, "a buffer as large as the weights": 8e9},
        {"float32": 1e11, "int8": 4e11},
    )
    (plot,) = (plot for plot in plots_of(report) if plot.name == "roofline")
    text = svg(plot, in_page=False)
    assert all(f"number-{name}" in text for name in ("3", "3e", "4", "4e"))


def test_a_report_without_operations_has_no_roofline(report: Report) -> None:
    details = {"roofline": {"step_ms": {"p50": 2.0}, "bound_ms": 1.0, "share": 0.5}}
    old = replace(report, entries=tuple(replace(one, details=details) for one in report.entries))
    names = [plot.name for plot in plots_of(old)]
    assert "bounds" in names
    assert "roofline" not in names


def test_a_picture_is_the_same_each_time(report: Report) -> None:
    for plot in plots_of(report):
        assert svg(plot, in_page=True) == svg(plot, in_page=True)
        assert svg(plot, in_page=False).startswith("<?xml")
