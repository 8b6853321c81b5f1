"""Time of batch 1 greedy generation, variants in turns in one process.

In turns, because a machine's clock rate and its other work change within seconds: what slows one
variant's texts down then slows down the others', too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seq2edge.runtime import GenerationConfig, Seq2SeqModel
from seq2edge.runtime.progress import CountProgress


@dataclass(frozen=True)
class Speed:
    """Of one variant.

    Attributes:
        milliseconds: per text, tokenizing and encoder included; median over the texts.
        ratio: of ``milliseconds`` to the reference's.
        tokens: generated per text, mean. Where it differs from the reference's, part of the
            ratio is longer or shorter texts rather than faster steps.
    """

    milliseconds: float
    ratio: float
    tokens: float


def greedy(config: GenerationConfig) -> GenerationConfig:
    """``config`` without search, sampling or drafts."""
    return replace(config, num_beams=1, do_sample=False, prompt_lookup_num_tokens=None)


def measure_speeds(
    models: Sequence[Seq2SeqModel],
    configs: Sequence[GenerationConfig],
    texts: Sequence[str],
    progress: CountProgress | None = None,
) -> list[Speed]:
    """Time each text on each model; the first model is the reference.

    Before the first time counts, each model runs the first text once. The order of the models
    is drawn anew for each text, so that none always follows the same one (whose threads may
    still spin, and whose weights fill the caches).

    Raises:
        InputError, BackendError: as :meth:`Seq2SeqModel.generate`.
    """
    for model, config in zip(models, configs, strict=True):
        model.generate(texts[0], config)
    times = np.zeros((len(texts), len(models)))
    tokens = np.zeros_like(times)
    random = np.random.default_rng(0)
    for row, text in enumerate(texts):
        for index in random.permutation(len(models)):
            start = time.perf_counter()
            (generation,) = models[index].generate(text, configs[index])
            times[row, index] = 1e3 * (time.perf_counter() - start)
            tokens[row, index] = len(generation.token_ids)
        if progress is not None:
            progress(row + 1, len(texts))
    medians = np.median(times, axis=0)
    return [
        Speed(float(median), float(median / medians[0]), float(count))
        for median, count in zip(medians, tokens.mean(axis=0), strict=True)
    ]
