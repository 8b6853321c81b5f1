"""docs/families.md says what the code says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import transformers

from seq2edge.cli.main import _parser
from seq2edge.export.families import FAMILIES, REFUSED
from seq2edge.export.families.table import families_table, refused_table

PAGE = Path(__file__).parents[2] / "docs" / "families.md"


def test_the_tables_of_the_page_are_the_codes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in (families_table(), refused_table()):
        assert table in page, "run 'python -m seq2edge.export.families' and put its tables there"


def test_the_classes_of_the_table_are_transformers_for_these_model_types() -> None:
    described = {kind: facts for family in FAMILIES for kind, facts in family.facts.items()}
    for kind, facts in described.items():
        model_class = getattr(transformers, facts.model)
        assert model_class.config_class.model_type == kind


def test_no_model_type_is_both_exported_and_refused() -> None:
    exported = [kind for family in FAMILIES for kind in family.model_types]
    assert len(set(exported)) == len(exported)
    assert not set(exported) & set(REFUSED)


def test_the_commands_of_the_page_have_the_options_of_the_command_line() -> None:
    page = PAGE.read_text(encoding="utf-8")
    commands = re.findall("^seq2edge (.*)$", page, re.MULTILINE)
    assert len(commands) > 20
    for command in commands:
        _parser().parse_args(shlex.split(command))
