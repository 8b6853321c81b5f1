"""The float32 bundle's own answers to sounds, for the quantized one to be compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from seq2edge.runtime.backends import Backend
from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.generation import GenerationConfig, Generator
from seq2edge.runtime.generation.divergence import SpokenPair
from seq2edge.runtime.speech.prompt import plain_prompt


@dataclass(frozen=True)
class _Window:
    """A window of sound as a source of generation."""

    arrays: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return int(next(iter(self.arrays.values())).shape[-1])

    def tokens(self) -> list[int]:
        return []

    def inputs(self) -> Mapping[str, NDArray[Any]]:
        return self.arrays


def spoken_pairs(
    backend: Backend,
    manifest: Manifest,
    inputs: Sequence[Mapping[str, NDArray[Any]]],
    most: int,
) -> list[SpokenPair]:
    """What the model says to each window, greedily, without times: exactly ``most`` tokens.

    Sound without words would end at once, so the end is not allowed before.
    """
    prompt = plain_prompt(manifest)
    limit = manifest.dimensions.max_target_length
    if limit is not None:
        most = max(1, min(most, limit - len(prompt)))
    config = replace(
        GenerationConfig.of_bundle(manifest),
        num_beams=1,
        num_return_sequences=1,
        do_sample=False,
        max_new_tokens=most,
        min_new_tokens=most,
        max_length=None,
    )
    generator = Generator(backend, manifest, None)
    sources = [_Window(window) for window in inputs]
    call = generator.prepare(config, sources, prompts=[prompt] * len(sources))
    results = generator.run(call, batch_size=1)
    return [
        SpokenPair(window, prompt, found.token_ids)
        for window, (found, *_) in zip(inputs, results, strict=True)
    ]
