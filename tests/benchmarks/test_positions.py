"""Time of a token by its position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks.latency import LatencyRunner
from seq2edge.benchmarks.report.plots import figure_of, plots_of, svg
from seq2edge.benchmarks.report.positions import at_positions, positions_of, slope_of
from seq2edge.benchmarks.workload import Workload

from .reports import entry, report_of

WORK = Workload(source_length=4, new_tokens=10, runs=1, warmup=1, threads=1)


def test_steps_are_counted_from_the_last_one_backwards() -> None:
    # Token k takes k ms. Some engines tell of the first one's start, others of its end.
    ends = [sum(range(1, number + 1)) / 1e3 for number in range(11)]
    for stamps in (ends, ends[1:]):
        found = at_positions(stamps, 10)
        assert found == {f"token at {place}": pytest.approx(place) for place in (2, 4, 8, 9)}


def test_stamps_that_are_not_one_a_step_are_no_times() -> None:
    assert at_positions([0.0, 1.0], 10) == {}
    assert at_positions([0.0, 1.0], 1) == {}
    assert at_positions([], 0) == {}


@pytest.mark.parametrize("change", [{}, {"batch_size": 3}, {"num_beams": 3}, {"new_tokens": 1}])
def test_every_way_of_decoding_tells_of_its_steps(
    bundle_of: Callable[[str], Path], change: dict[str, Any]
) -> None:
    runner = LatencyRunner(bundle_of("t5"), replace(WORK, **change))
    times, _ = runner.turn()
    runner.close()
    places = [int(name.rpartition(" ")[2]) for name in times if name.startswith("token at ")]
    assert places == ([] if "new_tokens" in change else [2, 4, 8, 9])
    assert all(0 < times[f"token at {place}"] < times["all"] for place in places)


def test_a_slow_first_step_does_not_bend_the_line() -> None:
    times = {f"token at {place}": [1 + 0.01 * place] * 3 for place in (2, 4, 8, 16, 32, 63)}
    times["token at 2"] = [5.0] * 3
    found = positions_of({"all": [9.0], **times})
    assert [one["position"] for one in found] == [2, 4, 8, 16, 32, 63]
    slope = slope_of(found)
    assert slope is not None
    assert slope.us_per_position == pytest.approx(10, rel=0.05)
    assert slope.ms == pytest.approx(1, rel=0.01)
    assert slope_of(found[:2]) is None
    one = replace(entry("seq2edge:a", 1, 10), details={"positions": found})
    report = report_of([one], "bench")
    (plot,) = (plot for plot in plots_of(report) if plot.name == "positions")
    assert "µs a position" in svg(plot, in_page=False)
    with figure_of(plot) as figure:
        figure.draw_without_rendering()
        (axes,) = figure.axes
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == ["2", "4", "8", "16", "32"]  # 63 would stand beside a 64
