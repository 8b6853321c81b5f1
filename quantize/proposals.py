"""Whether a head of two stages is safe on a model: measured on what the bundle is checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import BackendError
from seq2edge.runtime.generation.divergence import SpokenPair, TokenPair
from seq2edge.runtime.generation.proposal_ranks import proposal_ranks
from seq2edge.runtime.progress import StageProgress

from .passes.cpu_lowering.two_stage_head import PROPOSALS

#: Of the proposals a quarter: as far again and twice that is left for what was not looked at.
#: On trained Whisper models the worst of 2,629 places was 25 (docs/design.md, section 6).
LOWEST_PLACE = PROPOSALS // 4
#: Fewer positions say too little.
_ENOUGH = 128


@dataclass(frozen=True)
class ProposalCheck:
    """Where the whole head's choice stands among the proposals.

    Attributes:
        positions: how many choices were looked at.
        worst: the lowest place that one had, from 1; 0: there was none.
        not_first: how many were not the first.
    """

    positions: int
    worst: int
    not_first: int

    @property
    def passed(self) -> bool:
        """Whether nothing here speaks against two stages."""
        return self.positions >= _ENOUGH and self.worst <= LOWEST_PLACE

    def excess(self) -> str:
        """What is wrong where it has not passed, and what to do."""
        if self.positions < _ENOUGH:
            found = f"{self.positions} choices are too few to say whether two stages are safe"
        else:
            found = (
                f"the whole head's choice is the {self.worst}. of {PROPOSALS} proposals at worst,"
                f" below the {LOWEST_PLACE}."
            )
        return (
            f"has a head in two stages that may miss tokens: {found}; --no-two-stage-head is safe"
        )

    def record(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self) | {"lowest_allowed": LOWEST_PLACE, "passed": self.passed}


def check_proposals(
    candidate: Bundle,
    pairs: Sequence[TokenPair | SpokenPair],
    progress: StageProgress | None = None,
) -> ProposalCheck:
    """Run the lowered decoder of ``candidate`` on this machine's CPU.

    Where ONNX Runtime cannot, nothing was looked at, which is not safe.
    """

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("checking the head", done, total)

    try:
        backend = OrtBackend(candidate)
        try:
            ranks = proposal_ranks(backend, candidate.manifest, pairs, report)
        finally:
            backend.close()
    except BackendError:
        ranks = []
    worst = max(ranks) + 1 if ranks else 0
    return ProposalCheck(len(ranks), worst, sum(rank > 0 for rank in ranks))
