"""What a bundle that hears speech says about sound, languages, tasks and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .json_schema import FieldReader


@dataclass(frozen=True)
class SpeechInfo:
    """The manifest's ``speech``; a bundle of texts has none.

    Attributes:
        sampling_rate: of the audio, in Hz.
        mel_bins: rows of the features that the encoder reads; None: it reads the audio itself.
        hop_length: samples a feature frame; of an encoder that reads audio, a position.
        window_frames: frames that the encoder takes at most; None: any number.
        frames_per_position: frames that become one position of the encoder.
        languages: code to the token that names it, ``en``: 50259; empty: English only.
        tasks: ``transcribe`` and ``translate`` to their tokens; empty: it only transcribes.
        no_timestamps: the token that asks for text without times; None: there are no tokens of
            times.
        timestamp_begin: the token of 0 seconds; each one after it is 0.02 s later.
        no_speech: the token that says that nobody speaks.
        previous_text: the token before what was said in the window before.
        max_initial_timestamp_index: the last token of a time that a window may begin with, counted
            from ``timestamp_begin``; None: any.
        alignment_heads: (layer, head) of the decoder's cross-attention that follow the sound.
    """

    sampling_rate: int
    mel_bins: int | None
    hop_length: int
    window_frames: int | None
    frames_per_position: int
    languages: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    no_timestamps: int | None = None
    timestamp_begin: int | None = None
    no_speech: int | None = None
    previous_text: int | None = None
    max_initial_timestamp_index: int | None = None
    alignment_heads: tuple[tuple[int, int], ...] = ()

    @property
    def window_seconds(self) -> float | None:
        """Length of the longest window, in seconds; None: any length."""
        if self.window_frames is None:
            return None
        return self.window_frames * self.hop_length / self.sampling_rate


def read_speech(r: FieldReader, raw: dict[str, Any]) -> SpeechInfo:
    """The manifest's entry ``speech``; ``r`` collects what is wrong with it."""
    info, where = r.table(raw, "speech"), "speech."

    def ids(key: str) -> dict[str, int]:
        table = r.table(info, key, where)
        return {name: r.number(table, name, f"{where}{key}.") for name in table}

    return SpeechInfo(
        sampling_rate=r.number(info, "sampling_rate", where),
        mel_bins=r.limit(info, "mel_bins", where),
        hop_length=r.number(info, "hop_length", where),
        window_frames=r.limit(info, "window_frames", where),
        frames_per_position=r.number(info, "frames_per_position", where),
        languages=ids("languages"),
        tasks=ids("tasks"),
        no_timestamps=r.limit(info, "no_timestamps", where),
        timestamp_begin=r.limit(info, "timestamp_begin", where),
        no_speech=r.limit(info, "no_speech", where),
        previous_text=r.limit(info, "previous_text", where),
        max_initial_timestamp_index=r.limit(info, "max_initial_timestamp_index", where),
        alignment_heads=_heads(r, info, where),
    )


def _heads(r: FieldReader, info: dict[str, Any], where: str) -> tuple[tuple[int, int], ...]:
    heads = []
    for item in r.items(info, "alignment_heads", where):
        pair = item if isinstance(item, list) else []
        if len(pair) != 2 or not all(type(number) is int and number >= 0 for number in pair):
            r.problems.append(f"{where}alignment_heads must hold pairs of layer and head")
            return ()
        heads.append((pair[0], pair[1]))
    return tuple(heads)
