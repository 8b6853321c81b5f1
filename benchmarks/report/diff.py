"""Whether two runs of one measurement differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from seq2edge.runtime.errors import InputError

from .schema import Entry, Report
from .statistics import FEWEST_SAMPLES, Interval, holm, mann_whitney, ratio_interval

#: A difference has a corrected p-value below this.
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Change:
    """One measurement of one entry in both runs.

    Attributes:
        entry, measurement, unit: which one.
        before, after: medians.
        ratio, interval: ``after`` over ``before``, with the ratio's 95 % interval.
        p_value: that both are samples of one distribution (Mann-Whitney, corrected for the
            number of measurements by Holm's method).
        differs: whether that is unlikely, and the ratio beyond the threshold.
    """

    entry: str
    measurement: str
    unit: str
    before: float
    after: float
    ratio: float
    interval: Interval
    p_value: float
    differs: bool


@dataclass(frozen=True)
class Diff:
    """What :func:`diff_reports` found.

    Attributes:
        changes: of what both runs measured.
        tokens: entries whose tokens are not the same in both.
        remarks: what else differs, and what only one of them has.
        threshold: ratios nearer to 1 than this are no difference, however certain.
    """

    changes: tuple[Change, ...]
    tokens: tuple[str, ...]
    remarks: tuple[str, ...]
    threshold: float

    @property
    def differs(self) -> bool:
        return bool(self.tokens) or any(change.differs for change in self.changes)

    def to_json(self) -> dict[str, Any]:
        return {"differs": self.differs, **asdict(self)}


def diff_reports(before: Report, after: Report, threshold: float = 0.05) -> Diff:
    """Compare what two runs have in common.

    Args:
        before, after: of the same kind, with entries of the same names.
        threshold: smallest difference of the medians that counts. Two runs on one machine are
            some percent apart: its clock, other programs, where memory lies.

    Raises:
        InputError: different kinds or work, nothing in common, or fewer than 8 samples.
    """
    if before.kind != after.kind:
        raise InputError(
            f"one is of seq2edge {before.kind}, the other one of seq2edge {after.kind}"
        )
    if before.settings != after.settings:
        changed = sorted(
            name
            for name in {*before.settings, *after.settings}
            if before.settings.get(name) != after.settings.get(name)
        )
        raise InputError(f"they did different work: {_listed(before, after, changed)}")
    pairs = [
        (entry, other) for entry in before.entries if (other := after.entry(entry.name)) is not None
    ]
    rows = [
        (entry, other, name)
        for entry, other in pairs
        for name in entry.measurements
        if name in other.measurements
    ]
    if not rows:
        raise InputError("they have no measurement in common")
    for row in rows:
        _check_count(*row)
    p_values = holm([mann_whitney(*_samples(*row)) for row in rows])
    changes = []
    for row, p_value in zip(rows, p_values, strict=True):
        ratio, interval = ratio_interval(*_samples(*row))
        entry, other, name = row
        changes.append(
            Change(
                entry=entry.name,
                measurement=name,
                unit=entry.measurements[name].unit,
                before=entry.measurements[name].p50,
                after=other.measurements[name].p50,
                ratio=ratio,
                interval=interval,
                p_value=p_value,
                differs=p_value < SIGNIFICANCE and _beyond(ratio, threshold),
            )
        )
    tokens = tuple(
        entry.name
        for entry, other in pairs
        if entry.tokens is not None
        and other.tokens is not None
        and entry.tokens.ids != other.tokens.ids
    )
    return Diff(tuple(changes), tokens, tuple(_remarks(before, after)), threshold)


def _beyond(ratio: float, threshold: float) -> bool:
    """The same for either order of the runs."""
    return max(ratio, 1 / ratio) > 1 + threshold


def _samples(a: Entry, b: Entry, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return a.measurements[name].samples, b.measurements[name].samples


def _check_count(a: Entry, b: Entry, name: str) -> None:
    fewest = min(len(samples) for samples in _samples(a, b, name))
    if fewest < FEWEST_SAMPLES:
        raise InputError(
            f"{a.name} has {fewest} samples of {name}: a difference takes {FEWEST_SAMPLES} at least"
        )


def _remarks(before: Report, after: Report) -> Iterator[str]:
    if before.machine != after.machine:
        yield f"other machines: {_machine(before)} and {_machine(after)}"
    if before.revision != after.revision:
        yield f"revisions {before.revision} and {after.revision}"
    names = [{entry.name for entry in report.entries} for report in (before, after)]
    for name in sorted(names[0] ^ names[1]):
        yield f"{name} is only in the {'first' if name in names[0] else 'second'}"
    for entry in before.entries:
        other = after.entry(entry.name)
        if other is None:
            continue
        if entry.sha256 != other.sha256:
            yield f"{entry.name}: the bundle was changed"
        for package in sorted({*entry.versions, *other.versions}):
            pair = entry.versions.get(package), other.versions.get(package)
            if pair[0] != pair[1]:
                yield f"{entry.name}: {package} {pair[0]} and {pair[1]}"
    for title, report in (("first", before), ("second", after)):
        busy = max(report.before.busy or 0.0, report.after.busy or 0.0)
        if busy > 0.1:
            yield f"other programs took {100 * busy:.0f} % of the processor beside the {title}"


def _machine(report: Report) -> str:
    return report.machine.board or report.machine.cpu


def _listed(before: Report, after: Report, names: list[str]) -> str:
    return ", ".join(
        f"{name} {before.settings.get(name)} and {after.settings.get(name)}" for name in names
    )
