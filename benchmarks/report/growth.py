"""How time and memory grow with a length or a number: the power that fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .schema import Entry, Report
from .verdict import WORK, main_measurement

#: Settings of entries that may grow.
VARIABLES = (*WORK, "threads")


@dataclass(frozen=True)
class Growth:
    """Median times of one bundle while one setting grows and the others stay.

    Attributes:
        what: the bundle, and the settings that stay.
        variable: which one grows.
        x, y: its values, ascending, and milliseconds.
        factor, exponent: of ``factor * x ** exponent``, fitted by least squares of the logarithms.
    """

    what: str
    variable: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    factor: float
    exponent: float


def growths(report: Report) -> list[Growth]:
    """One for each bundle, variable and combination of the others with three values at least."""
    return list(_growths(report))


def _growths(report: Report) -> Iterator[Growth]:
    main = main_measurement(report)
    if main is None:
        return
    varied = [
        name
        for name in VARIABLES
        if len({entry.settings.get(name) for entry in report.entries} - {None}) > 2
    ]
    for variable in varied:
        groups: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in report.entries:
            others = tuple(entry.settings.get(name) for name in VARIABLES if name != variable)
            bundle = entry.name.partition(" (")[0]
            groups.setdefault((bundle, others), []).append(entry)
        for (bundle, _), entries in groups.items():
            points = sorted(
                (float(entry.settings[variable]), entry.measurements[main].p50)
                for entry in entries
                if entry.settings.get(variable)
            )
            if len({x for x, _ in points}) < 3:
                continue
            x, y = zip(*points, strict=True)
            exponent, constant = np.polyfit(np.log(x), np.log(y), 1)
            yield Growth(
                what=_what(report, bundle, entries[0], variable),
                variable=variable,
                x=x,
                y=y,
                factor=float(np.exp(constant)),
                exponent=float(exponent),
            )


def _what(report: Report, bundle: str, entry: Entry, variable: str) -> str:
    """The bundle's name, with the other settings that the report varies."""
    others = [
        f"{name.replace('_', ' ')} {entry.settings[name]}"
        for name in VARIABLES
        if name != variable
        and entry.settings.get(name) is not None
        and len({one.settings.get(name) for one in report.entries}) > 1
    ]
    return ", ".join([bundle, *others])
