"""Several reports as one table: who is first, where seq2edge is not, and pages around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.benchmarks.report.headline import BEGIN, END, headline, not_first, update_page
from seq2edge.benchmarks.report.page import markdown_page
from seq2edge.benchmarks.report.ranking import ANY, standings
from seq2edge.benchmarks.report.schema import Entry, Report, Tokens, read_report
from seq2edge.benchmarks.report.statistics import Measurement
from tests.benchmarks.test_report import report_of


def entry(name: str, ms: float, megabytes: int, load_ms: float, verdict: str = "same") -> Entry:
    library, precision = name.split(":")
    return Entry(
        name=name,
        library=library,
        precision=precision,
        settings={},
        versions={library: "1.0"},
        sha256=None,
        disk_bytes=megabytes * 10**6,
        loaded_bytes=None,
        measurements={"all": Measurement.of([ms] * 8)},
        values={"load_ms": load_ms},
        tokens=replace(Tokens.of([[1]], "x", [[1]], exact=True), verdict=verdict),
    )


@pytest.fixture
def report() -> Report:
    entries = (
        entry("openvino:float32", 200.0, 300, 900.0),
        entry("ctranslate2:float32", 10.0, 1, 1.0, "wrong"),
        entry("whisper-cpp:q8_0", 100.0, 50, 20.0),
        entry("seq2edge:float32", 250.0, 240, 100.0),
        entry("seq2edge:int8", 80.0, 60, 90.0),
    )
    return replace(report_of([1.0]), kind="peers", entries=entries)


def test_the_best_of_each_are_compared(report: Report) -> None:
    found = {(one.measure, one.precision): one for one in standings(report)}
    any_time = found["time", ANY]
    assert (any_time.ours.name, any_time.other.name) == ("seq2edge:int8", "whisper-cpp:q8_0")
    assert any_time.ratio == pytest.approx(0.8)
    # q8_0 and int8 are of one kind; the wrong one is nobody's rival.
    assert found["time", "8 bits"] == replace(any_time, precision="8 bits")
    assert found["time", "float32"].other.name == "openvino:float32"


def test_everything_in_which_another_is_first_is_named(report: Report) -> None:
    assert not_first({"t5": report}).splitlines() == [
        "- t5: time, float32: openvino:float32 200 ms; seq2edge:float32 250 ms,"
        " 1.25 x [1.25, 1.25]",
        f"- t5: loading, {ANY}: whisper-cpp:q8_0 20 ms; seq2edge:int8 90 ms, 4.50 x",
        "- t5: loading, 8 bits: whisper-cpp:q8_0 20 ms; seq2edge:int8 90 ms, 4.50 x",
        f"- t5: size on disk, {ANY}: whisper-cpp:q8_0 50 MB; seq2edge:int8 60 MB, 1.20 x",
        "- t5: size on disk, 8 bits: whisper-cpp:q8_0 50 MB; seq2edge:int8 60 MB, 1.20 x",
    ]
    page = markdown_page(report)
    assert "- time, float32: openvino:float32 200 ms; seq2edge:float32 250 ms" in page


def test_headline_has_a_row_for_each_task(report: Report) -> None:
    lone = replace(report, entries=report.entries[-1:])
    assert headline({"t5": report, "lone": lone}, "bench/").splitlines()[2:] == [
        "| [t5](bench/t5.md) | int8 80.0 [80.0, 80.0] | whisper-cpp:q8_0 100.0 [100.0, 100.0]"
        " | 0.80 [0.80, 0.80] | 1.25 [1.25, 1.25] |"
    ]


def test_a_page_keeps_what_is_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nBy hand: é\n", encoding="utf-8")
    update_page(page, "new")
    expected = f"# Title\n\n{BEGIN}\nnew\n{END}\n\nBy hand: é\n"
    assert page.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("contents", ["", f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_a_page_without_its_place_is_left_alone(tmp_path: Path, contents: str) -> None:
    from seq2edge.runtime.errors import InputError

    page = tmp_path / "page.md"
    page.write_text(contents)
    with pytest.raises(InputError, match="for the table to stand between"):
        update_page(page, "new")
    assert page.read_text() == contents


def test_tables_of_this_tree_are_those_of_its_reports() -> None:
    root = Path(__file__).parents[2]
    results = root / "docs" / "results" / "bench"
    reports = {path.stem: read_report(path) for path in results.glob("*.json")}
    folders = {"README.md": "docs/results/bench/", "docs/results/README.md": "bench/"}
    for name, folder in {**folders, "docs/results/bench/README.md": ""}.items():
        block = (root / name).read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
        rows = block.strip().splitlines()
        if reports:
            assert sorted(rows[2 : 2 + len(reports)]) == sorted(
                headline(reports, folder).splitlines()[2:]
            ), name
        else:
            assert rows == ["Not measured yet."], name
