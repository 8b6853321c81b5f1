"""What every peer does, and how its process is started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PeerWorkload:
    """The work that every baseline does; lengths in tokens. Batch size 1.

    Attributes:
        sources: generated from one after the other in each round.
        threads: within an operator; CTranslate2 may take fewer.
        runs: rounds that count.
        warmup: rounds before those; None: until times are steady.
        seconds: after which no further round begins, once eight have counted; None: no limit.
        audio: recordings, of which the first 30 s are the sources; empty: texts. They end where
            the model ends them, within ``new_tokens``.
        search_runs: rounds in which CTranslate2's settings are compared.
    """

    sources: int = 1
    source_length: int = 64
    new_tokens: int = 64
    num_beams: int = 1
    threads: int = 2
    runs: int = 15
    warmup: int | None = None
    seconds: float | None = None
    search_runs: int = 5
    audio: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """How a process is started; ``wait_policy`` is OMP_WAIT_POLICY, or None to leave it."""

    threads: int
    wait_policy: str | None = None

    def __str__(self) -> str:
        policy = "" if self.wait_policy is None else f", OpenMP waits: {self.wait_policy}"
        return f"{self.threads} thread{'s' * (self.threads > 1)}{policy}"
