"""The most that engines of fixed shapes can take: batch, lengths, tokens per step."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..bundle.manifest import DTYPE_BITS, Dimensions, GraphInfo
from ..errors import InputError

#: Lengths that engines are made for where nothing is said and the model allows it.
_SOURCE_LENGTH, _TARGET_LENGTH, _QUERIES = 512, 256, 8
#: Positions of the encoder where a model takes sound of any length: 30 s of Whisper's.
_SPEECH_LENGTH = 1500

#: TensorRT counts sizes in 32 bits.
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """The most that an engine can take.

    Attributes:
        max_batch: sources at once.
        max_source_length: source tokens.
        max_target_length: T, slots of the self-attention cache. Greedy decoding fills one a
            token, beam search up to one a token and beam.
        max_num_tokens: tokens of one sequence in one decoder run: beams, samples, a prompt or a
            draft.
    """

    max_batch: int
    max_source_length: int
    max_target_length: int
    max_num_tokens: int

    @classmethod
    def of(
        cls,
        dimensions: Dimensions,
        *,
        max_batch: int | None = None,
        max_source_length: int | None = None,
        max_target_length: int | None = None,
        max_num_tokens: int | None = None,
        speech: bool = False,
    ) -> Limits:
        """Limits for a model. None: 1 source of 512 tokens, 256 slots and 8 queries, or what
        the model allows, if that is less.

        Args:
            speech: sources are windows of sound: they and their texts may be as long as the model
                allows.

        Raises:
            InputError: a limit below 1, or above what the model can use.
        """
        most_source, most_target = dimensions.max_source_length, dimensions.max_target_length
        source, slots = _least(_SOURCE_LENGTH, most_source), _least(_TARGET_LENGTH, most_target)
        if speech:
            source, slots = most_source or _SPEECH_LENGTH, most_target or slots
        limits = cls(
            max_batch=1 if max_batch is None else max_batch,
            max_source_length=source if max_source_length is None else max_source_length,
            max_target_length=slots if max_target_length is None else max_target_length,
            max_num_tokens=min(_QUERIES, max_target_length or slots)
            if max_num_tokens is None
            else max_num_tokens,
        )
        check_limits(limits, dimensions)
        return limits


def check_limits(limits: Limits, dimensions: Dimensions) -> None:
    """Refuse limits that the model cannot use.

    Raises:
        InputError: a limit below 1 or of more than 31 bits, more source tokens than the model
            allows, more slots than ``max_num_tokens`` targets of the model's length fill, or more
            queries than slots.
    """
    for name, value in asdict(limits).items():
        if not 1 <= value <= _LARGEST:
            raise InputError(f"{name}={value} must be at least 1 and at most {_LARGEST}")
    most = dimensions.max_source_length
    if most is not None and limits.max_source_length > most:
        raise InputError(
            f"max_source_length={limits.max_source_length} is more than the model's {most}"
        )
    most = dimensions.max_target_length
    if most is not None and limits.max_target_length > most * limits.max_num_tokens:
        raise InputError(
            f"max_target_length={limits.max_target_length} is more than the model can use: its"
            f" targets have at most {most} tokens, and there are {limits.max_num_tokens} queries"
        )
    if limits.max_num_tokens > limits.max_target_length:
        raise InputError(
            f"max_num_tokens={limits.max_num_tokens} tokens of a step do not fit into"
            f" max_target_length={limits.max_target_length} slots"
        )


def _least(value: int, most: int | None) -> int:
    return value if most is None else min(value, most)


def cache_bytes(decoder: GraphInfo, batch_size: int, slots: int, source_length: int) -> int:
    """Bytes of the keys and values that a decoder with slots reads, its own and the source's."""
    lengths = {"past_": slots, "cross_": source_length}
    total = 0
    for spec in decoder.inputs:
        for prefix, length in lengths.items():
            if spec.name.startswith((f"{prefix}key.", f"{prefix}value.")):
                heads, head_dim = int(spec.shape[1]), int(spec.shape[3])
                total += batch_size * heads * length * head_dim * DTYPE_BITS[spec.dtype] // 8
    return total
