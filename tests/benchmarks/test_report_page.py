"""The page of a report: it stands alone, its numbers are the JSON's, no label covers another."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from seq2edge.benchmarks.report.growth import growths
from seq2edge.benchmarks.report.page import html_page, markdown_page
from seq2edge.benchmarks.report.plots import figure_of, plots_of, svg
from seq2edge.benchmarks.report.roofline_plot import roofline_points, roofs
from seq2edge.benchmarks.report.schema import Entry, Quality, Report, Tokens
from seq2edge.benchmarks.report.statistics import Interval, Measurement
from seq2edge.benchmarks.report.table import columns, csv_table
from seq2edge.benchmarks.report.verdict import verdict

from .test_report import MACHINE, THEN, times

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def roofline(scale: float, precision: str) -> dict[str, object]:
    """A step of 2 ms * ``scale`` at half of what memory allows, and an encoder at a quarter."""
    moved, operations = 4_000_000 * scale, {precision: int(8e6 * scale)}
    return {
        "weight_bytes": moved,
        "cache_bytes": 0,
        "step_ms": {"p50": 2.0 * scale},
        "bound_ms": scale,
        "share": 0.5,
        "memory_bandwidth": 4e9,
        "same_size_bandwidth": 8e9,
        "operations": operations,
        "gemm": {"float32": 1e11, "int8": 4e11},
        "encoder": {
            "ms": {"p50": 8.0 * scale},
            "bytes": 4_000_000 * scale,
            "operations": {precision: int(4e8 * scale)},
        },
    }


def entry(name: str, scale: float, megabytes: float, quality: float | None = None) -> Entry:
    library, _, precision = name.partition(":")
    ids = [[1, 2, 3]]
    return Entry(
        name=name,
        library=library,
        precision=precision,
        settings={"threads": 2},
        versions={"onnxruntime": "1.32.0"},
        sha256=None,
        disk_bytes=int(1e6 * megabytes),
        loaded_bytes=None,
        measurements={"all": Measurement.of(times(int(100 * scale), scale))},
        values={"load_ms": 12.0},
        tokens=Tokens.of(ids, "a", ids, exact=False),
        quality=None
        if quality is None
        else Quality(
            *("wer", "%", True, quality, Interval(quality - 0.4, quality + 0.4)),
            *(0.1, Interval(-0.1, 0.3), 0.9, 0.95, 0.01),
        ),
        details={"roofline": roofline(scale, "float32" if precision == "float32" else "int8")}
        if library == "seq2edge"
        else {},
    )


def report_of(entries: Sequence[Entry], kind: str = "peers") -> Report:
    return Report(
        kind=kind,
        title="<small> & fast",
        command=("seq2edge", "peers", "--peers", "all"),
        machine=MACHINE,
        before=THEN,
        after=THEN,
        revision="0123456789ab",
        settings={"threads": 2},
        entries=tuple(entries),
        left_out={"openvino:int4": "no </script> network"},
    )


@pytest.fixture(scope="module")
def report() -> Report:
    names = ("optimum:float32", "openvino:int8", "seq2edge:float32", "seq2edge:int8")
    scales = zip(names, (10, 4, 8, 2), (800, 60, 240, 61), strict=True)
    return report_of([entry(*values) for values in scales])


class Cells(HTMLParser):
    """Texts of the cells of a page, by entry and column, and the JSON within it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, dict[str, str]] = {}
        self.document = ""
        self.outside: list[str] = []
        self._row: dict[str, str] = {}
        self._column: str | None = None
        self._json = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        links = {"src", "href", "data", "srcset", "xlink:href"} & given.keys()
        # Parts of the page itself, and an icon that is none.
        self.outside += [
            str(given[name]) for name in links if not str(given[name]).startswith(("#", "data:,"))
        ]
        if tag == "tr" and "data-entry" in given:
            self._row = self.rows.setdefault(str(given["data-entry"]), {})
        self._column = given.get("data-column") if tag == "td" else None
        self._json = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._column is not None:
            self._row[self._column] = self._row.get(self._column, "") + data
        if self._json:
            self.document += data

    def handle_endtag(self, _tag: str) -> None:
        self._column, self._json = None, False


def check_numbers(page: str, report: Report) -> None:
    found = Cells(page)
    assert json.loads(found.document) == report.to_json()
    assert list(found.rows) == [one.name for one in report.entries]
    for one in report.entries:
        row, measured = found.rows[one.name], one.measurements["all"]
        assert row == {column.title: column.cell(one) for column in columns(report)[1:]} | {
            columns(report)[0].title: one.name
        }
        median, low, high = (float(text) for text in re.findall(r"[\d.]+", row["all ms"]))
        assert median == pytest.approx(measured.p50, rel=1e-3)
        assert low == pytest.approx(measured.interval.low, rel=1e-3)
        assert high == pytest.approx(measured.interval.high, rel=1e-3)
        assert float(row["p99"]) == pytest.approx(measured.p99, rel=1e-3)


