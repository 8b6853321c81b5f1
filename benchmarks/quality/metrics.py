"""Metrics of generated text, each as a sum over examples and a function of that sum.

A metric keeps a few numbers an example (edit errors and reference words, n-gram matches). Their
sums over the examples determine the corpus value, so that the value of a resampled corpus costs
a weighted sum and no text is looked at again (see bootstrap.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.errors import InputError

from .data import Example
from .libraries import library
from .normalization import DESCRIPTION, load_normalizer, normalized_examples

Floats = NDArray[np.float64]
Texts = Sequence[str]
Examples = Sequence[Example]

#: chrF's longest character n-gram, and how much recall weighs (Popovic 2016; sacrebleu's
#: defaults).
_CHRF_ORDER = 6
_CHRF_BETA = 2


def _accept(_examples: Examples) -> None:
    """A metric that can count any text."""


@dataclass(frozen=True)
class Metric:
    """How good texts are.

    Attributes:
        name: as on the command line.
        definition: what is counted, in words.
        lower_is_better: whether it counts errors.
        statistics: (n texts, n examples) -> [n, k] float64, what one text adds to the sums.
        value: sums [m, k] float64 of m corpora -> their values [m], in ``unit``.
        check: raises InputError for examples whose targets the metric cannot count.
        unit: of ``value``.
    """

    name: str
    definition: str
    lower_is_better: bool
    statistics: Callable[[Texts, Examples], Floats]
    value: Callable[[Floats], Floats]
    check: Callable[[Examples], None] = _accept
    unit: str = "%"

    def corpus_value(self, statistics: Floats) -> float:
        """The value of a corpus from the statistics [n, k] of its n texts."""
        return float(self.value(statistics.sum(axis=0, keepdims=True))[0])

    def loss(self, value: float) -> float:
        """``value``, turned so that lower is better."""
        return value if self.lower_is_better else -value


def load_metric(name: str, *, normalize: bool = False) -> Metric:
    """A metric by its name; its library is imported here, before anything is generated.

    Args:
        normalize: texts and targets count without case and punctuation (:func:`normalized`).

    Raises:
        InputError: no such metric.
        MissingDependencyError: its library is not installed.
    """
    make = _METRICS.get(name)
    if make is None:
        raise InputError(f"unknown metric {name!r}; there are {', '.join(_METRICS)}")
    return normalized(make()) if normalize else make()


def normalized(metric: Metric) -> Metric:
    """``metric`` of texts without case and punctuation; see :mod:`.normalization`.

    Raises:
        MissingDependencyError: jiwer is not installed.
    """
    normalize = load_normalizer()

    def statistics(texts: Texts, examples: Examples) -> Floats:
        plain = normalized_examples(examples, normalize)
        return metric.statistics([normalize(text) for text in texts], plain)

    def check(examples: Examples) -> None:
        metric.check(normalized_examples(examples, normalize))

    definition = f"{metric.definition}; texts {DESCRIPTION}"
    return replace(metric, definition=definition, statistics=statistics, check=check)


def _error_rate(name: str, definition: str, function: str) -> Metric:
    """Errors per word (or character), by ``jiwer.process_words`` (``process_characters``)."""
    process = getattr(library("jiwer", name), function)

    def statistics(texts: Texts, examples: Examples) -> Floats:
        """[n, 2]: errors, and words of the reference with the lowest error rate."""
        pairs = [
            (number, _single_spaced(text), _single_spaced(target))
            for number, (text, example) in enumerate(zip(texts, examples, strict=True))
            for target in example.targets
        ]
        numbers, outputs, targets = zip(*pairs, strict=True)
        processed = process(list(targets), list(outputs))
        best: list[tuple[int, int] | None] = [None] * len(texts)
        for number, chunks, reference in zip(
            numbers, processed.alignments, processed.references, strict=True
        ):
            candidate = (sum(map(_errors, chunks)), len(reference))
            lowest = best[number]
            if lowest is None or _closeness(candidate) < _closeness(lowest):
                best[number] = candidate
        return np.array(best, np.float64)

    return Metric(name, definition, True, statistics, _mean_percentage)


def _single_spaced(text: str) -> str:
    # jiwer takes only blanks for the ends of words, not tabs or line ends.
    return " ".join(text.split())


def _errors(chunk: Any) -> int:
    if chunk.type == "equal":
        return 0
    spans = chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
    return int(max(spans))


def _closeness(candidate: tuple[int, int]) -> tuple[float, int]:
    """Orders (errors, words): the lowest rate first; of equal ones the longest reference."""
    errors, words = candidate
    return errors / words, -words


def _exact() -> Metric:
    def statistics(texts: Texts, examples: Examples) -> Floats:
        """[n, 2]: 1 where the text is right, and 1."""
        right = [
            text.strip() in {target.strip() for target in example.targets}
            for text, example in zip(texts, examples, strict=True)
        ]
        return _with_count(np.array(right, np.float64))

    definition = "texts that equal a target, but for white space around them"
    return Metric("exact", definition, False, statistics, _mean_percentage)


def _bleu() -> Metric:
    scorer = library("sacrebleu", "bleu").BLEU()

    def statistics(texts: Texts, examples: Examples) -> Floats:
        """[n, 10]: lengths of text and closest target, n-gram matches, n-grams."""
        rows = []
        for text, example in zip(texts, examples, strict=True):
            score = scorer.corpus_score([text], [[target] for target in example.targets])
            rows.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
        return np.array(rows, np.float64)

    def value(sums: Floats) -> Floats:
        scores = []
        for length, reference_length, *grams in sums.astype(np.int64).tolist():
            half = len(grams) // 2
            score = scorer.compute_bleu(
                grams[:half], grams[half:], length, reference_length, smooth_method="exp"
            )
            scores.append(score.score)
        return np.array(scores, np.float64)

    return Metric("bleu", "BLEU of sacrebleu, its defaults", False, statistics, value)


def _chrf() -> Metric:
    count = library("sacrebleu.metrics.helpers", "chrf").extract_all_char_ngrams

    def matches(text: list[Any], target: str) -> list[int]:
        """[18]: of each order, the n-grams of text and target and those that match."""
        row = []
        for ours, theirs in zip(text, count(target, _CHRF_ORDER), strict=True):
            # As in sacrebleu: an order that the target is too short for does not count.
            row += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
        return row

    def statistics(texts: Texts, examples: Examples) -> Floats:
        """[n, 18]: of the target with the highest chrF."""
        rows = []
        for text, example in zip(texts, examples, strict=True):
            grams = count(text, _CHRF_ORDER)
            candidates = np.array([matches(grams, target) for target in example.targets])
            rows.append(candidates[_chrf_value(candidates).argmax()])
        return np.array(rows, np.float64)

    return Metric("chrf", "chrF2 of sacrebleu, its defaults", False, statistics, _chrf_value)


def _chrf_value(sums: NDArray[Any]) -> Floats:
    """F score [m] of sums [m, 18], averaged over the orders that both sides have."""
    counts = sums.reshape(len(sums), _CHRF_ORDER, 3).astype(np.float64)
    ours, theirs, matched = counts[..., 0], counts[..., 1], counts[..., 2]
    used = (ours > 0) & (theirs > 0)
    orders = np.maximum(used.sum(axis=1), 1)
    precision = (matched / np.where(used, ours, np.inf)).sum(axis=1) / orders
    recall = (matched / np.where(used, theirs, np.inf)).sum(axis=1) / orders
    weight = _CHRF_BETA**2
    below = weight * precision + recall
    value: Floats = 100 * (1 + weight) * precision * recall / np.where(below > 0, below, 1)
    return value


def _rouge() -> Metric:
    tokenizer = library("rouge_score.tokenizers", "rouge").DefaultTokenizer()
    scorer = library("rouge_score.rouge_scorer", "rouge").RougeScorer(["rougeL"])

    def check(examples: Examples) -> None:
        for number, example in enumerate(examples, start=1):
            if not any(tokenizer.tokenize(target) for target in example.targets):
                raise InputError(
                    f"rouge counts the letters a-z and digits alone, and the target of example"
                    f" {number} has none; use chrf"
                )

    def statistics(texts: Texts, examples: Examples) -> Floats:
        """[n, 2]: F1 against the closest target, and 1."""
        scores = [
            scorer.score_multi(list(example.targets), text)["rougeL"].fmeasure
            for text, example in zip(texts, examples, strict=True)
        ]
        return _with_count(np.array(scores, np.float64))

    definition = "mean ROUGE-L F1 of rouge-score, without stemming"
    return Metric("rouge", definition, False, statistics, _mean_percentage, check)


def _with_count(values: Floats) -> Floats:
    return np.stack([values, np.ones_like(values)], axis=1)


def _mean_percentage(sums: Floats) -> Floats:
    return 100 * sums[:, 0] / sums[:, 1]


_METRICS: dict[str, Callable[[], Metric]] = {
    "wer": lambda: _error_rate("wer", "word errors per word of the target", "process_words"),
    "per": lambda: _error_rate(
        "per", "phoneme errors a phoneme of the target (blanks divide)", "process_words"
    ),
    "cer": lambda: _error_rate(
        "cer", "character errors a character of the target", "process_characters"
    ),
    "exact": _exact,
    "chrf": _chrf,
    "bleu": _bleu,
    "rouge": _rouge,
}
