"""Limits of the control groups that this process is in, of both of the kernel's versions.

Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/admin-guide/cgroup-v1/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .reading import read_int, read_lines, read_text, to_int

#: Version 1 says "no limit" with the largest multiple of a page.
_NO_LIMIT = 1 << 60


def cpu_limit(root: Path) -> float | None:
    """Processor time that is allowed, in cores; None: no limit."""
    limits = []
    for folder in _folders(root, "cpu"):
        quota, _, period = (read_text(folder / "cpu.max") or "").partition(" ")
        numbers = to_int(quota), to_int(period)
        if None in numbers:
            numbers = (
                read_int(folder / "cpu.cfs_quota_us"),
                read_int(folder / "cpu.cfs_period_us"),
            )
        allowed, of = numbers
        if allowed is not None and of is not None and allowed > 0 and of > 0:
            limits.append(allowed / of)
    return min(limits, default=None)


def memory_limit(root: Path) -> tuple[int | None, int | None]:
    """The tightest limit in bytes and what is used of it; None: no limit."""
    limits = []
    for folder in _folders(root, "memory"):
        limit = read_int(folder / "memory.max")
        used = read_int(folder / "memory.current")
        if limit is None:
            limit = read_int(folder / "memory.limit_in_bytes")
            used = read_int(folder / "memory.usage_in_bytes")
        if limit is None or not 0 < limit < _NO_LIMIT:
            continue
        used = max(0, (used or 0) - _inactive_files(folder))
        limits.append((limit - used, limit, used))
    if not limits:
        return None, None
    _, limit, used = min(limits)
    return limit, used


def _inactive_files(folder: Path) -> int:
    """File pages that the kernel drops before anything else; they count as used."""
    values = dict(line.rpartition(" ")[::2] for line in read_lines(folder / "memory.stat"))
    value = to_int(values.get("total_inactive_file", values.get("inactive_file")))
    return value or 0


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The group's folder and those above it, all of whose limits apply."""
    for line in read_lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "":
            mounts = [root / "sys/fs/cgroup"]
        elif controller in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup" / controller]
        else:
            continue
        # In a container the path may be the host's, which is not there: its mount still is.
        parts = [part for part in name.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                yield mount.joinpath(*parts[:depth])
