"""Reading what the kernel says: a file that is missing or garbled is None, never an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

#: No file that a probe reads is longer; /proc/cpuinfo of 1,000 cores is.
_MOST_BYTES = 1 << 20


def read_text(path: Path) -> str | None:
    """The text of a file without its surrounding white space and NULs."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
    except (OSError, ValueError):  # a sensor that is off gives EAGAIN or EINVAL
        return None
    return data.decode("utf-8", "replace").strip("\0 \t\r\n")


def read_lines(path: Path) -> list[str]:
    return (read_text(path) or "").splitlines()


def read_int(path: Path) -> int | None:
    return to_int(read_text(path))


def to_int(text: str | None) -> int | None:
    """The integer that the text is; units and anything else make it None."""
    if text is None or not re.fullmatch(r"[-+]?[0-9]{1,20}", text.strip(), re.ASCII):
        return None
    return int(text)


def fields(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Key and value of lines such as ``MemTotal:  16 kB``."""
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            yield key.strip(), value.strip()


def folders(parent: Path, pattern: str) -> list[Path]:
    """Folders and links to folders that match, in the order of the numbers in their names."""
    try:
        paths = list(parent.glob(pattern))
    except OSError:
        return []

    def order(path: Path) -> list[tuple[int, str]]:
        return [(int(part or -1), text) for text, part in re.findall(r"(\D*)(\d*)", path.name)]

    return sorted(paths, key=order)
