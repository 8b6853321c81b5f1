"""Sizes of the named dimensions of a bundle's graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from ..bundle.manifest import TensorSpec
from ..bundle.speech_info import SpeechInfo
from .limits import Limits


def largest_sizes(limits: Limits, speech: SpeechInfo | None = None) -> dict[str, int]:
    """The named dimensions of the largest tensors that an engine takes."""
    sizes = {
        "batch": limits.max_batch,
        "source": limits.max_source_length,
        "queries": limits.max_num_tokens,
        "slots": limits.max_target_length,
        "tokens": limits.max_target_length,
    }
    if speech is not None:
        sizes["frames"] = sizes["source"] * speech.frames_per_position
        sizes["samples"] = sizes["frames"] * speech.hop_length
    return sizes


def sizes_of(
    specs: Iterable[TensorSpec],
    arrays: Mapping[str, NDArray[Any]],
    speech: SpeechInfo | None = None,
) -> dict[str, int]:
    """The named dimensions of ``arrays``, and of what a graph makes of them.

    Audio of so many samples has so many frames, and those become so many positions of the source.
    """
    sizes = {
        size: length
        for spec in specs
        if spec.name in arrays
        for size, length in zip(spec.shape, arrays[spec.name].shape, strict=True)
        if isinstance(size, str)
    }
    if speech is not None and "samples" in sizes:
        sizes.setdefault("frames", sizes["samples"] // speech.hop_length)
    if speech is not None and "frames" in sizes:
        sizes.setdefault("source", sizes["frames"] // speech.frames_per_position)
    return sizes
