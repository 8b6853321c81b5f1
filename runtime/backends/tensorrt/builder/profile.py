"""Optimization profiles: the shapes that an engine's limits mean for each input of its graph."""

from __future__ import annotations

from math import prod

from ....bundle.manifest import GraphInfo, TensorSpec
from ....bundle.speech_info import SpeechInfo
from ....errors import InputError
from ...limits import Limits
from ...sizes import largest_sizes

#: The dynamic dimension that becomes a constant: the cache's slots, which TensorRT updates in
#: place only where their number is fixed.
SLOTS = "slots"

#: The tokens of one sequence in one decoder run.
QUERIES = "queries"

#: Source tokens that kernels are chosen for: sentences, not pages.
_USUAL_SOURCE = 64

#: Tokens of a window of speech.
_USUAL_TOKENS = 64

#: Queries that the kernels of prompts and beams are chosen for.
_USUAL_QUERIES = 4

#: TensorRT counts a tensor's values in 31 bits.
_MOST_VALUES = 2**31 - 1

Shape = tuple[int, ...]

#: Smallest, usual and largest shape of each input.
Profile = dict[str, tuple[Shape, Shape, Shape]]


def profiles(info: GraphInfo, limits: Limits, speech: SpeechInfo | None = None) -> list[Profile]:
    """The optimization profiles of a graph's engine, in order.

    A decoder has one for steps of a single token and, where ``limits`` allow more, a second one
    for prompts, beams and drafts. In the first no key is laid out anew: with several queries
    every attention copies keys and values first (8 kernels per step on the demo model), and both
    profiles share the weights (TensorRT-RTX 1.7.1).

    Raises:
        InputError: the graph has a dimension that no limit belongs to, or a tensor that would
            be larger than TensorRT takes.
    """
    if not any(QUERIES in spec.shape for spec in info.inputs) or limits.max_num_tokens == 1:
        return [_profile(info, limits, (1, 1, 1), speech)]
    usual = min(_USUAL_QUERIES, limits.max_num_tokens)
    return [
        _profile(info, limits, (1, 1, 1), speech),
        _profile(info, limits, (1, usual, limits.max_num_tokens), speech),
    ]


def _profile(
    info: GraphInfo, limits: Limits, num_tokens: Shape, speech: SpeechInfo | None
) -> Profile:
    sizes = _sizes(limits, speech) | {QUERIES: num_tokens}
    shapes = {}
    for spec in info.inputs:
        unknown = [size for size in spec.shape if isinstance(size, str) and size not in sizes]
        if unknown:
            raise InputError(f"{info.file}: input {spec.name} has an unknown size {unknown[0]!r}")
        shapes[spec.name] = (_shape(spec, sizes, 0), _shape(spec, sizes, 1), _shape(spec, sizes, 2))
    for spec in (*info.inputs, *info.outputs):
        large = _shape(spec, sizes, 2)
        if prod(large) > _MOST_VALUES:
            raise InputError(
                f"{info.file}: {spec.name} would be of shape {list(large)}, and TensorRT takes at"
                f" most {_MOST_VALUES} values; build for a smaller batch, shorter sources, fewer"
                " slots or fewer queries"
            )
    return shapes


def _shape(spec: TensorSpec, sizes: dict[str, Shape], kind: int) -> Shape:
    return tuple(size if isinstance(size, int) else sizes[size][kind] for size in spec.shape)


def _sizes(limits: Limits, speech: SpeechInfo | None) -> dict[str, Shape]:
    most = largest_sizes(limits, speech)
    batch = limits.max_batch
    if limits.max_num_tokens > 1:
        # TensorRT-RTX 1.7.1 fails on a boolean mask whose batch is fixed and whose queries are
        # not ("more than one op named attention_mask.1_iota"), so the batch is never fixed then.
        batch = max(2, batch)
    slots, source = limits.max_target_length, limits.max_source_length
    sizes: dict[str, Shape] = {
        "batch": (1, 1, batch),
        "source": (1, min(_USUAL_SOURCE, source), source),
        "tokens": (1, min(_USUAL_TOKENS, slots), slots),
        SLOTS: (slots, slots, slots),
    }
    if speech is not None:
        # Windows are whole ones, but for the last of a recording.
        sizes["source"] = (1, source, source)
        frames, samples = speech.frames_per_position, speech.hop_length * speech.frames_per_position
        sizes["frames"] = (frames, most["frames"], most["frames"])
        sizes["samples"] = (samples, most["samples"], most["samples"])
    return sizes
