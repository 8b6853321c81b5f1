"""The page of a report: it stands alone, its numbers are the JSON's."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seq2edge.benchmarks.report.page import html_page, markdown_page
from seq2edge.benchmarks.report.plots import plots_of
from seq2edge.benchmarks.report.schema import Report, Tokens
from seq2edge.benchmarks.report.table import columns, csv_table
from seq2edge.benchmarks.report.verdict import verdict

from .reports import entry, peers_report, report_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def report() -> Report:
    return peers_report()


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
