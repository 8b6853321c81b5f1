"""Recordings to evaluate on: JSON lines whose sources are audio files, and targets their texts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import InputError
from seq2edge.runtime.progress import CountProgress

from .data import Example, read_examples

#: Samples that are read at once: 30 s.
_PIECE = 30 * 16000
#: Files that a message names, at most.
_NAMED = 5


@dataclass(frozen=True)
class Recording(Example):
    """An audio file and the texts that are right for it.

    Attributes:
        source: its path as the data have it.
        path: of the file.
        seconds: its length.
    """

    path: Path = field(kw_only=True)
    seconds: float = field(kw_only=True)


def read_recordings(
    path: str | os.PathLike[str],
    limit: int | None = None,
    *,
    encoding_errors: str = "strict",
    progress: CountProgress | None = None,
) -> list[Recording]:
    """The recordings of a file of JSON lines, see :func:`.read_examples`; each is read to its end.

    A relative path counts from the folder of the file that names it.

    Args:
        path, limit, encoding_errors: as of :func:`.read_examples`.
        progress: called after each recording.

    Raises:
        InputError: as :func:`.read_examples`; or audio that is missing, broken or empty, with the
            line of each.
        MissingDependencyError: a format that needs PyAV.
    """
    file = Path(path)
    examples = read_examples(file, limit, encoding_errors=encoding_errors)
    found, problems = [], []
    for number, example in enumerate(examples, start=1):
        audio = file.parent / example.source
        try:
            seconds = _seconds(audio)
        except InputError as error:
            problems.append(f"line {number}: {error}")
        else:
            found.append(Recording(example.source, example.targets, path=audio, seconds=seconds))
        if progress is not None:
            progress(number, len(examples))
    if problems:
        more = len(problems) - _NAMED
        rest = f"; and {more} more" if more > 0 else ""
        raise InputError(f"{file}, {'; '.join(problems[:_NAMED])}{rest}")
    return found


def read_data(
    bundle: Bundle,
    path: str | os.PathLike[str],
    limit: int | None = None,
    *,
    encoding_errors: str = "strict",
    progress: CountProgress | None = None,
) -> list[Example]:
    """What ``bundle`` is evaluated on: recordings, if it hears speech, else texts.

    Raises:
        InputError, MissingDependencyError: as :func:`read_recordings` and :func:`.read_examples`.
    """
    if bundle.manifest.speech is None:
        return read_examples(path, limit, encoding_errors=encoding_errors)
    return [*read_recordings(path, limit, encoding_errors=encoding_errors, progress=progress)]


def _seconds(path: Path) -> float:
    """Of audio that can be read to its end."""
    with open_audio(path) as audio:
        for start in range(0, audio.num_samples, _PIECE):
            audio.read(start, start + _PIECE)
        return audio.duration
