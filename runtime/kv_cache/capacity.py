"""How many cache slots to allocate: grown in steps, because attention reads all of them.

A step over 512 slots took 0.2 ms longer than one over 128 (T5-small geometry, 2 cores,
docs/design.md), while growing copies the cache only a few times in a long text.
"""

from __future__ import annotations

#: Slots are a multiple of this: CUDA's fused attention wants a multiple of 4, and whole
#: 64-byte lines of a mask row are kind to every target.
_MULTIPLE = 16
_FIRST = 64


def first_capacity(slots: int, prompt: int) -> int:
    """Slots to start with for a prompt of ``prompt`` tokens and at most ``slots`` in all."""
    return max(_round_up(prompt), min(_round_up(slots), _FIRST))


def grown_capacity(capacity: int, slots: int, needed: int) -> int:
    """Twice as many slots, or what the call can need at most; at least ``needed``."""
    return max(min(2 * capacity, _round_up(slots)), _round_up(needed))


def _round_up(slots: int) -> int:
    return -(-slots // _MULTIPLE) * _MULTIPLE
