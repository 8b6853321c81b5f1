"""``python -m seq2edge.export.families``: the tables of docs/families.md and of the README."""

from __future__ import annotations

from .table import families_table, readme_table, refused_table

if __name__ == "__main__":
    print(families_table())
    print(refused_table())
    print(readme_table(), end="")
