"""Main memory and swap, and what the control group leaves of it."""

from __future__ import annotations

from pathlib import Path

from .cgroup import memory_limit
from .facts import Memory
from .reading import fields, read_lines, to_int

#: /proc counts in units of 1,024 bytes, which it calls kB.
_UNIT = 1024


def examine_memory(root: Path) -> Memory:
    """Read /proc/meminfo, /proc/swaps and the control group's limit."""
    sizes = dict(fields(read_lines(root / "proc/meminfo")))

    def size(name: str) -> int | None:
        number = to_int(sizes.get(name, "").removesuffix(" kB"))
        return None if number is None else number * _UNIT

    limit, used = memory_limit(root)
    return Memory(
        total=size("MemTotal"),
        available=size("MemAvailable"),
        swap_total=size("SwapTotal"),
        swap_free=size("SwapFree"),
        zram_total=_zram(root),
        cgroup_limit=limit,
        cgroup_used=used,
    )


def _zram(root: Path) -> int:
    """Swap whose device is memory: name, type, size, used and priority, one device per line."""
    total = 0
    for line in read_lines(root / "proc/swaps")[1:]:
        columns = line.split()
        if len(columns) > 2 and columns[0].rpartition("/")[2].startswith("zram"):
            total += (to_int(columns[2]) or 0) * _UNIT
    return total
