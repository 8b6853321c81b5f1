"""What a comparison found, and how it is printed."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers._driver import Spread
else:
    from _driver import Spread


@dataclass(frozen=True)
class Workload:
    """What all contenders do; lengths in tokens. Batch size 1.

    Attributes:
        threads: within an operator; CTranslate2 may take fewer.
        rounds: those that count; each contender generates once a round.
        search_rounds: the same, while CTranslate2's settings are compared.
    """

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
class Entry:
    """One contender's part of the report.

    Attributes:
        milliseconds: of a whole generation, encoder included.
        rounds: the same, each round's.
        setting: the one that was used.
        tried: milliseconds of each setting in the search; empty where there was none.
        same_tokens: how many of its first tokens are those of the report's reference.
        distinct_tokens: different ones among them: what ``same_tokens`` proves.
        disk_bytes: of the model's folder.
        loaded_bytes: of the files that were opened.
        versions: of its packages, by name.
    """

    milliseconds: Spread
    rounds: list[float]
    setting: Setting
    tried: dict[str, Spread]
    same_tokens: int
    distinct_tokens: int
    disk_bytes: int
    loaded_bytes: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Report:
    """The comparison.

    Attributes:
        contenders: by ``library:precision``.
        ratios: by ``a / b``, a's time over b's in each round.
        reference: whose tokens the others' are compared with: the first in float32, if any.
        cpu: the processor's name.
    """

    workload: Workload
    contenders: dict[str, Entry]
    ratios: dict[str, Spread]
    reference: str
    cpu: str

    @property
    def agrees(self) -> bool:
        """Whether all contenders in float32 gave the same tokens."""
        exact = [entry for name, entry in self.contenders.items() if name.endswith(":float32")]
        return all(entry.same_tokens == self.workload.new_tokens for entry in exact)


def print_report(report: Report) -> None:
    """Tables for people, on stdout."""
    work = report.workload
    print(
        f"T5-small geometry, random weights; batch 1, source {work.source_length},"
        f" {work.new_tokens} new tokens, beams {work.num_beams}, {work.rounds} rounds"
    )
    print(f"\n{'ms':52}{'p10':>9}{'p50':>9}{'p90':>9}")
    for name, entry in report.contenders.items():
        print(_row(f"{name} ({entry.setting})", entry.milliseconds, 1))
    print("\nratio of each round's times")
    for title, ratio in report.ratios.items():
        print(_row(title, ratio, 3))
    for name, entry in report.contenders.items():
        if entry.tried:
            print(f"\nsettings of {name}, {work.search_rounds} rounds, ms")
            for title, spread in entry.tried.items():
                print(_row(title, spread, 1))
    print(f"\n{'':24}{'on disk':>12}{'loaded':>12}   first tokens as {report.reference}'s")
    for name, entry in report.contenders.items():
        sizes = (f"{count / 1e6:.1f} MB" for count in (entry.disk_bytes, entry.loaded_bytes))
        disk, loaded = sizes
        print(
            f"{name:24}{disk:>12}{loaded:>12}   {entry.same_tokens} of {work.new_tokens}"
            f" ({entry.distinct_tokens} distinct)"
        )
    if not report.agrees:
        print("\nTHE TOKENS OF THE FLOAT32 MODELS DIFFER")
    print()
    for name, entry in report.contenders.items():
        print(f"{name}: {', '.join(f'{k} {v}' for k, v in entry.versions.items())}")
    print(f"{report.cpu}, Python {platform.python_version()}")


def _row(title: str, spread: Spread, digits: int) -> str:
    return f"{title:52}" + "".join(
        f"{value:9.{digits}f}" for value in (spread.p10, spread.p50, spread.p90)
    )
