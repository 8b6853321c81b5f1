"""docs/families.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import transformers

from seq2edge.export.families import FAMILIES, REFUSED
from seq2edge.export.families.table import families_table, readme_table, refused_table

from ..conftest import SHAPES
from .pairs.conftest import DECODERS, ENCODERS

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def test_the_tables_of_the_page_are_the_codes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in (families_table(), refused_table()):
        assert table in page, "run 'python -m seq2edge.export.families' and put its tables there"


def test_the_readme_has_the_codes_table() -> None:
    readme = (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert readme_table() in readme, "run 'python -m seq2edge.export.families'"


def test_every_row_has_a_parity_test() -> None:
    made = [getattr(transformers, config).model_type for _, config, _ in SHAPES.values()]
    # Those that hear, and those that transformers has not, have test files of their own.
    tested = {
        "whisper",
        "moonshine",
        "opennmt",
        *made,
        *(kind for kind, _ in (*ENCODERS.values(), *DECODERS.values())),
    }
    for family in FAMILIES:
        assert set(family.doc) == set(family.model_types)
        if family.name != "pair":  # PAIRS are of that one model type
            assert set(family.doc) <= tested


def test_the_classes_of_the_table_are_transformers_for_these_model_types() -> None:
    described = {kind: facts for family in FAMILIES for kind, facts in family.doc.items()}
    for kind, facts in described.items():
        if kind == "opennmt":
            continue
        model_class = getattr(transformers, facts.model)
        assert model_class.config_class.model_type == kind


def test_no_model_type_is_both_exported_and_refused() -> None:
    exported = [kind for family in FAMILIES for kind in family.model_types]
    assert len(set(exported)) == len(exported)
    assert not set(exported) & set(REFUSED)
