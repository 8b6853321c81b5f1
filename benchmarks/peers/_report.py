"""The results of a comparison, and how they are printed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._driver import Spread
else:
    from _driver import Spread


@dataclass(frozen=True)
class Workload:
    """The work that every baseline does; lengths in tokens. Batch size 1.

    Attributes:
        sources: generated from one after the other in each round.
        threads: within an operator; CTranslate2 may take fewer.
        rounds: those that count.
        search_rounds: the same, while CTranslate2's settings are compared.
    """

    sources: int
    source_length: int
    new_tokens: int
    num_beams: int
    threads: int
    rounds: int
    search_rounds: int


@dataclass(frozen=True)
class Setting:
    """How a process is started; ``wait_policy`` is OMP_WAIT_POLICY, or None to leave it."""

    threads: int
    wait_policy: str | None = None

    def __str__(self) -> str:
        policy = "" if self.wait_policy is None else f", OpenMP waits: {self.wait_policy}"
        return f"{self.threads} thread{'s' * (self.threads > 1)}{policy}"


@dataclass(frozen=True)
class Agreement:
    """A baseline's tokens beside the reference's.

    Attributes:
        sources: those whose tokens are all the same.
        tokens: the same ones from each source's first on, up to the first that differs.
        distinct: different tokens among the baseline's own: what the others prove.
    """

    sources: int
    tokens: int
    distinct: int

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> Agreement:
        common = [_common_start(*pair) for pair in zip(tokens, reference, strict=True)]
        return cls(
            sources=sum(same == len(row) for same, row in zip(common, reference, strict=True)),
            tokens=sum(common),
            distinct=len({token for row in tokens for token in row}),
        )


@dataclass(frozen=True)
class Entry:
    """One baseline's part of the report.

    Attributes:
        milliseconds: of a whole generation, encoder included.
        rounds: the same, each round's mean over the sources.
        setting: the one that was used.
        tried: milliseconds of each setting in the search; empty where there was none.
        tokens: that it generated from each source.
        agreement: of its tokens with the reference's.
        exact: whether it computes in float32.
        disk_bytes: of the model's folder.
        loaded_bytes: of the files that were opened.
        versions: of its packages, by name, and of a GPU its name.
        notes: what it says of its times.
    """

    milliseconds: Spread
    rounds: list[float]
    setting: Setting
    tried: dict[str, Spread]
    tokens: list[list[int]]
    agreement: Agreement
    exact: bool
    disk_bytes: int
    loaded_bytes: int
    versions: dict[str, str]
    notes: list[str]


@dataclass(frozen=True)
class Report:
    """The comparison.

    Attributes:
        model: what the checkpoint is.
        baselines: by name.
        left_out: those that could not be made or started, and why.
        ratios: by ``a / b``, a's time over b's in each round.
        rooflines: seq2edge's steps beside the bandwidth, as benchmarks/roofline.py has them; empty
            unless they were asked for.
        reference: whose tokens the others' are compared with: the first in float32, if any.
        cpu: the processor's name.
    """

    workload: Workload
    model: str
    baselines: dict[str, Entry]
    left_out: dict[str, str]
    ratios: dict[str, Spread]
    rooflines: dict[str, dict[str, Any]]
    reference: str
    cpu: str

    @property
    def agrees(self) -> bool:
        """Whether all baselines in float32 gave the same tokens."""
        exact = [entry for entry in self.baselines.values() if entry.exact]
        return all(entry.agreement.sources == self.workload.sources for entry in exact)


def print_report(report: Report) -> None:
    """Tables for people, on stdout."""
    work = report.workload
    sources = f"{work.sources} sources" if work.sources > 1 else "source"
    print(
        f"{report.model}; batch 1, {sources} of {work.source_length},"
        f" {work.new_tokens} new tokens, beams {work.num_beams}, {work.rounds} rounds"
    )
    print(f"\n{'ms':52}{'p10':>9}{'p50':>9}{'p90':>9}")
    for name, entry in report.baselines.items():
        print(_row(f"{name} ({entry.setting})", entry.milliseconds, 1))
    print("\nratio of each round's times")
    for title, ratio in report.ratios.items():
        print(_row(title, ratio, 3))
    for name, entry in report.baselines.items():
        if entry.tried:
            print(f"\nsettings of {name}, {work.search_rounds} rounds, ms")
            for title, spread in entry.tried.items():
                print(_row(title, spread, 1))
    _print_sizes_and_tokens(report)
    if report.rooflines:
        _print_rooflines(report.rooflines)
    print()
    for name, reason in report.left_out.items():
        print(f"LEFT OUT: {name}: {reason}")
    for name, entry in report.baselines.items():
        for note in entry.notes:
            print(f"{name}: NOTE: {note}")
        print(f"{name}: {', '.join(f'{k} {v}' for k, v in entry.versions.items())}")
    print(f"{report.cpu}, Python {platform.python_version()}")


def _print_sizes_and_tokens(report: Report) -> None:
    work = report.workload
    print(f"\n{'':36}{'on disk':>12}{'loaded':>12}   first tokens as {report.reference}'s")
    for name, entry in report.baselines.items():
        sizes = (f"{count / 1e6:.1f} MB" for count in (entry.disk_bytes, entry.loaded_bytes))
        disk, loaded = sizes
        agreement = entry.agreement
        whole = f", {agreement.sources} of {work.sources} sources whole" if work.sources > 1 else ""
        print(
            f"{name:36}{disk:>12}{loaded:>12}   {agreement.tokens} of"
            f" {work.sources * work.new_tokens}{whole} ({agreement.distinct} distinct)"
        )
    if not report.agrees:
        print("\nTHE TOKENS OF THE FLOAT32 MODELS DIFFER")


def _print_rooflines(rooflines: dict[str, dict[str, Any]]) -> None:
    print(f"\n{'a greedy step':36}{'MB':>9}{'ms':>9}{'GB/s':>9}{'readable':>10}{'share':>9}")
    for name, roofline in rooflines.items():
        readable = max(roofline["memory_bandwidth"], roofline["same_size_bandwidth"])
        print(
            f"{name:36}{(roofline['weight_bytes'] + roofline['cache_bytes']) / 1e6:9.1f}"
            f"{roofline['step_ms']['p50']:9.3f}{roofline['step_bandwidth'] / 1e9:9.1f}"
            f"{readable / 1e9:10.1f}{100 * roofline['share']:7.1f} %"
        )


def _row(title: str, spread: Spread, digits: int) -> str:
    return f"{title:52}" + "".join(
        f"{value:9.{digits}f}" for value in (spread.p10, spread.p50, spread.p90)
    )


def _common_start(a: Sequence[int], b: Sequence[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))
