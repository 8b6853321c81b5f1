"""Arrows point one way: cli -> {export, quantize, deploy, benchmarks} -> runtime."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Each package and the other packages of ours that it may import.
ALLOWED: dict[str, set[str]] = {
    "runtime": set(),
    "export": {"runtime"},
    "quantize": {"runtime", "export"},
    "deploy": {"runtime"},
    "benchmarks": {"runtime", "deploy"},
    "cli": {"runtime", "export", "quantize", "deploy", "benchmarks"},
}
PACKAGES = [name for name in ALLOWED if (ROOT / name).is_dir()]
FILES = [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))]
HEAVY = {"torch", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors", "ml_dtypes"}
MOST_LINES = 400


def imports(file: Path) -> Iterator[str]:
    """Absolute names of all that ``file`` imports, at its top or within functions."""
    package = ["seq2edge", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            # "from seq2edge import cli" names the package only among the names.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(["seq2edge", *(parts[:-1] if parts[-1] == "__init__" else parts)])


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_absolute_and_relative_imports_are_found() -> None:
    found = set(imports(ROOT / "cli" / "run.py"))
    assert {"argparse", "seq2edge.runtime.Seq2SeqModel", "seq2edge.cli.arguments.positive"} <= found
    assert "seq2edge.runtime.bundle.reader.Bundle" in set(
        imports(ROOT / "runtime/backends/__init__.py")
    )


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_towards_the_runtime(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    ours = {name.split(".")[1] for name in imports(file) if name.startswith("seq2edge.")}
    assert ours <= {package, *ALLOWED[package]}


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.relative_to(ROOT).parts[0] == "runtime"], ids=name_of
)
def test_runtime_imports_nothing_of_training_or_export(file: Path) -> None:
    assert not {name.partition(".")[0] for name in imports(file)} & HEAVY


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even within functions or for type checkers: a circle has no place to start reading."""
    modules = {module_of(file): file for file in FILES}
    graph = {
        name: {
            owner
            for imported in imports(file)
            for owner in (imported, imported.rpartition(".")[0])
            if owner in modules and owner != name
        }
        for name, file in modules.items()
    }
    # A package's __init__ gathers what its modules offer; they import each other, not it.
    packages = {name for name, file in modules.items() if file.name == "__init__.py"}
    order = TopologicalSorter({k: v - packages for k, v in graph.items() if k not in packages})
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_stay_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_every_package_is_installed() -> None:
    listed = set(re.findall(r'^    "(seq2edge[\w.]+)",$', project(), re.MULTILINE))
    there = {".".join(["seq2edge", *file.relative_to(ROOT).parent.parts]) for file in FILES}
    assert listed == there


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_mapped_to_its_folder(package: str) -> None:
    assert f'"seq2edge.{package}" = "{package}"' in project()


def project() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")
