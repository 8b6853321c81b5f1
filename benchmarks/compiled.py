"""Our modules as an installation leaves them: compiled.

Those of a clone are compiled by each process that imports them where Python may not write
(``PYTHONDONTWRITEBYTECODE``, as in containers), and loading would be timed with that: 130 ms of
CPU time of Whisper's 500.
"""

from __future__ import annotations

import compileall
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
#: What a model's process imports.
_FOLDERS = ("runtime", "benchmarks")


def compile_modules(package: Path = _PACKAGE) -> None:
    """Compile what has changed since it was; what cannot be written stays as it is.

    Args:
        package: the folder that holds ``runtime`` and ``benchmarks``.
    """
    compileall.compile_dir(package, maxlevels=0, quiet=2)
    for folder in _FOLDERS:
        compileall.compile_dir(package / folder, quiet=2)
