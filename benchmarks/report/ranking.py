"""Who is first in what: of a report of peers, seq2edge beside the best of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .schema import Entry, Report
from .statistics import Interval, ratio_interval
from .verdict import main_measurement

#: Precisions that are compared with one another; those that are not named here are alone.
_CLASSES = {
    **dict.fromkeys(("fp16", "bf16", "float16", "bfloat16"), "16 bits"),
    **dict.fromkeys(("int8", "int8-dynamic", "int8-qdq", "q8_0"), "8 bits"),
    **dict.fromkeys(("int4", "int4-head4", "q5_1"), "4 or 5 bits"),
}
ANY = "any precision"


@dataclass(frozen=True)
class Standing:
    """The best of ours beside the best of the others, in one thing; less is better.

    Attributes:
        measure: such as ``time``, and its ``unit``.
        precision: which ones were compared, :data:`ANY` for all.
        ours, other: the entries.
        our_value, other_value: in ``unit``.
        ratio: ours by the other's.
        interval: of the ratio; None: it was measured once.
    """

    measure: str
    unit: str
    precision: str
    ours: Entry
    other: Entry
    our_value: float
    other_value: float
    ratio: float
    interval: Interval | None

    def __str__(self) -> str:
        between = ""
        if self.interval is not None:
            between = f" [{self.interval.low:.2f}, {self.interval.high:.2f}]"
        first = f"{self.other.name} {self.other_value:.4g} {self.unit}"
        ours = f"{self.ours.name} {self.our_value:.4g} {self.unit}"
        return f"{self.measure}, {self.precision}: {first}; {ours}, {self.ratio:.2f} x{between}"


def standings(report: Report) -> list[Standing]:
    """In time, size and memory, over all precisions and in each; right tokens only."""
    right = [entry for entry in report.entries if entry.name not in report.wrong]
    classes = dict.fromkeys(_class(entry) for entry in right)
    found: list[Standing] = []
    for measure, unit, value in _measures(report):
        groups = {ANY: right, **{name: [e for e in right if _class(e) == name] for name in classes}}
        for name, group in groups.items():
            found += _standing(measure, unit, name, value, group, main_measurement(report))
    return found


def behind(report: Report) -> list[Standing]:
    """Those in which another is first."""
    return [standing for standing in standings(report) if standing.ratio > 1]


def _class(entry: Entry) -> str:
    return _CLASSES.get(entry.precision, entry.precision)


def _measures(report: Report) -> Iterator[tuple[str, str, Callable[[Entry], float | None]]]:
    main = main_measurement(report)

    def time(entry: Entry) -> float | None:
        found = entry.measurements.get(main or "")
        return None if found is None else found.p50

    def megabytes(count: float | None) -> float | None:
        return None if count is None else count / 1e6

    yield "time", "ms", time
    yield "loading", "ms", lambda entry: entry.values.get("load_ms")
    yield "size on disk", "MB", lambda entry: megabytes(entry.disk_bytes)
    yield "peak memory", "MB", lambda entry: megabytes(entry.values.get("peak_bytes"))


def _standing(
    measure: str,
    unit: str,
    precision: str,
    value: Callable[[Entry], float | None],
    group: Sequence[Entry],
    main: str | None,
) -> Iterator[Standing]:
    known = [(found, entry) for entry in group for found in [value(entry)] if found is not None]
    ours = [pair for pair in known if pair[1].library == "seq2edge"]
    others = [pair for pair in known if pair[1].library != "seq2edge"]
    if not ours or not others:
        return
    (mine, our), (theirs, other) = (min(some, key=lambda pair: pair[0]) for some in (ours, others))
    ratio, interval = mine / theirs, None
    if measure == "time" and main is not None:
        samples = [entry.measurements[main].samples for entry in (other, our)]
        ratio, interval = ratio_interval(*samples, paired=True)
    yield Standing(measure, unit, precision, our, other, mine, theirs, ratio, interval)
