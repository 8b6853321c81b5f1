"""Generate a text for each example and score the texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime import GenerationConfig, Seq2SeqModel
from seq2edge.runtime.progress import CountProgress

from ..report.statistics import Interval, percentile_interval
from .bootstrap import resampled_values
from .data import Example
from .metrics import Metric

#: Texts at once unless told otherwise.
BATCH_SIZE = 32


class Output(Protocol):
    """What a model made of one source."""

    @property
    def text(self) -> str | None: ...

    @property
    def token_ids(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate` and :func:`score`.

    Attributes:
        value: of the metric, over all examples.
        interval: 95 % confidence interval of it, by bootstrap.
        outputs: what was generated, one an example, in order.
        resampled: [resamples] float64, the values that ``interval`` was taken from. Those of
            two evaluations on the same examples are paired (bootstrap.py).
    """

    value: float
    interval: Interval
    outputs: tuple[Output, ...] = field(repr=False)
    resampled: NDArray[np.float64] = field(repr=False, compare=False)

    @property
    def texts(self) -> list[str]:
        """The generated texts."""
        return [output.text or "" for output in self.outputs]


def evaluate(
    model: Seq2SeqModel,
    examples: Sequence[Example],
    metric: Metric,
    *,
    config: GenerationConfig | None = None,
    batch_size: int = BATCH_SIZE,
    skip_special_tokens: bool = True,
    progress: CountProgress | None = None,
) -> Evaluation:
    """Generate and score.

    >>> examples, per = read_examples("dev.jsonl"), load_metric("per")
    >>> def loss(bundle: Path) -> float:
    ...     with Seq2SeqModel.load(bundle) as model:
    ...         return per.loss(evaluate(model, examples, per).value)

    Args:
        model: a loaded bundle with a tokenizer.
        examples: one at least.
        metric: see :func:`.load_metric`.
        config: how to decode; None: :func:`one_each` of the bundle's own options.
        batch_size: texts at once. Batches hold texts of similar lengths.
        skip_special_tokens: False: score texts with their special tokens, for targets that have
            them.
        progress: called after each batch.

    Raises:
        InputError: a source that the model cannot take, a target that the metric cannot count,
            or impossible options; all before anything is generated.
        BackendError: the engine failed.
    """
    metric.check(examples)
    outputs = model.generate(
        [example.source for example in examples],
        one_each(model.generation_config) if config is None else config,
        batch_size=batch_size,
        skip_special_tokens=skip_special_tokens,
        progress=progress,
    )
    return score(outputs, examples, metric)


def score(outputs: Sequence[Output], examples: Sequence[Example], metric: Metric) -> Evaluation:
    """What was generated for ``examples``, which ``metric`` has checked, against their targets."""
    texts = [output.text or "" for output in outputs]
    statistics = metric.statistics(texts, examples)
    resampled = resampled_values(metric, statistics)
    return Evaluation(
        value=metric.corpus_value(statistics),
        interval=percentile_interval(resampled),
        outputs=tuple(outputs),
        resampled=resampled,
    )


def one_each(
    own: GenerationConfig, *, max_new_tokens: int | None = None, num_beams: int | None = None
) -> GenerationConfig:
    """The options ``own`` for one text per source, the same one each time.

    A bundle that samples by default is given a seed, and ``num_beams`` makes it search instead.
    """
    config = replace(own, num_return_sequences=1, return_scores=False)
    if max_new_tokens is not None:
        config = replace(config, max_new_tokens=max_new_tokens)
    if num_beams is not None:
        config = replace(
            config, num_beams=num_beams, do_sample=False, prompt_lookup_num_tokens=None
        )
    if config.do_sample and config.seed is None:
        config = replace(config, seed=0)
    return config


def predictions(examples: Sequence[Example], texts: Sequence[str]) -> str:
    """JSON lines of ``source``, ``target`` (as it was read) and ``prediction``."""
    lines = []
    for example, text in zip(examples, texts, strict=True):
        only = len(example.targets) == 1
        record = {
            "source": example.source,
            "target": example.targets[0] if only else list(example.targets),
            "prediction": text,
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)
