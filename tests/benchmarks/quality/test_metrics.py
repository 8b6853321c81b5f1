"""Corpus values are those of the libraries, whole and for any choice of examples."""

from __future__ import annotations

import sys
from typing import Any

import jiwer
import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from seq2edge.benchmarks.quality.data import Example
from seq2edge.benchmarks.quality.metrics import load_metric
from seq2edge.runtime import InputError, MissingDependencyError

ONE = [
    ("the cat sat on the mat", "the cat sat on a mat"),
    ("there is a bird in the tree outside", "a bird is in the tree"),
    ("", "nothing was said"),
    ("words and more words than there were", "words"),
    ("Ein Satz mit Umlauten: äöü.", "Ein Satz, mit Umlauten: äöü."),
    ("ab", "ab"),
]
SEVERAL = [
    ("the cat sat on the mat", ["a dog lay", "the cat sat on a mat"]),
    ("it is raining today", ["it rains today", "it is raining", "today there is rain"]),
    ("no", ["yes", "oh no"]),
    ("quick brown foxes jump", ["the quick brown fox jumps"]),
]


def examples_of(pairs: list[Any]) -> tuple[list[str], list[Example]]:
    texts = [text for text, _ in pairs]
    targets = [target if isinstance(target, list) else [target] for _, target in pairs]
    return texts, [Example("source", tuple(found)) for found in targets]


def value(name: str, pairs: list[Any]) -> float:
    metric = load_metric(name)
    texts, examples = examples_of(pairs)
    return metric.corpus_value(metric.statistics(texts, examples))


def streams(examples: list[Example]) -> list[list[str | None]]:
    """References as sacrebleu takes them: the first of each example, the second, ..."""
    most = max(len(example.targets) for example in examples)
    return [[(*e.targets, *[None] * most)[place] for e in examples] for place in range(most)]


def test_error_rates_are_those_of_jiwer() -> None:
    texts, targets = map(list, zip(*ONE, strict=True))
    assert value("wer", ONE) == pytest.approx(100 * jiwer.wer(targets, texts))
    assert value("per", ONE) == value("wer", ONE)
    assert value("cer", ONE) == pytest.approx(100 * jiwer.cer(targets, texts))


def test_the_closest_reference_counts() -> None:
    # 1 of 2 beats 1 of 1; of 1 of 2 and 2 of 4 the longer one counts.
    pairs = [("a", ["b", "a c"]), ("a b", ["a c", "a b d e", "x y z"]), ("a", ["a"])]
    assert value("per", pairs) == pytest.approx(100 * (1 + 2 + 0) / (2 + 4 + 1))


def test_any_white_space_divides_words() -> None:
    assert value("wer", [(" a\tb  c\n", "a b c")]) == 0


def test_exact_ignores_white_space_around_a_text() -> None:
    pairs = [(" a b ", "a b"), ("a  b", "a b"), ("x", ["y", "x\n"]), ("A", "a")]
    assert value("exact", pairs) == 50


@pytest.mark.parametrize("pairs", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize(
    ("name", "scorer"), [("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF())]
)
def test_bleu_and_chrf_are_those_of_sacrebleu(name: str, scorer: Any, pairs: list[Any]) -> None:
    texts, examples = examples_of(pairs)
    expected = scorer.corpus_score(texts, streams(examples)).score
    assert 0 < expected < 100
    assert value(name, pairs) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["wer", "cer", "exact", "bleu", "chrf", "rouge"])
def test_statistics_of_examples_add_up_to_those_of_any_corpus(name: str) -> None:
    metric = load_metric(name)
    statistics = metric.statistics(*examples_of(ONE))
    corpora = [[0, 1, 2, 3, 4, 5], [2], [5, 5, 0], [4, 1, 4]]
    sums = np.array([statistics[chosen].sum(axis=0) for chosen in corpora])
    expected = [value(name, [ONE[place] for place in chosen]) for chosen in corpora]
    np.testing.assert_allclose(metric.value(sums), expected, atol=1e-9)


def test_rouge_is_the_mean_f1_of_the_closest_target() -> None:
    scorer = RougeScorer(["rougeL"])
    best = [
        max(scorer.score(target, text)["rougeL"].fmeasure for target in targets)
        for text, targets in SEVERAL
    ]
    assert value("rouge", SEVERAL) == pytest.approx(100 * np.mean(best))


def test_rouge_refuses_targets_that_it_cannot_count() -> None:
    _, examples = examples_of([("x", "latin"), ("x", "кириллица")])
    with pytest.raises(InputError, match="target of example 2 has none; use chrf"):
        load_metric("rouge").check(examples)


def test_normalized_texts_have_no_case_and_no_punctuation() -> None:
    metric = load_metric("wer", normalize=True)
    texts, examples = examples_of(
        [
            ("don\u2019t \u201cwell known\u201d, he SAID", "Don't: well-known;\the said\u2026"),
            ("CAFE\u0301 24/7", "caf\u00e9 24-7."),
            ("one two", "One three"),
        ]
    )
    metric.check(examples)
    assert metric.statistics(texts, examples).tolist() == [[0, 5], [0, 3], [1, 2]]
    assert metric.definition.endswith("texts in lower case and without punctuation")
    with pytest.raises(InputError, match="target of example 2 is nothing but punctuation"):
        metric.check(examples_of([("x", "a"), ("x", "...")])[1])


def test_a_loss_is_lower_where_texts_are_better() -> None:
    for name in ("per", "chrf"):
        metric = load_metric(name)
        good, bad = value(name, [("a b c", "a b c")]), value(name, [("a x y", "a b c")])
        assert metric.loss(good) < metric.loss(bad)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(InputError, match="unknown metric 'accuracy'; there are wer, per, cer"):
        load_metric("accuracy")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingDependencyError, match=r"per needs jiwer: pip install jiwer$"):
        load_metric("per")
    load_metric("exact")
