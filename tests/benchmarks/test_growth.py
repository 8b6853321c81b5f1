"""How time and memory grow with a workload or a model: powers, in the page and in plots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seq2edge.benchmarks.report.growth import growths
from seq2edge.benchmarks.report.page import html_page, markdown_page
from seq2edge.benchmarks.report.plots import figure_of, plots_of, svg
from seq2edge.benchmarks.report.schema import Entry
from seq2edge.benchmarks.report.statistics import Measurement

from .reports import entry, report_of


def test_growth_is_a_power() -> None:
    entries = []
    for batch in (1, 2, 4, 8):
        one = entry(f"seq2edge:a (batch_size {batch})", 1.0, 10)
        exact = Measurement.of([3.0 * batch**0.75] * 3)
        settings = {"batch_size": batch, "num_beams": 1}
        entries.append(replace(one, settings=settings, measurements={"all": exact}))
    (found,) = growths(report_of(entries, "bench"))
    assert (found.variable, found.unit, found.x) == ("batch_size", "ms", (1, 2, 4, 8))
    assert found.exponent == pytest.approx(0.75)
    assert found.factor == pytest.approx(3.0)
    assert "batch size^0.75" in svg(plots_of(report_of(entries, "bench"))[-1], in_page=False)


def grown(name: str, settings: dict[str, object], ms: float, megabytes: float) -> Entry:
    return replace(
        entry(name, 1.0, 10),
        settings=settings,
        measurements={"all": Measurement.of([ms] * 3)},
        values={"peak_bytes": 1e6 * megabytes},
    )


def test_memory_and_other_variables_grow_too() -> None:
    entries = [
        grown(
            f"seq2edge:a (threads {threads}, new_tokens {tokens})",
            {"threads": threads, "new_tokens": tokens},
            tokens**1.25 / threads**0.5,
            100 * tokens**0.25,
        )
        for threads in (1, 2, 4)
        for tokens in (16, 64, 256)
    ]
    report = report_of(entries, "bench")
    found = {(one.unit, one.variable, one.what): one.exponent for one in growths(report)}
    assert len(found) == 12
    for (unit, variable, what), exponent in found.items():
        expected = {"ms": {"threads": -0.5, "new_tokens": 1.25}, "MB": {"threads": 0.0}}
        assert exponent == pytest.approx(expected[unit].get(variable, 0.25)), what
    said = "seq2edge:a, threads 2: time grows as new tokens^1.25, "
    assert said in markdown_page(report)
    names = [plot.name for plot in plots_of(report)]
    assert names[-2:] == ["growth", "memory-growth"]
    page = html_page(report)
    assert 'id="memory-growth"' in page


def test_what_does_not_grow_is_drawn_from_zero_and_never_as_minus_nothing() -> None:
    entries = [
        grown(f"seq2edge:a (new_tokens {n})", {"new_tokens": n}, 8 - 0.001 * n, 89.6 - 0.001 * n)
        for n in (8, 16, 32)
    ]
    report = report_of(entries, "bench")
    assert {one.power for one in growths(report)} == {"0.00"}
    for plot in plots_of(report)[-2:]:
        with figure_of(plot) as figure:
            assert figure.axes[0].get_ylim()[0] == 0


def test_time_grows_with_a_models_size_within_a_precision() -> None:
    entries = [
        grown(f"{name}:{precision}", {"parameters": parameters}, 1e-6 * parameters * scale, 10)
        for name, parameters in (("small", 10**6), ("middle", 10**7), ("large", 10**8))
        for precision, scale in (("float32", 4), ("int8", 1))
    ]
    found = [one for one in growths(report_of(entries, "bench")) if one.unit == "ms"]
    assert [(one.what, one.variable) for one in found] == [
        ("float32", "parameters"),
        ("int8", "parameters"),
    ]
    assert all(one.exponent == pytest.approx(1.0) for one in found)
