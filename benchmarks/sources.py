"""What a measurement feeds a model: random tokens, or sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.backends import Backend
from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.bundle.speech_info import SpeechInfo
from seq2edge.runtime.errors import InputError
from seq2edge.runtime.generation.source import Source, collate
from seq2edge.runtime.speech.fallback import WindowSource
from seq2edge.runtime.speech.prompt import plain_prompt
from seq2edge.runtime.text.sources import TextSource

from .workload import Workload

#: Where the model takes any length.
_SECONDS = 30.0
#: Root mean square of the noise, full scale 1: as loud as speech.
_LOUDNESS = 0.1


@dataclass(frozen=True)
class Batch:
    """Sources of one batch, ready for an encoder.

    Attributes:
        sources: for a generator.
        inputs: of the encoder.
        positions: of the encoder's output, which are a text's tokens.
        prompts: what the decoder starts with for each; None: its start token.
    """

    sources: Sequence[Source]
    inputs: Mapping[str, NDArray[Any]]
    positions: int
    prompts: Sequence[Sequence[int]] | None = None

    @property
    def prompt_length(self) -> int:
        return 1 if self.prompts is None else len(self.prompts[0])


def check_sources(bundle: Bundle, workload: Workload) -> None:
    """Refuse lengths that a model cannot take, or that are not those of its sources.

    Raises:
        InputError: which, and what is allowed.
    """
    manifest = bundle.manifest
    if manifest.speech is not None:
        if workload.source_length is not None:
            raise InputError(
                f"{bundle.directory} hears speech: --audio-seconds says how long its sources are,"
                " not --source-length"
            )
        _num_samples(manifest.speech, workload)
        return
    if workload.audio_seconds is not None or workload.audio is not None:
        raise InputError(
            f"{bundle.directory} reads texts: --source-length says how long its sources are, not"
            " --audio-seconds or --audio"
        )
    limit = manifest.dimensions.max_source_length
    if limit is not None and workload.source_tokens > limit:
        raise InputError(
            f"--source-length {workload.source_tokens} is more than the model's {limit}"
        )


def make_batch(backend: Backend, bundle: Bundle, workload: Workload) -> Batch:
    """The same sources each time.

    Raises:
        InputError: as :func:`check_sources`, or audio that cannot be read.
        BackendError: the engine failed.
    """
    check_sources(bundle, workload)
    manifest = bundle.manifest
    if manifest.speech is None:
        texts = [TextSource.of(row.tolist()) for row in random_tokens(manifest, workload)]
        inputs = collate(texts, manifest.special_tokens.pad)
        return Batch(texts, inputs, workload.source_tokens)
    return _of_audio(backend, manifest, manifest.speech, read_audio(manifest.speech, workload))


def random_tokens(manifest: Manifest, workload: Workload) -> NDArray[np.int64]:
    """Seeded random tokens [batch, source], none of them special."""
    special = manifest.special_tokens
    ordinary = np.setdiff1d(
        np.arange(manifest.dimensions.source_tokens),
        [special.pad, special.decoder_start, *special.eos],
    )
    shape = (workload.batch_size, workload.source_tokens)
    return np.random.default_rng(0).choice(ordinary, shape)


def read_audio(speech: SpeechInfo, workload: Workload) -> NDArray[np.float32]:
    """Sound [batch, samples] at the model's rate: a file's beginning, or seeded noise.

    What a file lacks is silence; all sources of a batch are the same file's.

    Raises:
        InputError: more than the model's window, or a file that cannot be read.
    """
    count = _num_samples(speech, workload)
    if workload.audio is None:
        shape = (workload.batch_size, count)
        noise = _LOUDNESS * np.random.default_rng(0).standard_normal(shape)
        return noise.astype(np.float32)
    with open_audio(workload.audio, target_sampling_rate=speech.sampling_rate) as audio:
        samples = audio.read(0, count)
    samples = np.pad(samples, (0, count - len(samples)))
    return np.repeat(samples[None], workload.batch_size, axis=0)


def audio_seconds(bundle: Bundle, workload: Workload) -> float | None:
    """Of one source; None: it is a text."""
    speech = bundle.manifest.speech
    return None if speech is None else _num_samples(speech, workload) / speech.sampling_rate


def extract(
    backend: Backend, manifest: Manifest, audio: NDArray[np.float32]
) -> tuple[str, NDArray[np.float32]]:
    """The encoder's input, its name and its values, of sound [batch, samples]."""
    if "features" not in manifest.graphs:
        return manifest.graphs["encoder"].inputs[0].name, audio
    name = "input_features"
    return name, backend.run_graph("features", {"audio": audio})[name]


def _of_audio(
    backend: Backend, manifest: Manifest, speech: SpeechInfo, audio: NDArray[np.float32]
) -> Batch:
    positions = audio.shape[1] // speech.hop_length // speech.frames_per_position
    name, values = extract(backend, manifest, audio)
    windows = [WindowSource(name, row, positions) for row in values]
    prompts = [plain_prompt(manifest)] * len(windows)
    return Batch(windows, {name: values}, positions, prompts)


def _num_samples(speech: SpeechInfo, workload: Workload) -> int:
    """Of a source: whole positions of the encoder's output, one at least."""
    longest = speech.window_seconds
    seconds = workload.audio_seconds
    if seconds is None:
        seconds = longest or _SECONDS
    if longest is not None and seconds > longest:
        raise InputError(
            f"--audio-seconds {seconds:g} is more than the model's window of {longest:g} s"
        )
    step = speech.hop_length * speech.frames_per_position
    return step * max(1, round(seconds * speech.sampling_rate / step))
