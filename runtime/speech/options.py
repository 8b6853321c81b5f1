"""Options of a transcription: names of ``faster-whisper``, and its defaults where it has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import numpy as np

from ..audio.activity import DETECTORS, VadOptions
from ..errors import InputError
from ..generation.constraints import Choices, Regex
from ..generation.drafter import DraftModel
from ..generation.validation import is_integer


@dataclass(frozen=True)
class TranscriptionOptions:
    """How to transcribe. A call takes single fields as keywords.

    >>> model.transcribe("talk.wav", language="en", beam_size=1)

    Attributes:
        language: code of the language that is spoken ("en", "zh"); None: it is detected.
        task: "transcribe", or "translate" into English.
        beam_size: hypotheses of beam search at temperature 0; 1: greedy decoding.
        best_of: samples at a temperature above 0, of which the most probable is taken.
        patience: beam search ends when beam_size * patience hypotheses are complete (Kasai et al.
            2022); None: by transformers' rule, which compares complete ones with open ones.
        length_penalty: a beam's score is its log-probability / length ** length_penalty.
        repetition_penalty: scores of tokens already there are divided by it.
        no_repeat_ngram_size: no n-gram of tokens of this size occurs twice; 0: any may.
        temperature: one, or several to be tried in turn until a window's text passes
            ``compression_ratio_threshold`` and ``log_prob_threshold``. 0: no sampling.
        compression_ratio_threshold: a text with a higher ratio repeats itself and is tried again;
            None: any passes.
        log_prob_threshold: a text with a lower mean log-probability is tried again; None: any
            passes.
        no_speech_threshold: a window is silence if its probability of no speech is higher and its
            mean log-probability below ``log_prob_threshold``; None: no window is.
        condition_on_previous_text: the text of the windows before is the prompt of the next one.
        prompt_reset_on_temperature: text that took a higher temperature is no such prompt, nor is
            what was before it.
        initial_prompt: text (or token ids) that stands before the recording's beginning, for names
            and spelling.
        prefix: text that the first window begins with.
        suppress_blank: a text does not begin with a space or with its end.
        suppress_tokens: tokens that must not occur; -1 among them stands for the checkpoint's own
            (symbols that nobody speaks). None: none but the model's control tokens.
        without_timestamps: the model writes no timestamps; windows of 30 s follow each other.
        max_initial_timestamp: the first timestamp of a window is no later, in seconds; None: the
            checkpoint's own limit (1 s).
        word_timestamps: times of each word, from the cross-attention of the alignment heads.
        prepend_punctuations: signs that belong to the word after them.
        append_punctuations: signs that belong to the word before them.
        multilingual: the language is detected for each window.
        vad: silence is cut out before anything is decoded, and times are put back.
        vad_parameters: what counts as speech (:class:`seq2edge.runtime.audio.activity.VadOptions`,
            or a dictionary of its fields); None: its defaults.
        vad_detector: "silero" (of the package silero-vad), "energy" (how loud it is), or "auto":
            silero where it is installed.
        max_new_tokens: upper limit of tokens of a window; None: what the model has room for.
        clip_timestamps: the parts of the recording to transcribe: start, end, start, end ... in
            seconds; the last end may be missing.
        hotwords: words that are likely, in the prompt of every window.
        language_detection_threshold: detection reads on until a language is so probable.
        language_detection_segments: windows that it reads at most.
        batch_size: windows that are decoded at once, as independent recordings; None: one after
            the other.
        fit_window: the encoder reads the audio with 2 s of silence after it instead of a whole
            window of 30 s: faster for short audio, and rarely another text.
        constraint: what the text must look like, for commands: :class:`.Choices` or
            :class:`.Regex`. It needs ``without_timestamps``.
        seed: makes sampling repeatable.
        draft_model: a smaller loaded speech model of the same tokens, which proposes tokens that
            this one verifies: the text is greedy decoding's (``beam_size=1``), in fewer steps of
            the large model. It is not asked at temperatures above 0.
        num_assistant_tokens: tokens that it proposes a step.
    """

    language: str | None = None
    task: str = "transcribe"
    beam_size: int = 5
    best_of: int = 5
    patience: float | None = None
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    temperature: float | Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio_threshold: float | None = 2.4
    log_prob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = True
    prompt_reset_on_temperature: float = 0.5
    initial_prompt: str | Sequence[int] | None = None
    prefix: str | None = None
    suppress_blank: bool = True
    suppress_tokens: Sequence[int] | None = (-1,)
    without_timestamps: bool = False
    max_initial_timestamp: float | None = None
    word_timestamps: bool = False
    prepend_punctuations: str = "\"'“¿([{-"
    append_punctuations: str = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - they are full width
    multilingual: bool = False
    vad: bool = False
    vad_parameters: VadOptions | Mapping[str, Any] | None = None
    vad_detector: str = "auto"
    max_new_tokens: int | None = None
    clip_timestamps: str | Sequence[float] = ()
    hotwords: str | None = None
    language_detection_threshold: float | None = 0.5
    language_detection_segments: int = 1
    batch_size: int | None = None
    fit_window: bool = False
    constraint: Choices | Regex | None = None
    seed: int | None = None
    draft_model: DraftModel | None = None
    num_assistant_tokens: int = 5

    @property
    def temperatures(self) -> tuple[float, ...]:
        """``temperature``, always several."""
        value = self.temperature
        return tuple(map(float, value)) if isinstance(value, Iterable) else (float(value),)


class TranscriptionKeywords(TypedDict, total=False):
    """The fields of :class:`TranscriptionOptions`, for type checkers."""

    language: str | None
    task: str
    beam_size: int
    best_of: int
    patience: float | None
    length_penalty: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    temperature: float | Sequence[float]
    compression_ratio_threshold: float | None
    log_prob_threshold: float | None
    no_speech_threshold: float | None
    condition_on_previous_text: bool
    prompt_reset_on_temperature: float
    initial_prompt: str | Sequence[int] | None
    prefix: str | None
    suppress_blank: bool
    suppress_tokens: Sequence[int] | None
    without_timestamps: bool
    max_initial_timestamp: float | None
    word_timestamps: bool
    prepend_punctuations: str
    append_punctuations: str
    multilingual: bool
    vad: bool
    vad_parameters: VadOptions | Mapping[str, Any] | None
    vad_detector: str
    max_new_tokens: int | None
    clip_timestamps: str | Sequence[float]
    hotwords: str | None
    language_detection_threshold: float | None
    language_detection_segments: int
    batch_size: int | None
    fit_window: bool
    constraint: Choices | Regex | None
    seed: int | None
    draft_model: DraftModel | None
    num_assistant_tokens: int


#: What faster-whisper, openai-whisper and transformers call options that have another name here.
_OTHER_NAMES = {
    "assistant_model": "draft_model",
    "chunk_length": "batch_size",
    "compression_ratio": "compression_ratio_threshold",
    "condition_on_prev_tokens": "condition_on_previous_text",
    "logprob_threshold": "log_prob_threshold",
    "num_beams": "beam_size",
    "prompt_ids": "initial_prompt",
    "return_timestamps": "without_timestamps",
    "return_token_timestamps": "word_timestamps",
    "vad_filter": "vad",
}
#: Options of faster-whisper that do something which is not done here.
_NOT_DONE = {
    "hallucination_silence_threshold": "vad=True cuts silence out before it is heard",
    "log_progress": "progress is called with the seconds that are done",
}
#: Options that are integers, the smallest value of each, and whether it may be None.
_INTEGERS = {
    "beam_size": (1, False),
    "best_of": (1, False),
    "no_repeat_ngram_size": (0, False),
    "max_new_tokens": (1, True),
    "language_detection_segments": (1, False),
    "batch_size": (1, True),
    "seed": (0, True),
    "num_assistant_tokens": (1, False),
}
#: Options that are numbers: the smallest and the largest value, and whether it may be None.
_NUMBERS = {
    "patience": (1e-3, 1e6, True),
    "length_penalty": (-50.0, 50.0, False),
    "repetition_penalty": (1e-3, math.inf, False),
    "compression_ratio_threshold": (0.0, math.inf, True),
    "log_prob_threshold": (-math.inf, 0.0, True),
    "no_speech_threshold": (0.0, 1.0, True),
    "prompt_reset_on_temperature": (0.0, math.inf, False),
    "max_initial_timestamp": (0.0, 30.0, True),
    "language_detection_threshold": (0.0, 1.0, True),
}
_SWITCHES = (
    *("condition_on_previous_text", "suppress_blank", "without_timestamps", "word_timestamps"),
    *("multilingual", "vad", "fit_window"),
)
_TEXTS = {"prefix": True, "hotwords": True, "prepend_punctuations": False}
_TEXTS |= {"append_punctuations": False, "language": True, "task": False}
#: Options that are, or may be, a text: for callers whose values come as strings.
TEXT_OPTIONS = frozenset({*_TEXTS, "initial_prompt", "clip_timestamps", "vad_detector"})


def options_of(
    keywords: Mapping[str, Any], base: TranscriptionOptions | None = None
) -> TranscriptionOptions:
    """``base`` (None: the defaults) with ``keywords`` in place of its own values, checked.

    ``temperature`` and ``clip_timestamps`` become tuples, an ``initial_prompt`` of ids a list.

    Raises:
        InputError: there is no such option, with the nearest one; or each option that cannot be,
            its value and what is allowed.
    """
    names = {spec.name for spec in fields(TranscriptionOptions)}
    for name in keywords:
        if name in _NOT_DONE:
            raise InputError(f"there is no transcription option {name!r}: {_NOT_DONE[name]}")
        if name not in names:
            from difflib import get_close_matches  # for this error alone

            near = _OTHER_NAMES.get(name) or get_close_matches(name, names, 1, 0)[0]
            raise InputError(f"there is no transcription option {name!r}; the nearest is {near!r}")
    options = replace(base or TranscriptionOptions(), **keywords)
    problems = [
        *_integers(options),
        *_numbers(options),
        *_kinds(options),
        *_temperatures(options),
        *_clips(options),
    ]
    if not problems:
        problems += _contradictions(options)
    if problems:
        raise InputError("; ".join(problems))
    prompt = options.initial_prompt
    return replace(
        options,
        temperature=options.temperatures,
        vad_parameters=_vad(options.vad_parameters),
        clip_timestamps=_seconds(options.clip_timestamps),
        initial_prompt=prompt if prompt is None or isinstance(prompt, str) else list(prompt),
    )


def _integers(options: TranscriptionOptions) -> Iterable[str]:
    for name, (low, optional) in _INTEGERS.items():
        value = getattr(options, name)
        if value is None and optional:
            continue
        if not is_integer(value):
            yield f"{name} must be an integer, not {value!r}"
        elif value < low:
            yield f"{name} must be at least {low}, not {value}"


def _numbers(options: TranscriptionOptions) -> Iterable[str]:
    for name, (low, high, optional) in _NUMBERS.items():
        value = getattr(options, name)
        if value is None and optional:
            continue
        if not _is_number(value) or not low <= value <= high:
            bound = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
            if low == -math.inf:
                bound = f"of at most {high:g}"
            yield f"{name} must be a number {bound}, not {value!r}"


def _kinds(options: TranscriptionOptions) -> Iterable[str]:
    for name in _SWITCHES:
        if not isinstance(getattr(options, name), bool):
            yield f"{name} must be True or False, not {getattr(options, name)!r}"
    for name, optional in _TEXTS.items():
        value = getattr(options, name)
        if not isinstance(value, str) and not (value is None and optional):
            yield f"{name} must be a text, not {value!r}"
    tokens = options.suppress_tokens
    if tokens is not None and not _are_integers(tokens):
        yield f"suppress_tokens must be a list of token ids, or -1 for the model's, not {tokens!r}"
    prompt = options.initial_prompt
    if prompt is not None and not isinstance(prompt, str) and not _are_integers(prompt):
        yield f"initial_prompt must be a text or a list of token ids, not {prompt!r}"
    if options.draft_model is not None and not hasattr(options.draft_model, "manifest"):
        yield f"draft_model must be a loaded SpeechModel, not {options.draft_model!r}"
    if options.vad_detector not in DETECTORS:
        yield f"vad_detector must be one of {', '.join(DETECTORS)}, not {options.vad_detector!r}"
    if not isinstance(options.vad_parameters, (VadOptions, Mapping, type(None))):
        yield f"vad_parameters must be VadOptions or a dictionary, not {options.vad_parameters!r}"
    if not isinstance(options.constraint, (Choices, Regex, type(None))):
        yield f"constraint must be Choices or Regex, not {options.constraint!r}"


def _temperatures(options: TranscriptionOptions) -> Iterable[str]:
    value: Any = options.temperature
    several = [value] if _is_number(value) else value
    if (
        isinstance(several, (str, bytes))
        or not isinstance(several, Iterable)
        or not (several := list(several))
        or not all(_is_number(one) and 0 <= one < math.inf for one in several)
    ):
        yield f"temperature must be a number of at least 0, or a list of such, not {value!r}"


def _clips(options: TranscriptionOptions) -> Iterable[str]:
    value = options.clip_timestamps
    try:
        seconds = _seconds(value)
    except (TypeError, ValueError):
        seconds = (-1.0,)
    if any(not 0 <= second < math.inf for second in seconds) or list(seconds) != sorted(seconds):
        yield (
            "clip_timestamps must be seconds that ascend (start, end, start, end ...), as a list or"
            f" separated by commas, not {value!r}"
        )


def _contradictions(options: TranscriptionOptions) -> Iterable[str]:
    if options.constraint is not None and not options.without_timestamps:
        yield "a constraint is about the whole text: it needs without_timestamps=True"
    if options.draft_model is not None and options.beam_size > 1:
        yield (
            f"draft_model works with greedy decoding only, not with beam_size={options.beam_size}:"
            " set beam_size=1"
        )
    if options.vad and options.clip_timestamps:
        yield "clip_timestamps are times of the whole recording: they do not go with vad=True"
    if not options.vad and options.vad_parameters is not None:
        yield "vad_parameters need vad=True"
    if options.batch_size is not None and options.prefix:
        yield "prefix is what the first window begins with, and a batch has no first one"


def _vad(value: VadOptions | Mapping[str, Any] | None) -> VadOptions | None:
    """Options of a dictionary.

    Raises:
        InputError: there is no such option, or an impossible value.
    """
    if not isinstance(value, Mapping):
        return value
    names = [spec.name for spec in fields(VadOptions)]
    for name in value:
        if name not in names:
            from difflib import get_close_matches

            near = get_close_matches(str(name), names, 1, 0)[0]
            raise InputError(f"vad_parameters have no {name!r}; the nearest is {near!r}")
    return VadOptions(**value)


def _seconds(value: str | Sequence[float]) -> tuple[float, ...]:
    parts = [part for part in value.split(",") if part] if isinstance(value, str) else value
    return tuple(map(float, parts))


def _are_integers(values: object) -> bool:
    return (
        isinstance(values, (Sequence, np.ndarray))
        and not isinstance(values, (str, bytes))
        and all(map(is_integer, values))
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
