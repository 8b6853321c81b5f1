"""Large pages for the weights of a model that is used more than once.

A decoder step reads all weights. In pages of 4 KB they are more than a processor's table of
addresses (TLB) holds, and in a virtual machine a miss is several reads of memory: int8 decoding of
T5-small takes 0.8 to 0.95 of the CPU time once they lie in pages of 2 MB (docs/results). What a
session packs is allocated by ONNX Runtime, so pages are joined afterwards, which Linux does in
place (``MADV_COLLAPSE``, 6.1): addresses and contents stay. Only blocks all of whose pages are
there are joined, so no memory is added. Joining takes about 1 ms for 2 MB, so it is done beside
the second source, or group of sources: a process that decodes one pays nothing.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import logging
import mmap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_log = logging.getLogger(__name__)

#: First and last address of a mapping, the latter excluded.
Range = tuple[int, int]

_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
_MAPS = Path("/proc/self/maps")
#: Of madvise(2): let the system join pages when it gets round to it; join them now.
_HUGEPAGE, _COLLAPSE = 14, 25
#: Blocks in a row for which the system has no large page, before it is left in peace.
_MOST_FAILURES = 8


class LargePages:
    """What is mapped while a model loads, and how it comes into large pages.

    It does nothing where the system has none, or its user has turned them off (``never``).

    Attributes:
        block: bytes of a large page; 0: there are none.
    """

    def __init__(self) -> None:
        self.block = _block_size()
        self._before = _private_ranges() if self.block else []
        self._loaded: list[Range] = []
        #: Several threads may call at once.
        self._calls = itertools.count(1)
        self._stopped = threading.Event()

    def end_loading(self) -> None:
        """Take note of what was mapped since this object was made."""
        if self.block:
            self._loaded = list(_without(_private_ranges(), self._before))

    def begin_call(self) -> threading.Thread | None:
        """Join the pages on a thread of its own if this is the second call; else None.

        A call is a run of the encoder: a service that is never idle keeps its cache for hours.
        """
        if next(self._calls) != 2 or not self._loaded:
            return None
        thread = threading.Thread(target=self.join_pages, name="seq2edge-pages", daemon=True)
        thread.start()
        return thread

    def join_pages(self) -> int:
        """Put what was loaded into large pages, where all of a block is resident: bytes of those.

        Blocks for which the system has no large page stay as they are.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        joined = failures = 0
        advice = _COLLAPSE
        for start in self._resident_blocks(libc):
            if self._stopped.is_set() or failures == _MOST_FAILURES:
                break
            error = _advise(libc, start, self.block, advice)
            if error == errno.EINVAL and advice == _COLLAPSE:  # an older Linux
                advice = _HUGEPAGE
                error = _advise(libc, start, self.block, advice)
            joined += self.block * (error == 0)
            failures = 0 if error == 0 else failures + 1
        _log.debug("%d MB in large pages", joined // 1_000_000)
        return joined

    def stop(self) -> None:
        """Let the thread end after its present block; later calls start none."""
        self._stopped.set()
        self._loaded = []

    def _resident_blocks(self, libc: Any) -> Iterator[int]:
        pages = self.block // mmap.PAGESIZE
        for first, last in self._loaded:
            start, end = -(-first // self.block) * self.block, last // self.block * self.block
            if start >= end:
                continue
            resident = np.zeros((end - start) // mmap.PAGESIZE, np.uint8)
            found = libc.mincore(
                ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_void_p(_at(resident))
            )
            if found:  # part of it was given back meanwhile
                continue
            whole = (resident & 1).reshape(-1, pages).all(axis=1)
            yield from (start + self.block * int(place) for place in np.flatnonzero(whole))


def _advise(libc: Any, start: int, length: int, advice: int) -> int:
    """0, or the error's number."""
    failed = libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(advice))
    return ctypes.get_errno() if failed else 0


def _at(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _block_size() -> int:
    """0: the system has no large pages that programs may ask for."""
    try:
        if "[never]" in (_SETTINGS / "enabled").read_text():
            return 0
        return int((_SETTINGS / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


def _private_ranges() -> list[Range]:
    """Memory that the process alone writes, of no file, in the order of addresses (proc(5))."""
    ranges = []
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        addresses, access, _, _, inode, *name = line.split(maxsplit=5)
        if access == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            first, last = addresses.split("-")
            ranges.append((int(first, 16), int(last, 16)))
    return ranges


def _without(ranges: Sequence[Range], others: Sequence[Range]) -> Iterator[Range]:
    """What of ``ranges`` is in none of ``others``; both in the order of addresses."""
    for first, last in ranges:
        for start, end in others:
            if end <= first:
                continue
            if start >= last:
                break
            if first < start:
                yield first, start
            first = end
        if first < last:
            yield first, last
