"""What an engine of fixed shapes can take: checked before a call runs, never in the middle."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ..backends.limits import Limits
from ..errors import InputError
from .config import GenerationConfig


def forced_tokens(config: GenerationConfig, new_tokens: int) -> tuple[int, ...]:
    """Tokens of the decoder prompt that count as generated.

    As in transformers: a single token is the forced end rather than the forced BOS, and a
    prompt of the caller's own replaces the forced BOS. Which of several tokens comes first is
    for the scores to say.
    """
    bos = config.forced_bos_token_id
    ends_at_once = config.forced_eos_token_id is not None and new_tokens == 1
    starts = not config.decoder_prefix and not ends_at_once
    return (bos,) if isinstance(bos, int) and starts else ()


def guessed_tokens(config: GenerationConfig) -> int | None:
    """Tokens that speculative decoding guesses a step at most; None: it is off."""
    if config.draft_model is not None:
        return config.num_assistant_tokens
    return config.prompt_lookup_num_tokens


def num_tokens_of(config: GenerationConfig) -> int:
    """Tokens of a sequence in one step: beams, samples, or the last token with a guess."""
    guessed = guessed_tokens(config)
    if guessed is not None:
        return 1 + guessed
    return config.num_beams if config.num_beams > 1 else config.num_return_sequences


def steps_after(new_tokens: int, forced: int) -> int:
    """Steps of each hypothesis after the prompt, which the forced BOS is run with."""
    # The last token is never run, so it needs no slot.
    return max(0, new_tokens - forced - 1)


def slots_of(config: GenerationConfig, new_tokens: int, prompt_length: int = 1) -> int:
    """Cache slots that a source with a decoder prompt of so many tokens needs at most."""
    forced = len(forced_tokens(config, new_tokens))
    prompt = prompt_length + len(config.decoder_prefix) + forced
    steps = steps_after(new_tokens, forced)
    if guessed_tokens(config) is not None:
        # Beside another source's guess, one that has all its tokens runs as many once more.
        return prompt + steps + num_tokens_of(config)
    return prompt + num_tokens_of(config) * steps


def fitted_new_tokens(
    limits: Limits, config: GenerationConfig, new_tokens: int, prompt_length: int = 1
) -> int:
    """``new_tokens``, or fewer if nobody asked for so many and there are not slots enough.

    Raises:
        InputError: what was asked for does not fit; with what would.
    """
    num_tokens, slots = num_tokens_of(config), limits.max_target_length
    if num_tokens > limits.max_num_tokens:
        what = "num_beams" if config.num_beams > 1 else "num_return_sequences"
        if config.prompt_lookup_num_tokens is not None:
            what = "1 + prompt_lookup_num_tokens"
        if config.draft_model is not None:
            what = "1 + num_assistant_tokens"
        raise InputError(
            f"{what}={num_tokens} tokens a step are more than the {limits.max_num_tokens} that the"
            f" engine was built for; ask for fewer, or build it with --max-num-tokens {num_tokens}"
        )
    needed = slots_of(config, new_tokens, prompt_length)
    if needed <= slots:
        return new_tokens
    # Each further token takes as many slots as the one before, or more.
    most = bisect_right(
        range(1, new_tokens), slots, key=lambda n: slots_of(config, n, prompt_length)
    )
    if most and config.max_new_tokens is None:
        return most
    ways = []
    if most:
        ways.append(f"ask for at most {most} new tokens")
    if num_tokens > 1:
        ways.append("ask for fewer beams, samples or guessed tokens")
    if config.decoder_prefix:
        ways.append("give a shorter decoder_prefix")
    ways.append(f"build it with --max-target-length {needed}")
    raise InputError(
        f"max_new_tokens={new_tokens} with {num_tokens} tokens per step need {needed} cache slots,"
        f" and the engine was built for {slots}; {', or '.join(ways)}"
    )


def check_sources(limits: Limits, lengths: Sequence[int]) -> None:
    """Refuse sources that are too long for the engine.

    Raises:
        InputError: which, and what to do.
    """
    for number, length in enumerate(lengths):
        if length > limits.max_source_length:
            raise InputError(
                f"source {number} has {length} tokens, and the engine was built for"
                f" {limits.max_source_length}; build it with --max-source-length {length}"
            )