def test_numbers_are_the_jsons(report: Report) -> None:
    check_numbers(html_page(report), report)


def test_the_page_needs_nothing_else(report: Report) -> None:
    page = html_page(report)
    assert Cells(page).outside == []
    assert "url(http" not in page
    assert "@import" not in page
    assert "&lt;small&gt; &amp; fast" in page
    assert "prefers-color-scheme:dark" in page


def test_the_verdict_comes_first(report: Report) -> None:
    page = html_page(report)
    first = unescape(re.findall(r"<p>([^<]*)</p>", page)[0])
    assert re.fullmatch(
        r"seq2edge:int8 takes 0\.5\d x the time \[[\d., ]+\] of the best peer, openvino:int8"
        r"; tokens as a's\.",
        first,
    )
    order = [page.index(word) for word in ("verdict", "<table>", "<figure", "Repeat it")]
    assert order[0] < order[1] < order[2] < order[3]
    assert "In float32: seq2edge:float32 takes 0.8" in page


def test_the_verdict_says_what_the_fast_one_computes(report: Report) -> None:
    ids = [[5, 6, 7, 8]]
    entries = [
        replace(one, tokens=Tokens.of([[5, 6, 9, 8]], "a", ids, exact=False))
        if one.name == "seq2edge:int8"
        else one
        for one in report.entries
    ]
    found = verdict(replace(report, entries=tuple(entries)))[0]
    assert found.endswith("openvino:int8; 2 of 4 first tokens as a's.")
    settings = {**report.settings, "checkpoint": "t5-small geometry, random weights"}
    random = replace(report, entries=tuple(entries), settings=settings)
    assert verdict(random)[0].endswith("openvino:int8.")
    speech = replace(report, entries=tuple(entries), settings={**report.settings, "audio": "a.wav"})
    assert verdict(speech)[0].endswith("2 of 4 first words as a's.")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: Debian's package is `chromium`")
@pytest.mark.parametrize("size", ["390,844", "1280,900"])
def test_a_browser_shows_the_same_and_complains_of_nothing(
    report: Report, tmp_path: Path, size: str
) -> None:
    file = tmp_path / "page.html"
    # Says whether something is wider than the window.
    wide = "document.body.dataset.wide=document.documentElement.scrollWidth>innerWidth"
    wide = f"<script>{wide}</script>"
    file.write_text(html_page(report).replace("</body>", f"{wide}</body>"))
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"),
            *(f"--window-size={size}", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert 'data-wide="false"' in done.stdout
    check_numbers(done.stdout.replace(wide, ""), report)
    assert done.stdout.count("<svg") == len(plots_of(report))


def test_markdown_and_csv_have_the_same_numbers(report: Report) -> None:
    page = markdown_page(report)
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report.entries)
    for one, row in zip(report.entries, rows[2:], strict=True):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert cells == [column.cell(one) for column in columns(report)]
    lines = list(csv.DictReader(io.StringIO(csv_table(report))))
    for one in report.entries:
        (line,) = (line for line in lines if (line["entry"], line["quantity"]) == (one.name, "all"))
        measured = one.measurements["all"]
        assert float(line["value"]) == measured.p50
        assert float(line["low"]) == measured.interval.low
        assert int(line["samples"]) == len(measured.samples)


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


def test_the_verdict_of_a_grid_is_about_one_workload() -> None:
    rows = [
        replace(
            entry(f"seq2edge:{name} (batch_size {batch})", scale, 10),
            settings={"batch_size": batch},
        )
        for name, scale, batch in (("a", 4, 8), ("b", 3, 8), ("b", 1, 1))
    ]
    first, *_ = verdict(report_of(rows, "bench"))
    assert first.startswith("seq2edge:b (batch_size 8) takes 0.7")


def test_the_verdict_of_one_bundles_grid_is_about_its_first_workload() -> None:
    rows = [
        replace(entry(f"seq2edge:a (batch_size {n})", n, 10), settings={"batch_size": n})
        for n in (1, 2)
    ]
    first, *_ = verdict(report_of(rows, "bench"))
    assert first.startswith("seq2edge:a (batch_size 1): ")


def test_a_picture_is_the_same_each_time(report: Report) -> None:
    for plot in plots_of(report):
        assert svg(plot, in_page=True) == svg(plot, in_page=True)
        assert svg(plot, in_page=False).startswith("<?xml")


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
