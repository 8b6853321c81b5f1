"""What is missing is named by its package: seq2edge is in no index, so its extras are no help."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from seq2edge.deploy.doctor.install import own_source
from seq2edge.runtime import MissingDependencyError
from seq2edge.runtime.dependencies import missing, needs

ROOT = Path(__file__).parents[2]
PRODUCT = [
    file
    for folder in ("runtime", "export", "quantize", "deploy", "benchmarks", "cli")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]


@pytest.mark.parametrize("file", PRODUCT, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_product_never_asks_an_index_for_seq2edge(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "seq2edge[" not in text
    assert not re.search(r"pip install [^\n]*(?:[\s'\"]\.\[|\sseq2edge\b)", text)


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_page_asks_an_index_for_seq2edge(file: Path) -> None:
    assert not re.search(r"pip install [^\n`]*\sseq2edge\b", file.read_text(encoding="utf-8"))
    assert "'seq2edge[" not in file.read_text(encoding="utf-8")


def test_a_missing_module_is_named_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, package in (("llguidance", "llguidance"), ("onnx_ir", "onnx-ir")):
        monkeypatch.setitem(sys.modules, module, None)
        expected = rf"^it needs {module}: pip install {package}, or wait$"
        with (
            pytest.raises(MissingDependencyError, match=expected),
            needs("it", "grammar", "export", instead=", or wait"),
        ):
            __import__(module)


def test_all_that_an_extra_lacks_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.distribution

    def distribution(name: str) -> Any:
        if name in ("onnx", "onnx-ir", "llguidance"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    assert str(missing("it", "onnx.helper", "export")) == "it needs onnx: pip install onnx onnx-ir"
    assert str(missing("it", "cuda.bindings")) == "it needs cuda: pip install cuda-bindings"


def test_a_module_that_is_there_and_broken_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("raise ImportError('no GLIBC', name=__name__)")
    monkeypatch.syspath_prepend(tmp_path)
    expected = "^it needs broken_module, which cannot be imported: no GLIBC$"
    with pytest.raises(MissingDependencyError, match=expected), needs("it"):
        __import__("broken_module")


def test_a_device_says_that_it_lacks_our_own_part(tmp_path: Path) -> None:
    """As in a pack, whose wheel has no export and no quantize."""
    script = (
        "import sys; sys.modules['seq2edge.quantize'] = None;"
        "from seq2edge.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "quantize", "a", "b", "--scheme", "int8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "seq2edge: error: quantize is not part of this installation, which is a device's:"
        " seq2edge.quantize is missing; use it on the machine that packed the bundle\n"
    )


def test_where_seq2edge_comes_from_can_be_installed_again() -> None:
    """An editable installation of this clone."""
    assert Path(own_source()) == ROOT
