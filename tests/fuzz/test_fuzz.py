"""A minute of mutated cases of all kinds; ``make fuzz`` makes them for as long as one likes.

What is found is a line in the rooms' own tests (test_graph_checks.py, test_manifest_rules.py,
test_tokenizer_guard.py, test_cut_files.py, test_config_bounds.py).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2edge.runtime import BundleError, Manifest
from seq2edge.runtime.bundle.checks.json_text import parse_json
from seq2edge.runtime.bundle.checks.onnx_wire import DamagedGraphError, read_onnx

from . import coverage_guided, fuzz, replay

#: Cases of each kind, fewer of the slow ones: 9,240 in all, always the same. With the seeds they
#: take about a minute of a processor.
CASES = 600


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the first who needs them."""
    return tmp_path_factory.mktemp("fuzz") / "seeds"


def run(*command: object) -> str:
    words = [sys.executable, *command] if str(command[0]).endswith(".py") else [*command]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mutated(seeds: Path) -> None:
    """All kinds in one process, which imports and makes seeds once."""
    said = run(fuzz.__file__, "--seeds", seeds, "--cases", CASES, "--seed", "test")
    for name, kind in fuzz.KINDS.items():
        if f"{name}: left out" not in said:
            assert f"{name}: {-(-CASES // kind.slowness)} cases" in said


def test_what_was_found_ends_as_it_must(seeds: Path) -> None:
    """The corpus, ``corpus.json``."""
    assert "end as they must" in run(replay.__file__, seeds.parent)


@pytest.mark.parametrize("name", coverage_guided.TARGETS)
def test_seeds_are_read_by_what_coverage_guides(name: str, seeds: Path, tmp_path: Path) -> None:
    target = coverage_guided.TARGETS[name]
    fuzz.make_seeds_apart(seeds, [target.seed])
    coverage_guided.seed_corpus(target, seeds, tmp_path / "corpus")
    files = list((tmp_path / "corpus").iterdir())
    assert files
    for file in files:
        target.read(file.read_bytes(), tmp_path / "file")


def test_coverage_guides(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed (make fuzz-coverage)")
    words = ("json", "--seconds", 1, "--corpus", tmp_path)
    assert "json:" in run(coverage_guided.__file__, *words)


def test_what_is_found_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exceptions, signals and hangs of cases, and the cases after them."""
    ends: list[Callable[[], str]] = [
        lambda: "fine",
        lambda: str(1 / 0),
        lambda: os.kill(os.getpid(), signal.SIGSEGV) or "gone",
        lambda: time.sleep(60) or "late",
        lambda: "fine",
    ]

    def make(_: Path, rnd: random.Random) -> tuple[Callable[[], str], str]:
        return ends[int(rnd.number)], "nothing"

    class Numbered(random.Random):
        """Knows its case by its seed."""

        def __init__(self, seed: str) -> None:
            super().__init__(seed)
            self.number = seed.rpartition("-")[2]

    (tmp_path / "seeds" / "any").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.setitem(fuzz.KINDS, "any", fuzz.Kind("any", make, ()))
    monkeypatch.setattr(fuzz, "WALL_SECONDS", 2.0)
    monkeypatch.setattr(fuzz.random, "Random", Numbered)
    found = list(fuzz.run_cases("any", range(5), "0", tmp_path / "seeds", tmp_path / "work"))
    assert [(number, kind) for number, kind, _ in found] == [
        (0, "fine"),
        (1, "FOUND"),
        (2, "FOUND"),
        (3, "FOUND"),
        (4, "fine"),
    ]
    details = [details for _, _, details in found]
    assert "ZeroDivisionError" in details[1]
    assert details[2:4] == ["signal 11", "2 s, no end"]


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
