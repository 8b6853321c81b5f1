"""A report as a table: aligned for a terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .schema import Entry, Quality, Report
from .statistics import Interval, Measurement, ratio_interval
from .verdict import baseline, main_measurement, token_unit

#: Of ``Entry.values``, those that are shown, with their titles and digits.
_VALUES = {
    "tokens_per_second": ("tokens/s", 1),
    "real_time_factor": ("real time", 4),
    "encoder_ms": ("encoder ms", 3),
    "token_ms": ("token ms", 3),
    "load_ms": ("load ms", 0),
    "tokens": ("tokens", 1),
    "joules_per_token": ("J/token", 4),
}


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: with the unit.
        meaning: for the legend; empty: it speaks for itself.
        cell: its text for an entry.
        left: whether cells are words.
    """

    title: str
    meaning: str
    cell: Callable[[Entry], str]
    left: bool = False


#: The first line of the CSV.
_CSV = "entry library precision quantity unit value low high p90 p99 max samples"


def columns(report: Report) -> list[Column]:
    """The columns that the report has something for."""
    return list(_columns(report))


def text_table(report: Report) -> str:
    """Aligned columns."""
    shown = columns(report)
    rows = [[column.title for column in shown]]
    rows += [[column.cell(entry) for column in shown] for entry in report.entries]
    widths = [max(len(row[index]) for row in rows) for index in range(len(shown))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column.left else cell.rjust(width)
            for cell, width, column in zip(row, widths, shown, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(report: Report) -> str:
    shown = columns(report)
    rows = [[column.title for column in shown]]
    rows.append(["---" if column.left else "---:" for column in shown])
    rows += [[column.cell(entry) for column in shown] for entry in report.entries]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows)


def legend(report: Report) -> list[tuple[str, str]]:
    """What columns mean, those that need it."""
    return [(column.title, column.meaning) for column in columns(report) if column.meaning]


def csv_table(report: Report) -> str:
    """One line per entry and quantity, numbers in full; intervals where there are some."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_CSV.split())
    for entry in report.entries:
        for name, unit, value, interval, found in _quantities(entry):
            ends = ["", ""] if interval is None else [interval.low, interval.high]
            rest = ["", "", "", ""]
            if found is not None:
                rest = [*map(str, (found.p90, found.p99, found.max)), str(len(found.samples))]
            start = [entry.name, entry.library, entry.precision, name, unit, value]
            writer.writerow([*start, *ends, *rest])
    return stream.getvalue()


def _quantities(
    entry: Entry,
) -> Iterator[tuple[str, str, float, Interval | None, Measurement | None]]:
    for name, found in entry.measurements.items():
        yield name, found.unit, found.p50, found.interval, found
    quality = entry.quality
    if quality is not None:
        yield quality.metric, quality.unit, quality.value, quality.interval, None
        yield (
            f"{quality.metric} difference",
            quality.unit,
            quality.difference,
            quality.difference_interval,
            None,
        )
        yield "identical", "share", quality.identical, None, None
        yield "prefix", "share", quality.prefix, None, None
        yield "KL", "nats", quality.divergence, None, None
    if entry.disk_bytes is not None:
        yield "disk_bytes", "bytes", entry.disk_bytes, None, None
    for name, value in entry.values.items():
        yield name, "", value, None, None


def _columns(report: Report) -> Iterator[Column]:
    entries = report.entries
    yield Column(
        "bundle" if report.kind != "peers" else "library and precision",
        "",
        lambda entry: entry.name,
        left=True,
    )
    if report.kind != "peers":
        yield Column("scheme", "", lambda entry: entry.precision, left=True)
    yield from _quality_columns(report)
    yield from _time_columns(report)
    if any(entry.disk_bytes for entry in entries):
        yield Column("MB", "on disk", lambda e: _number(_in_mb(e.disk_bytes), 2))
    for name, (title, digits) in _VALUES.items():
        if any(name in entry.values for entry in entries):
            yield Column(title, _MEANINGS.get(title, ""), _value(name, digits))
    if any("peak_bytes" in entry.values for entry in entries):
        meaning = "most memory that the process held, its libraries included"
        yield Column("peak MB", meaning, lambda e: _number(_in_mb(e.values.get("peak_bytes")), 0))
    if any(entry.settings.get("setting") for entry in entries):
        yield Column("at its best", "", lambda e: str(e.settings.get("setting", "")), left=True)
    if len(entries) > 1 and any(entry.tokens is not None for entry in entries):
        yield Column(
            f"first {token_unit(report)} as",
            "those that are the reference's until one differs, of all; WRONG: it computes in"
            " float32 and must give the same",
            _tokens,
            left=True,
        )


_MEANINGS = {
    "tokens/s": "of all sequences of a batch",
    "real time": "time of a recording by its length",
    "encoder ms": "of a recording's first window",
    "token ms": "of the first window, by token",
    "J/token": "of the whole machine or processor, its rest included",
    "tokens": "generated per source where it was timed, mean",
}


def _quality_columns(report: Report) -> Iterator[Column]:
    first = next((e.quality for e in report.entries if e.quality is not None), None)
    if first is None:
        return

    def of(part: Callable[[Quality], str]) -> Callable[[Entry], str]:
        return lambda entry: "" if entry.quality is None else part(entry.quality)

    better = "lower" if first.lower_is_better else "higher"
    yield Column(
        f"{first.metric} {first.unit}",
        f"{better} is better; with its 95 % interval",
        of(lambda q: f"{q.value:.2f} {_between(q.interval)}"),
    )
    yield Column(
        "difference",
        "to the reference, on the same resampled examples",
        of(lambda q: f"{q.difference:+.2f} {_between(q.difference_interval, '+')}"),
    )
    yield Column(
        "identical",
        "sequences whose tokens are all the reference's",
        of(lambda q: f"{100 * q.identical:.1f} %"),
    )
    yield Column(
        "prefix",
        "tokens before the first one that differs, mean over the sequences",
        of(lambda q: f"{100 * q.prefix:.1f} %"),
    )
    yield Column(
        "KL",
        "KL(reference || variant) of the next-token distribution, nats per token, mean",
        of(lambda q: f"{q.divergence:.2g}"),
    )


def _time_columns(report: Report) -> Iterator[Column]:
    names = list(dict.fromkeys(name for e in report.entries for name in e.measurements))
    main = main_measurement(report)
    for name in names:
        yield Column(f"{name} ms", _TIMES.get(name, ""), _time(name))
        if name == main:
            yield Column("p90", f"of {name} ms", _part(name, lambda m: m.p90))
            yield Column("p99", f"of {name} ms", _part(name, lambda m: m.p99))
            reference = baseline(report)
            if reference is not None:
                yield Column(
                    "ratio",
                    f"{name} ms by that of {reference.name}, with its 95 % interval",
                    _ratio(name, reference),
                )


_TIMES = {
    "all": "a whole generation, encoder included; median and its 95 % interval",
    "text": "a text, batch 1, greedy; median and its 95 % interval",
    "recording": "a recording, greedy; median and its 95 % interval",
    "first token": "features and encoder included",
    "token": "each further one",
}


def _time(name: str) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        found = entry.measurements.get(name)
        if found is None:
            return ""
        digits = digits_of(found.p50)
        low, high = found.interval.low, found.interval.high
        return f"{found.p50:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    return cell


def _part(name: str, part: Callable[[Measurement], float]) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        found = entry.measurements.get(name)
        return "" if found is None else f"{part(found):.{digits_of(found.p50)}f}"

    return cell


def _ratio(name: str, reference: Entry) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        found = entry.measurements.get(name)
        if found is None:
            return ""
        against = reference.measurements[name]
        ratio, interval = ratio_interval(against.samples, found.samples, paired=True)
        return f"{ratio:.3f} [{interval.low:.3f}, {interval.high:.3f}]"

    return cell


def _value(name: str, digits: int) -> Callable[[Entry], str]:
    return lambda entry: _number(entry.values.get(name), digits)


def _tokens(entry: Entry) -> str:
    tokens = entry.tokens
    if tokens is None:
        return ""
    said = f"{tokens.common} of {tokens.total} ({tokens.distinct} distinct)"
    if tokens.verdict in ("wrong", "disputed"):
        return f"{tokens.verdict.upper()}: {said}"
    return said


def digits_of(value: float) -> int:
    """Decimals that leave four digits, of milliseconds."""
    return 3 if value < 10 else 2 if value < 100 else 1


def _in_mb(count: float | None) -> float | None:
    return None if count is None else count / 1e6


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _between(interval: Interval, sign: str = "") -> str:
    return f"[{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
