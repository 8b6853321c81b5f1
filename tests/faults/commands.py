"""The commands that are run with faults, and what makes their results whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path


def _bundle(path: Path) -> None:
    from seq2edge.runtime import Bundle

    Bundle.open(path).verify()


def _archive(path: Path) -> None:
    with tarfile.open(path) as tar:
        read = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        content = {name: file.read() for name, file in read.items() if file is not None}
    top = next(iter(content)).partition("/")[0]
    for name, info in json.loads(content[f"{top}/manifest.json"])["files"].items():
        found = hashlib.sha256(content[f"{top}/{name}"]).hexdigest()
        assert found == info["sha256"], name


def _triton(path: Path) -> None:
    _bundle(path / "1" / "bundle")
    assert (path / "config.pbtxt").read_text().rstrip().endswith("]")
    assert "class TritonPythonModel" in (path / "1" / "model.py").read_text()


def _report(path: Path) -> None:
    from seq2edge.benchmarks.quality.report import REPORT_FILES

    assert {entry.name for entry in path.iterdir()} == set(REPORT_FILES)
    assert json.loads((path / "report.json").read_text())
    for kind in ("svg", "html"):
        assert (path / f"report.{kind}").read_text().rstrip().endswith(f"</{kind}>")


def _engines(path: Path) -> None:
    from seq2edge.runtime.backends.tensorrt.engine_store import read_engines, read_plan

    for engine in read_engines(path).engines.values():
        read_plan(path, engine)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, run in a folder with ``checkpoint``, bundles ``own``, ``other`` and ``half``.

    Attributes:
        arguments: those that make the new result; the old one is made with ``old``.
        output: what it writes, in the folder ``out``.
        check: raises if a result is not whole.
        modules: imported once.
        known: functions of modules that write nothing and take long. Their results of the first
            whole run are those of all others.
    """

    arguments: tuple[str, ...]
    old: tuple[str, ...]
    output: str
    check: Callable[[Path], None]
    modules: tuple[str, ...]
    known: tuple[str, ...] = ()


_EXPORT = ("seq2edge.export",)
_BUILD = ("--compute-capability", "8.6", "--max-source-length", "16", "--max-target-length", "16")
_DATA = ("--data", "data.jsonl", "--metric", "wer")
_COMPARE = (*_DATA, "--output", "out/made", "--speed-texts", "1", "--max-new-tokens", "2")
COMMANDS = {
    "export": Command(
        ("export", "checkpoint", "out/made", "--no-validate"),
        ("export", "another", "out/made", "--no-validate"),
        "made",
        _bundle,
        _EXPORT,
    ),
    "quantize": Command(
        ("quantize", "own", "out/made", "--scheme", "int8", "--no-check"),
        ("quantize", "other", "out/made", "--scheme", "int8", "--no-check"),
        "made",
        _bundle,
        ("seq2edge.quantize", "seq2edge.quantize.pipeline"),
    ),
    "downgrade": Command(
        ("downgrade", "own", "out/made"),
        ("downgrade", "other", "out/made"),
        "made",
        _bundle,
        ("seq2edge.quantize",),
    ),
    "pack": Command(
        ("pack", "own", "--for", "cpu", "-o", "out/made.tar"),
        ("pack", "other", "--for", "cpu", "-o", "out/made.tar"),
        "made.tar",
        _archive,
        ("seq2edge.deploy",),
    ),
    "triton": Command(
        ("triton", "own", "out", "--name", "made"),
        ("triton", "other", "out", "--name", "made"),
        "made",
        _triton,
        ("seq2edge.deploy",),
    ),
    "compare": Command(
        ("compare", "own", "other", *_COMPARE),
        ("compare", "own", "own", *_COMPARE),
        "made",
        _report,
        (
            "seq2edge.benchmarks.quality.report",
            "seq2edge.benchmarks.quality.compare",
            "matplotlib.figure",
        ),
        (
            "seq2edge.benchmarks.quality.compare.compare",
            "seq2edge.benchmarks.quality.report.svg",
            "seq2edge.benchmarks.report.page.svg",
        ),
    ),
    "build": Command(
        ("build", "half", *_BUILD, "--output", "out/made"),
        ("build", "half", *_BUILD, "--output", "out/made", "--max-num-tokens", "1"),
        "made",
        _engines,
        ("seq2edge.runtime.backends.tensorrt.builder.engines",),
        ("seq2edge.runtime.backends.tensorrt.builder.engines.build_plan",),
    ),
}  # fmt: skip
