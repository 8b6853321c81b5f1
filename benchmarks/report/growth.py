"""How time and memory grow with a length or a number: the power that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .schema import Entry, Report
from .verdict import WORK, main_measurement

#: Settings of entries that may grow, of one bundle; and the size of a model, over bundles of one
#: precision.
VARIABLES = (*WORK, "threads")
SIZE = "parameters"
#: Values that a power is fitted to, at least.
_FEWEST = 3


@dataclass(frozen=True)
class Growth:
    """Median times, or peak memory, while one setting grows and the others stay.

    Attributes:
        what: the bundle (or the precision), and the settings that stay.
        variable: which one grows.
        unit: ``ms``, or ``MB`` of all that the process held, its libraries included.
        x, y: its values, ascending, and what was measured.
        factor, exponent: of ``factor * x ** exponent``, fitted by least squares of the logarithms.
    """

    what: str
    variable: str
    unit: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    factor: float
    exponent: float

    @property
    def power(self) -> str:
        """The exponent in words; never ``-0.00``."""
        return f"{round(self.exponent, 2) + 0.0:.2f}"

    def __str__(self) -> str:
        """In a sentence."""
        name = self.variable.replace("_", " ")
        quantity = "time" if self.unit == "ms" else "peak memory"
        return (
            f"{self.what}: {quantity} grows as {name}^{self.power}, {self.y[0]:.4g}"
            f" {self.unit} at {self.x[0]:g} to {self.y[-1]:.4g} at {self.x[-1]:g}"
        )


def growths(report: Report) -> list[Growth]:
    """One for each bundle, variable and combination of the others with three values at least."""
    main = main_measurement(report)
    if main is None:
        return []
    return [
        growth
        for unit, value in (("ms", _time(main)), ("MB", _memory))
        for variable in (*VARIABLES, SIZE)
        for growth in _growths(report, variable, unit, value)
    ]


Value = Callable[[Entry], float | None]


def _time(main: str) -> Value:
    def value(entry: Entry) -> float | None:
        found = entry.measurements.get(main)
        return None if found is None else found.p50

    return value


def _memory(entry: Entry) -> float | None:
    peak = entry.values.get("peak_bytes")
    return None if peak is None else peak / 1e6


def _growths(report: Report, variable: str, unit: str, value: Value) -> Iterator[Growth]:
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in report.entries:
        others = [entry.settings.get(name) for name in VARIABLES if name != variable]
        bundle = entry.precision if variable == SIZE else entry.name.partition(" (")[0]
        groups.setdefault((bundle, *others), []).append(entry)
    for (bundle, *_), entries in groups.items():
        points = sorted(
            (float(entry.settings[variable]), measured)
            for entry in entries
            if entry.settings.get(variable) and (measured := value(entry))
        )
        if len({x for x, _ in points}) < _FEWEST:
            continue
        x, y = zip(*points, strict=True)
        exponent, constant = np.polyfit(np.log(x), np.log(y), 1)
        yield Growth(
            what=_what(report, bundle, entries[0], variable),
            variable=variable,
            unit=unit,
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
