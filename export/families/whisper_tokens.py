"""What Whisper's special tokens are: by generation_config.json, else by the vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from seq2edge.runtime.bundle.speech_info import SpeechInfo

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..spec import ModelSpec

_FILE = "generation_config.json"
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_TASKS = ("transcribe", "translate")
#: The first vocabulary that was trained on other languages than English; of a model that does not
#: say, as in OpenAI's code.
_MULTILINGUAL_VOCABULARY = 51865


def whisper_speech(
    spec: ModelSpec, checkpoint: Checkpoint, vocabulary: Mapping[str, int]
) -> SpeechInfo:
    """The manifest's ``speech``.

    Args:
        spec: the model.
        checkpoint: its files; older folders lack what follows in generation_config.json.
        vocabulary: the tokenizer's tokens and their ids; {}: there is no tokenizer.

    Raises:
        CheckpointError: neither of the two has the tokens that Whisper cannot do without.
    """
    if spec.log_mel is None:
        raise TypeError("Whisper reads a spectrogram")
    settings, positions = checkpoint.generation_config, spec.max_source_length or 0
    no_timestamps = _token(settings, "no_timestamps_token_id", vocabulary, "<|notimestamps|>")
    if no_timestamps is None:
        raise CheckpointError(
            f"{checkpoint.directory}: neither {_FILE} (no_timestamps_token_id) nor a tokenizer"
            " says which token is <|notimestamps|>; put the model's tokenizer files or its"
            f" {_FILE} into the folder"
        )
    # In this order in every vocabulary: <|startofprev|>, <|nospeech|>, <|notimestamps|>, <|0.00|>.
    no_speech = vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>", no_timestamps - 1))
    previous = _token(settings, "prev_sot_token_id", vocabulary, "<|startofprev|>")
    multilingual = settings.get("is_multilingual")
    if multilingual is None:
        multilingual = "lang_to_id" in settings or spec.vocab_size >= _MULTILINGUAL_VOCABULARY
    languages, tasks = _languages(settings, vocabulary), _tasks(settings, vocabulary)
    if multilingual and not languages:
        raise CheckpointError(
            f"{checkpoint.directory}: the model knows several languages, and neither {_FILE}"
            " (lang_to_id) nor a tokenizer says which; put the model's tokenizer files into the"
            " folder"
        )
    largest = settings.get("max_initial_timestamp_index")
    info = SpeechInfo(
        sampling_rate=spec.log_mel.sampling_rate,
        mel_bins=spec.log_mel.mel_bins,
        hop_length=spec.log_mel.hop_length,
        window_frames=2 * positions,
        frames_per_position=2,
        languages=languages if multilingual else {},
        tasks=tasks if multilingual else {},
        no_timestamps=no_timestamps,
        timestamp_begin=no_timestamps + 1,
        no_speech=no_speech,
        previous_text=no_timestamps - 2 if previous is None else previous,
        max_initial_timestamp_index=largest if isinstance(largest, int) else None,
        alignment_heads=spec.alignment_heads,
    )
    _check(info, spec.vocab_size)
    return info


def _token(
    settings: Mapping[str, Any], key: str, vocabulary: Mapping[str, int], text: str
) -> int | None:
    value = settings.get(key)
    if value is None:
        return vocabulary.get(text)
    return _id(key, value)


def _id(key: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise CheckpointError(f"{_FILE}: {key} must be a token id, not {value!r}")


def _table(settings: Mapping[str, Any], key: str) -> dict[str, int] | None:
    value = settings.get(key)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{_FILE}: {key} must map names to token ids, not {value!r}")
    return {str(name): _id(key, token) for name, token in value.items()}


def _languages(settings: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, int]:
    table = _table(settings, "lang_to_id")
    found = vocabulary if table is None else table
    codes = [
        (token, match[1]) for text, token in found.items() if (match := _LANGUAGE.fullmatch(text))
    ]
    return {code: token for token, code in sorted(codes)}


def _tasks(settings: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[str, int]:
    table = _table(settings, "task_to_id")
    if table is not None:
        return table
    return {name: vocabulary[f"<|{name}|>"] for name in _TASKS if f"<|{name}|>" in vocabulary}


def _check(info: SpeechInfo, vocab_size: int) -> None:
    tokens = {
        "no_timestamps_token_id": info.no_timestamps,
        "prev_sot_token_id": info.previous_text,
        **{f"lang_to_id of {name}": token for name, token in info.languages.items()},
        **{f"task_to_id of {name}": token for name, token in info.tasks.items()},
    }
    outside = [
        f"{name} {token}"
        for name, token in tokens.items()
        if token is not None and not 0 <= token < vocab_size
    ]
    if outside:
        raise CheckpointError(
            f"{_FILE}: tokens lie outside the vocabulary of {vocab_size}: {', '.join(outside)}"
        )
