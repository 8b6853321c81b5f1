"""A few mutated cases of each kind; ``make fuzz`` makes them for as long as one likes.

What is found is a line in the rooms' own tests (test_graph_checks.py, test_manifest_rules.py,
test_tokenizer_guard.py, test_cut_files.py, test_config_bounds.py).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2edge.export import export_checkpoint
from seq2edge.runtime import BundleError, Manifest
from seq2edge.runtime.bundle.checks.json_text import parse_json
from seq2edge.runtime.bundle.checks.onnx_wire import DamagedGraphError, read_onnx

from . import fuzz

MODEL = Path(__file__).parents[2] / "examples" / "g2p" / "model"
#: Cases of each kind: about five seconds.
CASES = {"manifest": 120, "graph": 120, "tokenizer": 60, "checkpoint": 12}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "g2p.bundle"
    export_checkpoint(MODEL, path, validate=False)
    return path


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mutated(kind: str, bundle: Path) -> None:
    arguments = ["--bundle", bundle, "--checkpoint", MODEL, "--cases", str(CASES[kind])]
    done = subprocess.run(
        [sys.executable, fuzz.__file__, kind, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kind}: {CASES[kind]} cases" in done.stdout


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """As a manifest, and as a graph."""
    for read in (Manifest.from_bytes, lambda data: parse_json(data, "it")):
        with contextlib.suppress(BundleError):
            read(data)
    file = tmp_path_factory.getbasetemp() / "any.onnx"
    file.write_bytes(data)
    with contextlib.suppress(DamagedGraphError):
        read_onnx(file)
