"""Whether int8 attention over long sources is near enough: measured on long sources.

What a bundle is checked on are short texts, which the encoder's canonical attention takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import BackendError, InputError
from seq2edge.runtime.generation.divergence import TokenPair, divergences
from seq2edge.runtime.progress import StageProgress

from .passes.cpu_lowering.block_attention import LONG_INTEGERS

#: Sources that are compared, and how much longer than the shortest that is computed in blocks.
_SOURCES, _LONGER = 6, 1.5
#: Of the mean KL that is allowed, the part that int8 attention may add to it.
_SHARE = 0.1


@dataclass(frozen=True)
class LongSourceCheck:
    """Next-token distributions after long sources, against those of the float32 bundle.

    Attributes:
        source_tokens, positions: length of a source; distributions that were compared.
        mean_kl: of the bundle with int8 attention, in nats per token.
        mean_kl_without: of its canonical graphs.
        allowed: of the bundle's check, the largest mean KL that is not warned about.
    """

    source_tokens: int
    positions: int
    mean_kl: float
    mean_kl_without: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether attention may be of int8 though nobody asked for it."""
        return self.mean_kl - self.mean_kl_without <= _SHARE * self.allowed  # nan does not pass

    def record(self) -> dict[str, Any]:
        """Plain values for the manifest; a number that is not finite is None."""
        values = {
            name: value if math.isfinite(value) else None for name, value in asdict(self).items()
        }
        return values | {"passed": self.passed}


def check_long_sources(
    source: Bundle,
    candidate: Bundle,
    pairs: Sequence[TokenPair],
    allowed: float,
    progress: StageProgress | None = None,
) -> LongSourceCheck:
    """Run both on this machine's CPU.

    Where ONNX Runtime cannot, or the model takes no such sources, nothing was compared, which does
    not pass.

    Args:
        source: the float32 bundle.
        candidate: with int8 attention.
        pairs: of the check; long sources are put together of theirs, and targets are theirs.
        allowed: see :class:`LongSourceCheck`.
    """
    long = long_pairs(source, pairs)

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("checking long sources", done, total)

    tokens = len(long[0].source) if long else 0
    nothing = LongSourceCheck(tokens, 0, math.nan, math.nan, allowed)
    if not long:
        return nothing
    try:
        with ExitStack() as stack:
            backends = []
            for bundle, lowered in ((source, False), (candidate, True), (candidate, False)):
                backends.append(OrtBackend(bundle, lowered=lowered))
                stack.callback(backends[-1].close)
            teacher, *both = backends
            found = divergences(teacher, both, source.manifest, long, report)
    except (BackendError, InputError):
        return nothing
    with_it, without = found
    return LongSourceCheck(tokens, with_it.positions, with_it.mean_kl, without.mean_kl, allowed)


def long_pairs(source: Bundle, pairs: Sequence[TokenPair]) -> list[TokenPair]:
    """Pairs of sources that are computed in blocks; none where the model takes no such sources."""
    dimensions, tokens = source.manifest.dimensions, source.manifest.special_tokens
    length = int(LONG_INTEGERS * _LONGER)
    if dimensions.max_source_length is not None:
        length = min(length, dimensions.max_source_length)
    if length < LONG_INTEGERS or not any(len(pair.source) > 1 for pair in pairs):
        return []
    found = []
    for first in range(min(_SOURCES, len(pairs))):
        joined: list[int] = []
        turn = first
        while len(joined) < length:
            own = list(pairs[turn % len(pairs)].source)
            joined += own[:-1] if own and own[-1] in tokens.eos else own
            turn += 1
        ending = [token for token in pairs[first].source[-1:] if token in tokens.eos]
        kept = [*joined[: length - len(ending)], *ending]
        found.append(TokenPair(kept, pairs[first].target))
    return found
