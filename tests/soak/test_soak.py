"""A short soak; ``make soak`` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from seq2edge.export import export_checkpoint

from . import soak

MODEL = Path(__file__).parents[2] / "examples" / "g2p" / "model"


def test_threads_get_the_answers_that_one_gets(tmp_path: Path) -> None:
    export_checkpoint(MODEL, tmp_path / "bundle", validate=False)
    done = subprocess.run(
        [sys.executable, soak.__file__, tmp_path / "bundle", "--calls", "60"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"calls": 480' in done.stdout
