"""The longest source and target that a user's two functions take, tried out on the functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import onnx_ir as ir
import torch

from .errors import CheckpointError
from .tracing import Functions

#: Longer inputs are not tried: attention over them may take gigabytes.
_LONGEST = 4096
_SOURCE = 4
Works = Callable[[int], bool]


def source_limit(
    functions: Functions, models: Mapping[str, ir.Model], vocab_size: int, told: int | None
) -> int | None:
    """The most tokens that ``encode`` takes; None: there is no limit that could be found.

    Args:
        models: the traced graphs: a limit is the size of one of their tensors.
        told: what the user says it is; it is checked.

    Raises:
        CheckpointError: ``encode`` takes fewer than ``told``.
    """

    def works(length: int) -> bool:
        ids = torch.zeros(1, length, dtype=torch.long) + min(1, vocab_size - 1)
        return _runs(lambda: functions.run_encode(ids, torch.ones_like(ids)))

    return _limit(works, models, "max_source_length", "encode", told)


def target_limit(
    functions: Functions, models: Mapping[str, ir.Model], vocab_size: int, told: int | None
) -> int | None:
    """The same of ``decode_step``, whose tokens' positions follow those of the cache."""
    source = torch.zeros(1, _SOURCE, dtype=torch.long)
    mask = torch.ones_like(source)
    with torch.no_grad():
        cross = functions.run_encode(source, mask)
    token = torch.zeros(1, 1, dtype=torch.long) + min(1, vocab_size - 1)

    def works(length: int) -> bool:
        pasts = functions.empty(1, length - 1)
        return _runs(lambda: functions.decode_step(token, pasts, cross, mask))

    return _limit(works, models, "max_target_length", "decode_step", told)


def _runs(function: Callable[[], object]) -> bool:
    try:
        with torch.no_grad():
            function()
    except MemoryError:
        raise
    except Exception:  # the user's code, past the end of a table: of any class
        return False
    return True


def _limit(
    works: Works, models: Mapping[str, ir.Model], option: str, what: str, told: int | None
) -> int | None:
    if told is not None and (told > _LONGEST or works(told)):
        return told
    longest = _longest(works, _sizes(models.values()))
    if told is not None:
        least = longest or _between(works, 1, told)
        raise CheckpointError(
            f"sizes.{option} is {told}, and {what} fails with more than {least} tokens"
        )
    return longest


def _longest(works: Works, sizes: Iterable[int]) -> int | None:
    """The largest length that works, if a tensor's size is where it ends."""
    good = 1
    for size in sizes:
        if works(size + 1):
            good = size + 1
        elif works(size):
            return size
        else:
            return _between(works, good, size)
    return None


def _between(works: Works, good: int, bad: int) -> int:
    """The largest length that works, from one that does to one that does not."""
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if works(middle) else (good, middle)
    return good


def _sizes(models: Iterable[ir.Model]) -> list[int]:
    """Of all axes of all tensors, those that a table of positions may have."""
    shapes = (
        value.const_value.shape.numpy()
        for model in models
        for value in model.graph.initializers.values()
        if value.const_value is not None and len(value.const_value.shape) > 1
    )
    return sorted({int(size) for shape in shapes for size in shape if 1 < size < _LONGEST})
