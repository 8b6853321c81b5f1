"""Variants beside a reference: what differs, by how much, in a table, a page and a picture."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.benchmarks.quality.compare import Comparison, compare
from seq2edge.benchmarks.quality.data import Example
from seq2edge.benchmarks.quality.metrics import load_metric
from seq2edge.benchmarks.quality.report import (
    REPORT_FILES,
    markdown,
    picture,
    table,
    write_report,
)
from seq2edge.benchmarks.quality.settings import Settings
from seq2edge.benchmarks.report.plots import check_plots
from seq2edge.runtime import Bundle, InputError, MissingDependencyError, Seq2SeqModel

SETTINGS = Settings(data="some.jsonl", max_new_tokens=12, batch_size=4, speed_texts=3)
SOURCES = [f"text {number}" for number in range(10)]
EXAMPLES = [Example(source, ("a target",)) for source in SOURCES]


@pytest.fixture(scope="module")
def comparison(
    reference_bundle: Path, variant_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    folder = tmp_path_factory.mktemp("named")
    paths = [folder / "exact.bundle", folder / "copy.bundle", folder / "noisy.bundle"]
    for source, path in zip(
        (reference_bundle, reference_bundle, variant_bundle), paths, strict=True
    ):
        shutil.copytree(source, path)
    with Seq2SeqModel.load(reference_bundle) as model:
        own = model.generate(SOURCES, max_new_tokens=SETTINGS.max_new_tokens)
    examples = [
        Example(source, (f"{found.text}.",)) for source, found in zip(SOURCES, own, strict=True)
    ]
    return compare(paths, examples, load_metric("cer"), SETTINGS)


def test_the_reference_and_its_copy_differ_in_nothing(comparison: Comparison) -> None:
    assert [v.name for v in comparison.variants] == ["exact.bundle", "copy.bundle", "noisy.bundle"]
    for variant in comparison.variants[:2]:
        assert (variant.difference, variant.divergence) == (0, 0)
        assert (variant.difference_interval.low, variant.difference_interval.high) == (0, 0)
        assert (variant.agreement.identical, variant.agreement.prefix) == (1, 1)
        assert variant.value == comparison.variants[0].value
    assert comparison.variants[0].speed.ratio == 1


def test_a_variant_differs(comparison: Comparison, variant_bundle: Path) -> None:
    reference, _, variant = comparison.variants
    assert variant.difference == variant.value - reference.value > 0
    assert variant.difference_interval.low <= variant.difference
    assert variant.difference <= variant.difference_interval.high
    assert 0 <= variant.agreement.identical < 1
    assert variant.agreement.identical < variant.agreement.prefix < 1
    assert 0 < variant.divergence < 1
    assert variant.bytes == Bundle.open(variant_bundle).size
    assert variant.scheme == "float32"
    assert variant.speed.milliseconds > 0
    assert variant.speed.tokens <= 12


def test_the_columns_of_a_row_agree(comparison: Comparison) -> None:
    _, titles, *lines = table(comparison).splitlines()
    cells = [
        {
            key.strip(): value.strip()
            for key, value in zip(
                re.split(r"\s{2,}", titles.strip()), re.split(r"\s{2,}", line.strip()), strict=True
            )
        }
        for line in lines
    ]
    first = float(cells[0]["text ms"].split()[0])
    for row in cells:
        ratio = float(row["text ms"].split()[0]) / first
        assert float(row["ratio"].split()[0]) == pytest.approx(ratio, rel=2e-3)
    assert cells[0]["ratio"] == "1.000 [1.000, 1.000]"


def test_variants_for_another_target_are_named(comparison: Comparison) -> None:
    assert comparison.notes == ()
    for target, said in ((None, 0), ("cpu", 0), ("cuda", 1), ("tensorrt", 1)):
        variant = replace(comparison.variants[2], target=target)
        found = replace(comparison, variants=(comparison.variants[0], variant))
        assert len(found.notes) == said
        assert found.to_json()["notes"] == list(found.notes)
        for note in found.notes:
            assert note.startswith(f"noisy.bundle is quantized for {target}, and all variants ran")
            assert note in table(found)
            assert note in markdown(found)


def test_samples_are_bounded(comparison: Comparison) -> None:
    assert (comparison.examples, comparison.divergence_examples) == (10, 10)
    assert comparison.speed_texts == 3


def test_bundles_of_one_name_are_told_apart(reference_bundle: Path, variant_bundle: Path) -> None:
    settings = replace(SETTINGS, max_new_tokens=2)
    found = compare(
        [reference_bundle, variant_bundle], EXAMPLES[:1], load_metric("exact"), settings
    )
    assert [v.name for v in found.variants] == [str(reference_bundle), str(variant_bundle)]


def test_only_bundles_of_one_vocabulary_are_compared(
    reference_bundle: Path, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    exact = load_metric("exact")
    with pytest.raises(InputError, match=r"do not share a vocabulary \(384 and 400 tokens\)"):
        compare([reference_bundle, bundle_of("bart")], EXAMPLES, exact)
    with pytest.raises(InputError, match="different tokenizers"):
        compare([reference_bundle, bundle_of("t5")], EXAMPLES, exact)
    other = tmp_path / "other"
    shutil.copytree(reference_bundle, other)
    manifest = json.loads((other / "seq2edge.json").read_text())
    manifest["special_tokens"]["eos"] = [2]
    (other / "seq2edge.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="different special tokens"):
        compare([reference_bundle, other], EXAMPLES, exact)


def test_the_table_has_a_line_a_variant(comparison: Comparison) -> None:
    headline, titles, *lines = table(comparison).splitlines()
    assert headline.startswith("10 examples of some.jsonl, cer (lower is better)")
    assert titles.split()[:3] == ["bundle", "scheme", "cer"]
    assert [line.split()[0] for line in lines] == [v.name for v in comparison.variants]
    assert f"{comparison.variants[2].value:.2f} [" in lines[2]


def test_a_report_is_a_page_its_data_and_a_picture(comparison: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    write_report(comparison, folder, overwrite=False)
    assert sorted(file.name for file in folder.iterdir()) == sorted(REPORT_FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["report"]
    assert json.loads((folder / "report.json").read_text()) == comparison.to_json()
    page = (folder / "report.md").read_text()
    assert page == markdown(comparison)
    assert "(report.svg)" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    assert len(rows) == 2 + len(comparison.variants)


def test_the_picture_names_every_variant(comparison: Comparison) -> None:
    drawn = picture(comparison)
    assert drawn == picture(comparison)
    assert ET.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    # matplotlib draws text as outlines and writes it beside them as a comment: a number in both
    # panels, and what it stands for.
    for number, variant in enumerate(comparison.variants, 1):
        assert drawn.count(f"<!-- {number}  {variant.name} -->") == 1
        assert drawn.count(f'id="number-{number}"') == 2


def test_a_broken_variant_is_reported_as_such(comparison: Comparison, tmp_path: Path) -> None:
    """A model whose logits overflow has no divergence, and JSON has no such number."""
    broken = replace(comparison.variants[2], divergence=math.nan)
    found = replace(comparison, variants=(comparison.variants[0], broken))
    write_report(found, tmp_path / "report", overwrite=False)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["entries"][1]["quality"]["divergence"] is None
    assert " nan " in table(found)


def test_pictures_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(MissingDependencyError, match="--output needs matplotlib"):
        check_plots("--output")
