"""The source distribution and the wheel, as `pip install` of an archive would make them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

#: What a clone has and git does not know of.
_NOT_OF_THE_CLONE = shutil.ignore_patterns(
    ".*_cache", ".git", ".venv", "__pycache__", "*.bundle", "*.egg-info", "build", "dist"
)


def build(repository: Path, output: Path) -> tuple[Path, Path]:
    """Build the source distribution, and from it the wheel, into ``output``.

    Raises:
        ConnectionError: setuptools cannot be had from the package index.
    """
    source = output.with_name("source")
    shutil.copytree(repository, source, ignore=_NOT_OF_THE_CLONE)
    command = [sys.executable, "-m", "build", "--outdir", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if "No matching distribution" in said or "Could not find a version" in said:
        raise ConnectionError("the package index cannot be reached")
    if done.returncode != 0:
        raise RuntimeError(said[-2000:])
    (sdist,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    return sdist, wheel
