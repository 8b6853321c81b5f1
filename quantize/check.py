"""Compare a quantized bundle with the bundle that it was made from.

Without labelled data the source bundle is the teacher: both are fed the source's own greedy
outputs, and their next-token distributions are compared at every position. An encoder-only model
has no tokens to predict: its last hidden states are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seq2edge.runtime import EncoderModel, GenerationConfig, Seq2SeqModel
from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import BackendError, InputError
from seq2edge.runtime.generation.divergence import (
    Divergence,
    SpokenPair,
    TokenPair,
    divergences,
)
from seq2edge.runtime.generation.source import collate
from seq2edge.runtime.progress import StageProgress
from seq2edge.runtime.text.sources import TextSource
from seq2edge.runtime.text.tokenizer import load_tokenizer

from .recipe.options import DEFAULT_BLOCK_SIZES
from .recipe.schemes import QuantizationScheme
from .request import Request
from .speech import Sounds, spoken_pairs

#: A mean KL up to this, in nats per token, is not warned about: a part that every model may
#: lose, a share of what the source itself leaves open (its entropy), and a ceiling. Measured in
#: docs/design.md, section 6.
KL_ALLOWED, KL_PER_ENTROPY, KL_CEILING = 0.1, 0.3, 0.4
#: The same for the mean cosine similarity of an encoder's states.
COSINE_ALLOWED = 0.95

#: Random prompts: sequences per round, their lengths in tokens, rounds at most, and the number
#: of positions after which no further round is needed.
_SEQUENCES, _SHORTEST, _LONGEST, _ROUNDS, _ENOUGH = 8, 4, 24, 4, 128
#: Tokens of each output that are compared: fewer for models that take long for each.
_FEWEST, _MOST = 8, 32
_TOKENS_TIMES_PARAMETERS = 4_000_000_000
#: 95 % of a normal distribution lies within so many standard deviations.
_Z = 1.959964

RANDOM, CALIBRATION = "random prompts", "calibration text"


@dataclass(frozen=True)
class DistributionCheck:
    """Next-token distributions of a quantized bundle against its source's.

    Attributes:
        prompts: ``random prompts`` or ``calibration text``.
        sequences, positions: how many outputs, and tokens of them, were compared.
        agreement: share of positions with the same most probable token, 0 to 1.
        interval: its 95 % interval (Wilson 1927), each position taken as independent.
        mean_kl, max_kl: KL(source || quantized), nats per token.
        entropy: mean of the source's own distributions, nats per token.
    """

    prompts: str
    sequences: int
    positions: int
    agreement: float
    interval: tuple[float, float]
    mean_kl: float
    max_kl: float
    entropy: float

    @property
    def allowed(self) -> float:
        """The largest mean KL that is not warned about."""
        return min(KL_CEILING, KL_ALLOWED + KL_PER_ENTROPY * self.entropy)

    @property
    def passed(self) -> bool:
        return self.mean_kl <= self.allowed  # nan does not pass

    @property
    def loss(self) -> float:
        """How far off the bundle is; less is better."""
        return self.mean_kl if math.isfinite(self.mean_kl) else math.inf

    def describe(self) -> str:
        low, high = self.interval
        return (
            f"next token agrees at {self.agreement:.1%} [{low:.1%}, {high:.1%}] of"
            f" {self.positions} positions ({self.prompts}), KL mean {self.mean_kl:.3g}, max"
            f" {self.max_kl:.3g}"
        )

    def excess(self) -> str:
        return f"mean KL {self.mean_kl:.3g} nats per token, more than {self.allowed:.2g}"

    def record(self) -> dict[str, Any]:
        """Plain values for the manifest; a number that is not finite is None."""
        return {name: _plain(value) for name, value in asdict(self).items()} | {
            "allowed_mean_kl": _plain(self.allowed),
            "passed": self.passed,
        }


@dataclass(frozen=True)
class StateCheck:
    """Last hidden states of a quantized encoder against its source's.

    Attributes:
        prompts, sequences, positions: as of :class:`DistributionCheck`.
        mean_cosine, min_cosine: similarity of a token's two states, -1 to 1.
    """

    prompts: str
    sequences: int
    positions: int
    mean_cosine: float
    min_cosine: float

    @property
    def passed(self) -> bool:
        return self.mean_cosine >= COSINE_ALLOWED

    @property
    def loss(self) -> float:
        """How far off the bundle is; less is better."""
        return 1 - self.mean_cosine if math.isfinite(self.mean_cosine) else math.inf

    def describe(self) -> str:
        return (
            f"states have a cosine similarity of {self.mean_cosine:.4f} in the mean and"
            f" {self.min_cosine:.4f} at least, over {self.positions} positions ({self.prompts})"
        )

    def excess(self) -> str:
        return f"mean cosine similarity {self.mean_cosine:.3f}, less than {COSINE_ALLOWED}"

    def record(self) -> dict[str, Any]:
        """Plain values for the manifest; a number that is not finite is None."""
        return {name: _plain(value) for name, value in asdict(self).items()} | {
            "allowed_mean_cosine": COSINE_ALLOWED,
            "passed": self.passed,
        }


@dataclass(frozen=True)
class NotChecked:
    """No comparison was made, for this reason."""

    reason: str
    passed = True
    loss = 0.0

    def describe(self) -> str:
        return f"not checked: {self.reason}"

    def record(self) -> dict[str, Any]:
        return {"not_checked": self.reason}


Check = DistributionCheck | StateCheck | NotChecked


class Checker:
    """The source bundle, loaded once, to compare candidates with. Use it as a context manager.

    Args:
        bundle: the source, a float32 bundle.
        examples: sources and the bundle's answers; none: random prompts are drawn (always the
            same for one bundle) and answered.
        progress: called with the stage, what is done of it and what there is to do.
        sounds: of a bundle that hears speech, what it is given in place of texts.
    """

    def __init__(
        self,
        bundle: Bundle,
        examples: Sequence[TokenPair] = (),
        progress: StageProgress | None = None,
        sounds: Sounds | None = None,
    ) -> None:
        self._bundle = bundle
        self._progress = progress
        self._prompts = CALIBRATION if examples else RANDOM
        self._most = new_tokens(bundle.manifest.parameters)
        self._sounds = sounds
        self._pairs: list[TokenPair | SpokenPair] = [
            TokenPair(pair.source, pair.target[: self._most]) for pair in examples
        ]
        if sounds is not None:
            self._prompts = sounds.kind
        self._stack = ExitStack()

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def pairs(self) -> Sequence[TokenPair | SpokenPair]:
        """What :meth:`compare` has compared candidates on; nothing before."""
        return self._pairs

    def compare(self, candidate: Bundle) -> Check:
        """Run ``candidate`` on this machine's CPU beside the source.

        Returns:
            A :class:`NotChecked` where ONNX Runtime cannot run it here.
        """
        graphs = self._bundle.manifest.graphs
        texts = "encoder" not in graphs or "input_ids" in graphs["encoder"].input_names()
        if not texts and self._sounds is None:
            return NotChecked("its sources are not token ids")
        try:
            if self._bundle.manifest.single_stack == "encoder":
                return self._compare_states(candidate)
            return self._compare_distributions(candidate)
        except (BackendError, InputError) as error:
            return NotChecked(f"it does not run on this machine's CPU ({error})")

    def _compare_distributions(self, candidate: Bundle) -> DistributionCheck:
        with ExitStack() as stack:
            backend = load_backend(candidate, num_threads=None)
            stack.callback(backend.close)
            source = load_backend(self._bundle, num_threads=None)
            stack.callback(source.close)
            if not self._pairs and self._sounds is not None:
                manifest = self._bundle.manifest
                windows = self._sounds.inputs(source, manifest)
                self._pairs += spoken_pairs(source, manifest, windows, self._most)
            if not self._pairs:
                model = Seq2SeqModel(self._bundle, source, None)
                self._pairs += _answered_prompts(self._bundle, model, self._most)
            (divergence,) = divergences(
                source, [backend], self._bundle.manifest, self._pairs, self._report
            )
        return _distribution_check(self._prompts, len(self._pairs), divergence)

    def _compare_states(self, candidate: Bundle) -> StateCheck:
        sources = random_sources(self._bundle, np.random.default_rng(0), _SEQUENCES)
        states = []
        for number, bundle in enumerate((candidate, self._bundle)):
            self._report(number, 2)
            with EncoderModel.load(bundle.directory) as model:
                states.append(
                    np.concatenate([model.encode_ids([ids])[0] for ids in sources], axis=0)
                )
        theirs, ours = (rows.astype(np.float64) for rows in states)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        with np.errstate(invalid="ignore"):
            cosine = (ours * theirs).sum(axis=1) / norms
        return StateCheck(
            RANDOM, len(sources), len(cosine), float(cosine.mean()), float(cosine.min())
        )

    def _report(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress("checking", done, total)


def new_tokens(parameters: int) -> int:
    """Tokens of each output to compare, so that large models take no longer than small ones."""
    return int(np.clip(_TOKENS_TIMES_PARAMETERS // max(1, parameters), _FEWEST, _MOST))


def random_sources(
    bundle: Bundle, generator: np.random.Generator, count: int, room: int = 0
) -> list[list[int]]:
    """Sources of random tokens, special ones left out; with an end token where texts have one.

    Args:
        room: target positions to leave free, for a decoder-only model.
    """
    manifest = bundle.manifest
    dimensions, tokens = manifest.dimensions, manifest.special_tokens
    # Where sources have tokens of their own, the decoder's end token is none of them.
    end = [] if manifest.has_two_vocabularies else list(tokens.eos[:1])
    longest = _LONGEST
    if dimensions.max_source_length is not None:
        longest = min(longest, dimensions.max_source_length - len(end))
    if manifest.single_stack == "decoder":
        end = []
        if dimensions.max_target_length is not None:
            longest = min(longest, dimensions.max_target_length - room)
    longest = max(1, longest)
    ordinary = _ordinary_tokens(bundle)
    lengths = generator.integers(min(_SHORTEST, longest), longest + 1, count)
    return [[*generator.choice(ordinary, length).tolist(), *end] for length in lengths]


def _ordinary_tokens(bundle: Bundle) -> list[int]:
    """Tokens that stand for text; all but the model's special ones without a tokenizer."""
    manifest = bundle.manifest
    tokens, count = manifest.special_tokens, manifest.dimensions.source_tokens
    special = {tokens.pad, tokens.decoder_start, *tokens.eos}
    tokenizer = load_tokenizer(bundle)
    if tokenizer is not None:
        spelled = tokenizer.token_bytes()[:count]
        special.update(range(len(spelled), count))
        special.update(token for token, text in enumerate(spelled) if not text)
    return [token for token in range(count) if token not in special] or list(range(count))


