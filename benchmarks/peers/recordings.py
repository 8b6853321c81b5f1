"""Recordings as every interpreter can read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seq2edge.runtime.audio import open_audio

RATE, SECONDS = 16_000, 30


def write_windows(recordings: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The first 30 s of each, padded with silence, as files of numpy in ``folder``.

    Padded, because faster-whisper pads features where transformers pads audio, and their texts
    differ for it.

    Raises:
        InputError: a recording cannot be read.
        MissingDependencyError: its format needs a package that is not installed.
    """
    files = []
    for number, name in enumerate(recordings):
        with open_audio(name, target_sampling_rate=RATE) as audio:
            samples = audio.read(0, RATE * SECONDS)
        file = folder / f"recording{number}.npy"
        np.save(file, np.pad(samples, (0, RATE * SECONDS - len(samples))).astype(np.float32))
        files.append(str(file))
    return tuple(files)
