"""Options of generation: names, meanings and defaults of ``transformers``' ``GenerationConfig``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..errors import InputError

if TYPE_CHECKING:
    from .constraints import Constraint

#: New tokens when neither the caller nor the checkpoint's generation_config says how many.
DEFAULT_MAX_NEW_TOKENS = 256

#: Edits next-token scores: (token_ids [rows, length] int64 with the decoder start token,
#: scores [rows, V] float32) -> scores [rows, V] float32. It may edit ``scores`` in place.
LogitsProcessor = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]

#: (index of the source, tokens of one hypothesis [length] int64) -> tokens that may follow.
PrefixAllowedTokens = Callable[[int, NDArray[np.int64]], Sequence[int]]


@dataclass(frozen=True)
class GenerationConfig:
    """How to decode. Take the bundle's own with ``dataclasses.replace``:

    >>> config = replace(model.generation_config, num_beams=4)

    Lengths are in tokens. Where ``transformers`` has the option it has the same name, default
    and effect here; those that it lacks say so.

    Attributes:
        max_new_tokens: upper limit of tokens after the decoder prompt, the end token included;
            None: the bundle's own ``max_length``, as far as the model has positions.
        min_new_tokens: no end token before so many new tokens.
        min_length: as ``min_new_tokens``, the decoder prompt counted in.
        max_time: seconds after which a batch stops, with what it has.
        stop_strings: texts that end a sequence; the text keeps them.
        num_beams: hypotheses a source that beam search keeps; 1: no beam search.
        num_return_sequences: results a source: the best beams, or so many samples.
        length_penalty: a beam's score is its log-probability / length ** length_penalty.
        early_stopping: when a beam search of a source ends. False: when the best open beam,
            at its present length, is worse than the worst of ``num_beams`` finished ones;
            True: when ``num_beams`` are finished; "never": when no open beam can win.
        do_sample: draw tokens instead of taking the most probable one.
        temperature: logits are divided by it (sampling).
        top_k: only the k most probable tokens may be drawn; 0: all.
        top_p: only the most probable tokens that together have this probability may be drawn.
        min_p: only tokens at least this fraction as probable as the best one may be drawn.
        seed: makes sampling repeatable: one source gives the same samples whatever else is in
            its batch (not in ``transformers``). None: another draw every time.
        repetition_penalty: scores of tokens already there are divided by it (multiplied
            where negative).
        no_repeat_ngram_size: no n-gram of this size occurs twice; 0: any may.
        encoder_no_repeat_ngram_size: no n-gram of this size of the source occurs; 0: any may.
        bad_words_ids: token sequences that must not occur.
        suppress_tokens: tokens that must not occur.
        begin_suppress_tokens: tokens that must not come first.
        forced_bos_token_id: the first generated token (BART, language codes).
        decoder_start_token_id: what the decoder starts with, in place of the bundle's.
        source_lang: code of the language of the sources; None: the one that the checkpoint
            assumes (not in ``transformers``, whose tokenizers have ``src_lang``).
        target_lang: code of the language to write; it sets ``forced_bos_token_id``,
            ``decoder_start_token_id`` or a token of the source, as the model was trained (not in
            ``transformers``).
        forced_eos_token_id: the token put in the last place when ``max_new_tokens`` is
            reached (BART).
        logit_bias: token id -> what is added to its score (``sequence_bias`` there).
        prefix_allowed_tokens: :data:`PrefixAllowedTokens`; ``prefix_allowed_tokens_fn`` there.
        logits_processors: the caller's own :data:`LogitsProcessor`, after all others.
        constraint: what the whole text must look like: :class:`.Choices`, :class:`.Regex` or
            :class:`.JsonSchema` (not in ``transformers``).
        prompt_lookup_num_tokens: propose up to so many tokens a step by n-gram match in source
            and output, and verify them; the result is greedy decoding's. None: off.
        max_matching_ngram_size: longest n-gram that is matched for that.
        decoder_prefix: token ids put after the decoder start token, before anything is
            generated; they are part of the result and do not count as new
            (``decoder_input_ids`` there).
        return_scores: also compute each sequence's log-probability (beam search always does).
            It reads all logits of every step, which plain greedy decoding does not.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    max_time: float | None = None
    stop_strings: tuple[str, ...] = ()
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    forced_eos_token_id: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    prefix_allowed_tokens: PrefixAllowedTokens | None = None
    logits_processors: tuple[LogitsProcessor, ...] = ()
    constraint: Constraint | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int = 2
    decoder_prefix: tuple[int, ...] = ()
    return_scores: bool = False

    @classmethod
    def of_bundle(cls, manifest: Manifest) -> GenerationConfig:
        """The checkpoint's own options, as its bundle carries them.

        ``max_length`` and ``max_new_tokens`` stay with the bundle (see :func:`new_tokens`):
        what they allow depends on the prefix.

        Raises:
            InputError: an option of the bundle that makes no sense.
        """
        known = {spec.name for spec in fields(cls)} - {"max_new_tokens"}
        values: dict[str, Any] = {
            name: _frozen(value)
            for name, value in manifest.generation.items()
            if name in known and value is not None
        }
        return cls(**values)


def new_tokens(config: GenerationConfig, manifest: Manifest, lead: int = 1) -> int:
    """How many tokens may follow the decoder prompt.

    Args:
        lead: tokens before the prefix: the start token, or without an encoder the source.

    Raises:
        InputError: a limit below 1, or beyond what the model has positions for.
    """
    limit = manifest.dimensions.max_target_length
    # Each token of the prompt takes a position, and the last new token needs none.
    taken = lead - 1 + len(config.decoder_prefix)
    room = None if limit is None else limit - taken
    wanted = config.max_new_tokens
    if wanted is None:
        wanted = _default_new_tokens(manifest, taken)
        if room is not None:
            wanted = min(wanted, max(room, 1))
    if room is not None and wanted > room:
        raise InputError(
            f"max_new_tokens={wanted} is more than the model allows: it has {limit} target"
            f" positions, {taken} of them taken by the {'prefix' if lead == 1 else 'longest text'};"
            f" ask for at most {max(room, 0)}"
        )
    return wanted


def _default_new_tokens(manifest: Manifest, taken: int) -> int:
    for name in ("max_new_tokens", "max_length"):
        value = manifest.generation.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(
                f"the bundle's own {name} is {value!r}, and must be an integer of at least 1;"
                " set max_new_tokens"
            )
        # transformers counts the whole decoder prompt in max_length.
        return value if name == "max_new_tokens" else max(1, value - 1 - taken)
    return DEFAULT_MAX_NEW_TOKENS


def _frozen(value: Any) -> Any:
    """Lists of a manifest as tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
