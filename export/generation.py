"""Special tokens and generation defaults of a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from seq2edge.runtime.bundle import generation_options
from seq2edge.runtime.bundle import hf_config as configs
from seq2edge.runtime.bundle.manifest import Manifest, SpecialTokens
from seq2edge.runtime.errors import BundleError, InputError
from seq2edge.runtime.generation.config import GenerationConfig, new_tokens
from seq2edge.runtime.generation.validation import check

from .checkpoint import Checkpoint
from .errors import CheckpointError
from .families.base import Config
from .spec import ModelSpec


def generation_defaults(
    checkpoint: Checkpoint, config: Config, *, hears: bool = False
) -> dict[str, Any]:
    """The checkpoint's own generation options; generation_config.json wins as a whole.

    Warns of those that the bundle will not honour, by name. Of a model that ``hears``, those that
    the manifest's ``speech`` is made of, or that each call says anew, are no generation options.
    """
    options = checkpoint.generation_config
    if hears:
        options = {name: value for name, value in options.items() if name not in _SPEECH_OPTIONS}
    for text in generation_options.warnings_about(options, config.get):
        warnings.warn(text, stacklevel=3)
    return generation_options.generation_defaults(options, config.get)


#: Of Whisper's generation_config.json: what became the manifest's ``speech``, and what a call says
#: (language, task, times), or its decoder prompt does.
_SPEECH_OPTIONS = frozenset(
    (
        "alignment_heads",
        "condition_on_prev_tokens",
        "forced_decoder_ids",
        "is_multilingual",
        "lang_to_id",
        "language",
        "max_initial_timestamp_index",
        "no_timestamps_token_id",
        "prev_sot_token_id",
        "prompt_condition_type",
        "return_timestamps",
        "task",
        "task_to_id",
    )
)


def warn_of_unusable_options(manifest: Manifest) -> None:
    """Warn if calls that set no options of their own would be refused for the checkpoint's."""
    if manifest.single_stack == "encoder":
        return
    try:
        own = check(GenerationConfig.of_bundle(manifest), manifest)
        new_tokens(own, manifest)
    except InputError as error:
        reason = str(error)
    else:
        if not own.stop_strings or manifest.tokenizer.kind != "none":
            return
        reason = "stop_strings are about text, and the bundle has no tokenizer"
    warnings.warn(
        "the checkpoint's own generation options cannot work as they are, and a call is refused"
        f" unless it sets them: {reason}",
        stacklevel=4,
    )


def special_tokens(checkpoint: Checkpoint, config: Config, spec: ModelSpec) -> SpecialTokens:
    """Pad, end and decoder start tokens.

    An encoder-only model has no end, and a decoder-only model starts with the text: their start is
    a token that is there. The pad token is that of sources, where a pair's two sides have other
    ones.

    Raises:
        CheckpointError: one that is not set, or lies outside the vocabulary.
    """
    generation = dict(checkpoint.generation_config)
    encoder = config.get("encoder")
    if isinstance(encoder, Mapping) and encoder.get("pad_token_id") is not None:
        generation["pad_token_id"] = encoder["pad_token_id"]

    def get(name: str) -> Any:
        if spec.decoder is None:
            return config.get("pad_token_id") or 0
        value = config.get(name)
        starts_itself = value is None and spec.encoder is None and name == "bos_token_id"
        return config.get("eos_token_id") if starts_itself else value

    size, rows = spec.vocab_size, spec.source_rows
    try:
        tokens = configs.special_tokens(generation, get, max(size, rows), checkpoint.directory)
    except BundleError as error:
        raise CheckpointError(str(error)) from None
    outside = [token for token in (tokens.decoder_start, *tokens.eos) if token >= size]
    if outside or tokens.pad >= rows:
        raise CheckpointError(
            f"special tokens {outside or [tokens.pad]} lie outside the vocabulary of"
            f" {size if outside else rows}"
        )
    if spec.encoder is None or spec.decoder is None or isinstance(encoder, Mapping):
        # transformers takes a decoder's pad token for padding even where it is the bos token; a
        # pair's bos token is its decoder's.
        tokens = replace(tokens, bos=None)
    if spec.decoder is not None:
        return tokens
    # Nothing ends with an encoder's states; without a pad token nothing in its sources is padding.
    return replace(tokens, eos=() if config.get("pad_token_id") is not None else (tokens.pad,))
