"""Which language is spoken: the probabilities of the language tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.speech_info import SpeechInfo
from ..errors import InputError
from ..numerics import log_softmax
from .options import TranscriptionOptions


@dataclass(frozen=True)
class DetectedLanguage:
    """A language's code, its probability, and the probabilities of all of them.

    ``probabilities`` are in falling order.
    """

    language: str
    probability: float
    probabilities: dict[str, float]


def languages_in(logits: NDArray[np.float32], speech: SpeechInfo) -> list[DetectedLanguage]:
    """What is spoken in each window, from logits [B, V] after ``<|startoftranscript|>``."""
    codes = list(speech.languages)
    tokens = [speech.languages[code] for code in codes]
    found = []
    for row in np.exp(log_softmax(logits[:, tokens])):
        order = np.argsort(-row, kind="stable")
        probabilities = {codes[place]: float(row[place]) for place in order}
        best = codes[order[0]]
        found.append(DetectedLanguage(best, probabilities[best], probabilities))
    return found


def detect(windows: Iterable[DetectedLanguage], options: TranscriptionOptions) -> DetectedLanguage:
    """The first language that is probable enough, or the one of most windows.

    Args:
        windows: what is spoken in each, computed as they are asked for; at least one.
        options: ``language_detection_threshold`` and ``language_detection_segments``.
    """
    threshold, seen = options.language_detection_threshold, defaultdict(list)
    for number, found in enumerate(windows, 1):
        seen[found.language].append(found)
        if threshold is None or found.probability > threshold:
            return found
        if number == options.language_detection_segments:
            break
    most = max(seen.values(), key=len)
    return max(most, key=lambda one: one.probability)


def check_language(options: TranscriptionOptions, speech: SpeechInfo) -> None:
    """Refuse a language or a task that the model does not have.

    Raises:
        InputError: which, and what there is.
    """
    language, task = options.language, options.task
    if task not in ("transcribe", "translate"):
        raise InputError(f"task must be 'transcribe' or 'translate', not {task!r}")
    if not speech.languages:
        if language not in (None, "en"):
            raise InputError(f"the model knows English only, not language={language!r}")
        if options.multilingual:
            raise InputError("the model knows English only: no multilingual=True")
    elif language is not None and language not in speech.languages:
        from difflib import get_close_matches  # for this error alone

        near = get_close_matches(language, speech.languages, 1, 0)[0]
        raise InputError(
            f"the model knows no language {language!r}; the nearest code is {near!r}"
            f" (of {', '.join(sorted(speech.languages))})"
        )
    if task not in speech.tasks and task != "transcribe":
        raise InputError(f"the model only transcribes: no task={task!r}")
