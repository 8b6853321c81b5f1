"""Packages of this environment, linked into a folder of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest


def link_pins(lines: Iterable[str], folder: Path) -> Path:
    """Link what requirements lines pin (``NAME==VERSION``) into the new ``folder``.

    Skips the test where another version is installed.
    """
    folder.mkdir()
    for line in lines:
        pin, _, marker = line.partition(" ; ")
        name, _, wanted = pin.partition("==")
        if not wanted:  # a file
            continue
        if marker and marker.startswith("python_version <") != (sys.version_info < (3, 11)):
            continue
        found = distribution(name)
        if found.version != wanted:
            pytest.skip(f"{name} is {found.version} here, not {wanted}")
        for top in {file.parts[0] for file in found.files or ()} - {".."}:
            (folder / top).symlink_to(found.locate_file(top))
    return folder
