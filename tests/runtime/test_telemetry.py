"""What is run on a device is told to nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_LOAD = "import seq2edge.runtime, onnxruntime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"


def run(home: Path, **environment: str) -> str:
    """Import both as a user does: without the variables by which ONNX Runtime knows a CI."""
    own = {"HOME": str(home), "PATH": os.environ["PATH"], **environment}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD], env=own, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_onnxruntime_keeps_no_record_of_what_is_loaded(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert run(tmp_path) == "1"
    assert list(tmp_path.iterdir()) == []  # its database would be in .cache


def test_a_choice_of_the_user_stays(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert run(tmp_path, ORT_DISABLE_TELEMETRY="0") == "0"
