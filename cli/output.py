"""Results: JSON for programs, lines with sizes and times for people."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from typing import Any


def print_result(
    options: argparse.Namespace, document: Mapping[str, Any], lines: Iterable[str]
) -> int:
    """Print ``document`` with ``--json``, else ``lines``; the exit code, 0."""
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        for line in lines:
            print(line)
    return 0


def human_bytes(count: float | None) -> str:
    """Bytes in decimal units, as disks and networks count them; None: ``unknown``."""
    if count is None:
        return "unknown"
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def human_seconds(seconds: float) -> str:
    """Such as ``1.6 s``."""
    return f"{seconds:.1f} s"


def human_parameters(count: int) -> str:
    """Such as ``2.1 M parameters``."""
    return f"{count / 1e6:.1f} M parameters"
