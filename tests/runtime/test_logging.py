"""What the runtime logs: nothing unasked, and what was loaded and chosen where it is asked."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.runtime import Seq2SeqModel


@pytest.fixture
def bundle(bundle_of: Callable[[str], Path]) -> Path:
    return bundle_of("t5")


def test_loading_says_what_was_loaded_and_which_graphs(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="seq2edge"), Seq2SeqModel.load(bundle):
        pass
    lines = [(record.name, record.getMessage()) for record in caplog.records]
    assert any(
        name == "seq2edge.runtime.backends" and line.startswith(f"loaded {bundle} into onnxruntime")
        for name, line in lines
    )
    assert any(line == "opening decoder.onnx: ['CPUExecutionProvider']" for _, line in lines)


def test_nothing_is_said_unasked(bundle: Path) -> None:
    code = f"from seq2edge.runtime import Seq2SeqModel; Seq2SeqModel.load({str(bundle)!r}).close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
