"""What a report says about the machine."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_model() -> str:
    """The processor's name; Arm kernels name the board instead, if anything."""
    names = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        key, _, value = line.partition(":")
        names[key.strip()] = value.strip()
    return names.get("model name") or names.get("Model") or platform.machine()
