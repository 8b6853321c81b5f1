"""A model whose files are cut while it is loaded says so; one whose files are replaced goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.runtime import BackendError, Seq2SeqModel

IDS = np.array([[200, 13, 77, 1]])


def test_weights_that_are_cut_under_a_model(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Fault: SIGBUS."""
    bundle = Path(shutil.copytree(bundle_of("t5"), tmp_path / "bundle"))
    with Seq2SeqModel.load(bundle) as model:
        first = model.generate_ids(IDS, max_new_tokens=3)[0].token_ids
        weights = bundle / "weights.bin"
        weights.rename(bundle / "old.bin")  # an update: the model goes on with what it has
        weights.write_bytes(b"new")
        assert model.generate_ids(IDS, max_new_tokens=3)[0].token_ids == first
        os.truncate(bundle / "old.bin", 0)
        with pytest.raises(BackendError, match="was cut while the model that reads it is loaded"):
            model.generate_ids(IDS, max_new_tokens=3)


def test_an_interrupted_import_is_an_interrupt(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Fault: Ctrl-C while onnxruntime is imported said that it is not installed."""
    (tmp_path / "onnxruntime.py").write_text(
        "try:\n    raise KeyboardInterrupt\n"
        "except KeyboardInterrupt as error:\n    raise ImportError('numpy failed') from error\n"
    )
    command = [sys.executable, "-m", "seq2edge.cli.main", "run", bundle_of("t5"), "a"]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "interrupted" in done.stderr
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libfoo.so is missing')")
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "onnxruntime cannot be imported: libfoo.so is missing" in done.stderr
