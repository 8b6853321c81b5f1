"""Ctrl-C in the middle of an export leaves nothing.

Nor do a service manager's SIGTERM, the SIGHUP of a lost terminal, and SIGQUIT.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of T5-small's size (242 MB), which takes a while to export."""
    import torch
    import transformers

    path = tmp_path_factory.mktemp("large") / "checkpoint"
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(transformers.T5Config()).save_pretrained(path)
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    return path


def wait_for_weights(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Return when the export has begun to write weights into its hidden folder."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(file.stat().st_size for file in folder.glob(".*.partial/weights.bin")):
            return
        time.sleep(0.002)
    raise AssertionError(f"no partial output was seen: {process.communicate(timeout=10)}")


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT],
    ids=lambda number: number.name,
)
def test_interrupted_export_leaves_nothing(
    number: signal.Signals,
    large_checkpoint: Path,
    environment: dict[str, str],
    program: list[str],
    tmp_path: Path,
) -> None:
    with subprocess.Popen(
        [*program, "export", large_checkpoint, tmp_path / "out", "--no-validate"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Background jobs start with signals ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        try:
            wait_for_weights(process, tmp_path)
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    # A warning about the checkpoint may come before it.
    assert stderr.decode().endswith("seq2edge: error: interrupted; nothing was left half written\n")
    assert "Traceback" not in stderr.decode()
    assert stdout == b""
    assert process.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_nohup_stays_in_force(environment: dict[str, str], program: list[str]) -> None:
    code = (
        "import os, signal, sys; from seq2edge.cli import main;"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "main.main(['inspect', 'none']);"
        "os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    )
    done = subprocess.run(
        [*program[:1], "-c", code], env=environment, capture_output=True, check=True
    )
    assert done.stdout == b"alive\n"
