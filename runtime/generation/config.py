"""Options of generation: names, meanings and defaults of ``transformers``' ``GenerationConfig``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..bundle.manifest import Manifest
from ..errors import InputError
from .constraints import Constraint
from .drafter import DraftModel
from .processor import LogitsProcessor, PrefixAllowedTokens, SequenceBias

#: New tokens when neither the caller nor the checkpoint's generation_config says how many.
DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class GenerationConfig:
    """How to decode. A call takes one, or single fields as keywords, in place of the bundle's own:

    >>> model.generate(texts, num_beams=4)
    >>> config = replace(model.generation_config, num_beams=4)  # dataclasses.replace
    >>> model.generate(texts, config)

    Lengths are in tokens. Where ``transformers`` has the option it has the same name, default
    and effect here; those that it lacks say so.

    Attributes:
        max_new_tokens: upper limit of tokens after the decoder prompt, the end token included;
            None: ``max_length``, or else the bundle's own limit, as far as the model has
            positions, or else 256 (``transformers``: 20).
        max_length: as ``max_new_tokens``, the decoder prompt (its start token, and without an
            encoder the source) counted in; ``max_new_tokens`` wins, the bundle's own too.
        min_new_tokens: no end token before so many new tokens; it replaces ``min_length``.
        min_length: as ``min_new_tokens``, the decoder prompt counted in.
        max_time: seconds after which a batch stops, with what it has.
        stop_strings: texts that end a sequence; the text keeps them.
        num_beams: hypotheses a source that beam search keeps; 1: no beam search.
        num_return_sequences: results a source: the best beams, or so many samples.
        length_penalty: a beam's score is its log-probability / length ** length_penalty.
        early_stopping: when a beam search of a source ends. False: when the best open beam,
            at its present length, is worse than the worst of ``num_beams`` finished ones;
            True: when ``num_beams`` are finished; "never": when no open beam can win.
        patience: a beam search ends when num_beams * patience sequences are finished, whatever
            ``early_stopping`` says; None: as that says (not in ``transformers``).
        do_sample: draw tokens instead of taking the most probable one; with beams, draw the
            continuations of all beams together, without replacement. Without it the options from
            here to ``eta_cutoff`` are not looked at.
        temperature: logits are divided by it.
        top_h: only the most probable tokens that together have this share of the entropy of the
            100 most probable ones may be drawn; None: any.
        top_k: only the k most probable tokens may be drawn; 0: all.
        top_p: only the most probable tokens that together have this probability may be drawn.
        min_p: only tokens at least this fraction as probable as the best one may be drawn.
        typical_p: only the tokens nearest to the expected information content that together
            have this mass may be drawn; 1: any.
        epsilon_cutoff: only tokens at least so probable may be drawn; 0: any.
        eta_cutoff: the same, with a bound that falls with the entropy; 0: any.
        seed: makes sampling repeatable: one source gives the same samples whatever else is in
            its batch (not in ``transformers``). None: another draw every time.
        repetition_penalty: scores of tokens already there are divided by it (multiplied
            where negative).
        encoder_repetition_penalty: scores of tokens of the source are multiplied by it (divided
            where negative). Padding counts for no source (``transformers`` takes it for a token).
        no_repeat_ngram_size: no n-gram of this size occurs twice; 0: any may.
        encoder_no_repeat_ngram_size: no n-gram of this size of the source occurs; 0: any may.
        bad_words_ids: token sequences that must not occur.
        suppress_tokens: tokens that must not occur.
        begin_suppress_tokens: tokens that must not come first.
        forced_bos_token_id: the first generated token (BART, language codes); of several, any.
        decoder_start_token_id: what the decoder starts with, in place of the bundle's.
        source_lang: code of the language of the sources; None: the one that the checkpoint
            assumes (not in ``transformers``, whose tokenizers have ``src_lang``).
        target_lang: code of the language to write; it sets ``forced_bos_token_id``,
            ``decoder_start_token_id`` or a token of the source, as the model was trained (not in
            ``transformers``).
        forced_eos_token_id: the token put in the last place when ``max_new_tokens`` is
            reached (BART); of several, any.
        exponential_decay_length_penalty: (start, factor): after so many new tokens the score of
            an end token grows by its magnitude x (factor ** tokens since - 1).
        sequence_bias: what is added to the score of a token that completes a sequence of tokens:
            {(5, 6): -2.0} or [[[5, 6], -2.0]], and {7: 1.0} for {(7,): 1.0}.
        remove_invalid_values: scores that are nan become 0, infinite ones the largest finite
            ones.
        renormalize_logits: beam search sums log-probabilities that are normalized again after
            all other options have edited them.
        prefix_allowed_tokens: :data:`PrefixAllowedTokens`; ``prefix_allowed_tokens_fn`` there.
        logits_processors: the caller's own :data:`LogitsProcessor`, after all others.
        constraint: what the whole text must look like: :class:`.Choices`, :class:`.Regex` or
            :class:`.JsonSchema` (not in ``transformers``).
        prompt_lookup_num_tokens: propose up to so many tokens a step by n-gram match in source
            and output, and verify them; the result is greedy decoding's. None: off.
        max_matching_ngram_size: longest n-gram that is matched for that.
        draft_model: a smaller loaded model of the same tokens, which proposes tokens that this one
            verifies; the result is greedy decoding's (``assistant_model`` there).
        num_assistant_tokens: tokens that it proposes a step (``transformers``: 20, or fewer where
            the draft is unsure).
        decoder_prefix: token ids put after the decoder start token, before anything is
            generated; they are part of the result and do not count as new
            (``decoder_input_ids`` there).
        return_scores: also compute each sequence's log-probability (beam search always does).
            It reads all logits of every step, which plain greedy decoding does not.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    max_time: float | None = None
    stop_strings: tuple[str, ...] = ()
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    patience: float | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_h: float | None = None
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | tuple[int, ...] | None = None
    decoder_start_token_id: int | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    sequence_bias: SequenceBias = ()
    remove_invalid_values: bool = False
    renormalize_logits: bool | None = None
    prefix_allowed_tokens: PrefixAllowedTokens | None = None
    logits_processors: tuple[LogitsProcessor, ...] = ()
    constraint: Constraint | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int = 2
    draft_model: DraftModel | None = None
    num_assistant_tokens: int = 5
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
        known = {spec.name for spec in fields(cls)} - {"max_new_tokens", "max_length"}
        values: dict[str, Any] = {
            name: _frozen(value)
            for name, value in manifest.generation.items()
            if name in known and value is not None
        }
        return cls(**values)