def _answered_prompts(bundle: Bundle, model: Seq2SeqModel, most: int) -> list[TokenPair]:
    """Random sources and what the model answers greedily, with at most ``most`` tokens each.

    Some models end at once on random tokens, so sources are added until there are enough
    positions.
    """
    limit = bundle.manifest.dimensions.max_target_length
    if limit is not None:
        most = max(1, min(most, limit - 1))
    generator = np.random.default_rng(0)
    pairs: list[TokenPair] = []
    for _ in range(_ROUNDS):
        sources = random_sources(bundle, generator, _SEQUENCES, room=most)
        inputs = collate(
            [TextSource.of(tokens) for tokens in sources], bundle.manifest.special_tokens.pad
        )
        answers = model.generate_ids(
            inputs["input_ids"], inputs["attention_mask"], GenerationConfig(max_new_tokens=most)
        )
        pairs += [
            TokenPair(source, answer.token_ids)
            for source, answer in zip(sources, answers, strict=True)
        ]
        if sum(len(pair.target) for pair in pairs) >= min(_ENOUGH, _SEQUENCES * most):
            break
    return pairs


def _distribution_check(prompts: str, sequences: int, divergence: Divergence) -> DistributionCheck:
    share = divergence.agreements / divergence.positions if divergence.positions else math.nan
    return DistributionCheck(
        prompts,
        sequences,
        divergence.positions,
        share,
        wilson_interval(divergence.agreements, divergence.positions),
        max(divergence.mean_kl, 0.0),  # rounding
        max(divergence.max_kl, 0.0),
        divergence.mean_entropy,
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, _Z * _Z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    spread = share * (1 - share) / trials + square / (4 * trials * trials)
    half = _Z / (1 + square / trials) * math.sqrt(spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def complaint(check: Check, scheme: QuantizationScheme, request: Request) -> str | None:
    """What is wrong with a bundle that did not pass, and what to try; None if it did."""
    if isinstance(check, NotChecked) or check.passed:
        return None
    options = request.options
    size = options.block_size
    tried_all = size is None or size <= min(DEFAULT_BLOCK_SIZES)
    tried = []
    if "block_size" in scheme.uses and not tried_all:
        tried.append("smaller blocks (--block-size 32 or 16)")
    if "algorithm" in scheme.uses and options.algorithm != "gptq":
        tried.append("--algorithm gptq with --calibration TEXT")
    if options.head_bits == 4:
        tried.append("--head-bits 8")
    if "smoothquant" in scheme.uses and options.smoothquant is None:
        tried.append("--smoothquant 0.5")
    tried.append("--max-drop, which keeps the layers that lose most more exact")
    return (
        f"{request.out} computes something else than {request.bundle}: {check.excess()};"
        f" {check.describe()}. Try {', '.join(tried)}, or a scheme of more bits"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
