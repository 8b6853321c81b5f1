"""The JSON that bench, compare and peers write. Its fields: docs/benchmarks.md.

A field that is added is no new version; one that is dropped or means something else is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle.checks.json_text import parse_json, read_file
from seq2edge.runtime.errors import BundleError, InputError

from .machine import Conditions, MachineInfo
from .statistics import Interval, Measurement
from .types import check_types

FORMAT = "seq2edge benchmark report"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Tokens:
    """Generated tokens beside the reference's.

    Attributes:
        ids: of each source.
        reference: the entry whose tokens these are compared with.
        verdict: ``same``; ``differs``, which weights of fewer bits may; ``wrong``: it computes
            in float32 and must give the reference's tokens, and does not; or ``disputed``: the
            same, but as many have its tokens as the reference's.
        sources: those whose tokens are all the same.
        common: tokens that are the same from each source's first on, until one differs.
        total: tokens of the reference.
        distinct: different tokens among its own: what equal ones prove.
    """

    ids: list[list[int]]
    reference: str
    verdict: str
    sources: int
    common: int
    total: int
    distinct: int

    @classmethod
    def of(
        cls,
        ids: Sequence[Sequence[int]],
        reference: str,
        expected: Sequence[Sequence[int]],
        *,
        exact: bool,
        disputed: bool = False,
    ) -> Tokens:
        """Compare with the ``expected`` ones; ``exact``: those of float32 beside float32.

        ``disputed``: of float32, too, but nobody knows which ones are right.
        """
        pairs = list(zip(ids, expected, strict=True))
        same = sum(list(ours) == list(theirs) for ours, theirs in pairs)
        other = ("disputed" if disputed else "wrong") if exact else "differs"
        verdict = "same" if same == len(pairs) else other
        return cls(
            ids=[list(row) for row in ids],
            reference=reference,
            verdict=verdict,
            sources=same,
            common=sum(_common_start(*pair) for pair in pairs),
            total=sum(len(row) for row in expected),
            distinct=len({token for row in ids for token in row}),
        )


@dataclass(frozen=True)
class Quality:
    """A metric on data, and closeness to the reference; the fields of compare's ``Variant``."""

    metric: str
    unit: str
    lower_is_better: bool
    value: float
    interval: Interval
    difference: float
    difference_interval: Interval
    identical: float
    prefix: float
    divergence: float

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Quality:
        intervals = {
            name: Interval(*map(_number, value[name].values()))
            for name in ("interval", "difference_interval")
        }
        numbers = ("value", "difference", "identical", "prefix", "divergence")
        return cls(**{**value, **{name: _number(value[name]) for name in numbers}, **intervals})


@dataclass(frozen=True)
class Entry:
    """One thing that was measured: a bundle, a variant, a peer, with one set of lengths.

    Attributes:
        name: unlike the others'.
        library, precision: such as ``seq2edge`` and ``int8``.
        settings: of this entry alone, such as threads or lengths.
        versions: of its packages.
        sha256: of a bundle's manifest, which has the hashes of all its files; None: no bundle.
        disk_bytes, loaded_bytes: of all its files, and of those that were opened; None: unknown.
        measurements: by name; times in ms.
        values: single numbers by name, such as ``tokens_per_second``.
        tokens, quality: None: not measured.
        details: what only some kinds have, such as ``roofline`` and ``memory``.
        notes: what a reader of the numbers should know.
    """

    name: str
    library: str
    precision: str
    settings: dict[str, Any]
    versions: dict[str, str]
    sha256: str | None
    disk_bytes: int | None
    loaded_bytes: int | None
    measurements: dict[str, Measurement]
    values: dict[str, float] = field(default_factory=dict)
    tokens: Tokens | None = None
    quality: Quality | None = None
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Entry:
        given = {
            **value,
            "measurements": {
                name: Measurement.from_json(one) for name, one in value["measurements"].items()
            },
            "tokens": None if value["tokens"] is None else Tokens(**value["tokens"]),
            "quality": None if value["quality"] is None else Quality.from_json(value["quality"]),
            "notes": tuple(value["notes"]),
        }
        return cls(**_known(cls, given))


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        kind: ``bench``, ``compare`` or ``peers``.
        title: what was measured, in words.
        command: that repeats it.
        machine, before, after: where, and its conditions before and after.
        revision: of a git checkout; None: there is none.
        settings: of all entries.
        entries: in the order in which they are shown.
        left_out: those that could not be measured, and why.
        limit: what the machine could do at most, measured in the same run; None: not asked for.
        notes: remarks on all of it.
    """

    kind: str
    title: str
    command: tuple[str, ...]
    machine: MachineInfo
    before: Conditions
    after: Conditions
    revision: str | None
    settings: dict[str, Any]
    entries: tuple[Entry, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    limit: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def wrong(self) -> list[str]:
        """Names of the entries whose tokens are not what they must be."""
        return [
            e.name for e in self.entries if e.tokens is not None and e.tokens.verdict == "wrong"
        ]

    @property
    def disputed(self) -> list[str]:
        """Names of the entries that disagree with the reference, of which either may be wrong."""
        return [
            e.name for e in self.entries if e.tokens is not None and e.tokens.verdict == "disputed"
        ]

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def __repr__(self) -> str:
        return f"Report({self.kind} of {self.title}, {len(self.entries)} entries)"

    def to_json(self) -> dict[str, Any]:
        """Plain values; a number that is not finite is None, for which JSON has a form."""
        document = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        values: dict[str, Any] = finite(document)
        return values

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Report:
        """The report of :meth:`to_json`.

        Raises:
            InputError: it is something else, or of a newer seq2edge.
        """
        if document.get("format") != FORMAT:
            raise InputError("it is no report of seq2edge bench, compare or peers")
        version = document.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"it is of format {version}, and this seq2edge reads format {FORMAT_VERSION};"
                " use the seq2edge that wrote it"
            )
        try:
            given = {
                **document,
                "command": tuple(document["command"]),
                "machine": _machine(document["machine"]),
                "before": Conditions(**_known(Conditions, document["before"])),
                "after": Conditions(**_known(Conditions, document["after"])),
                "entries": tuple(Entry.from_json(entry) for entry in document["entries"]),
                "notes": tuple(document["notes"]),
            }
            report = cls(**_known(cls, given))
            check_types(report, "the report")
            return report
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"a part of it is missing or garbled: {error!r}") from None


def read_report(path: str | os.PathLike[str]) -> Report:
    """The report in a file that ``--output`` or ``--json`` wrote.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        document = parse_json(read_file(Path(path)), path)
    except BundleError as error:
        raise InputError(f"no report: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} is no report of seq2edge bench, compare or peers")
    try:
        return Report.from_json(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def finite(value: Any) -> Any:
    """``value`` with None for each number that is not finite, for which JSON has no form."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass: a newer seq2edge may have added others."""
    return {name: value for name, value in values.items() if name in kind.__dataclass_fields__}


def _machine(value: Mapping[str, Any]) -> MachineInfo:
    return MachineInfo(
        **{**_known(MachineInfo, value), "features": tuple(value.get("features", ()))}
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _common_start(a: Sequence[int], b: Sequence[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))