def new_tokens(config: GenerationConfig, manifest: Manifest, prompt_length: int = 1) -> int:
    """How many tokens may follow the decoder prompt.

    Args:
        lead: tokens before the prefix: the start token, or without an encoder the source.

    Raises:
        InputError: a limit below 1, or beyond what the model has positions for.
    """
    limit = manifest.dimensions.max_target_length
    # Each token of the prompt takes a position, and the last new token needs none.
    taken = prompt_length - 1 + len(config.decoder_prefix)
    room = None if limit is None else limit - taken
    asked, name = config.max_new_tokens, "max_new_tokens"
    before = 0  # tokens that the limit counts in
    if asked is None and _own_limit(manifest, "max_new_tokens") is None:
        asked, name, before = config.max_length, "max_length", 1 + taken
    if asked is None:
        asked, name, before = _default_new_tokens(manifest, taken), "max_new_tokens", 0
        if room is not None:
            asked = min(asked, max(room, 1))
    if asked <= before:
        raise InputError(
            f"max_length={asked} leaves no room after the {before} tokens of the decoder prompt;"
            " give a larger one, or max_new_tokens"
        )
    if room is not None and asked - before > room:
        what = "prefix" if prompt_length == 1 else "longest text"
        raise InputError(
            f"{name}={asked} is more than the model allows: it has {limit} target"
            f" positions, {taken} of them taken by the {what};"
            f" ask for at most {max(room + before, 0)}"
        )
    return asked - before


def _default_new_tokens(manifest: Manifest, taken: int) -> int:
    limit = _own_limit(manifest, "max_new_tokens")
    if limit is not None:
        return limit
    limit = _own_limit(manifest, "max_length")
    return DEFAULT_MAX_NEW_TOKENS if limit is None else max(1, limit - 1 - taken)


def _own_limit(manifest: Manifest, name: str) -> int | None:
    """A limit that the checkpoint's generation_config sets."""
    value = manifest.generation.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise InputError(
        f"the bundle's own {name} is {value!r}, and must be an integer of at least 1;"
        " set max_new_tokens"
    )


def _frozen(value: Any) -> Any:
    """Lists of a manifest as tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
