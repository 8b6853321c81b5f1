"""The task: digits of a number in, its English words out. Both sides have tokens of their own."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

PAD, START, END = 0, 1, 2
_SPECIAL = ["<pad>", "<s>", "</s>"]
SOURCE_TOKENS = [*_SPECIAL, *"0123456789"]
_ONES = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
TARGET_TOKENS = [*_SPECIAL, *_ONES, *_TENS, "hundred", "thousand", "and"]
#: Of a source, with its end; of a target, with its start or its end.
MAX_SOURCE, MAX_TARGET = 8, 16


def words(number: int) -> list[str]:
    """342 to "three hundred and forty two"; below a million."""
    if number < 20:
        return [_ONES[number]]
    if number < 100:
        rest = number % 10
        return [_TENS[number // 10 - 2], *([_ONES[rest]] if rest else [])]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = number % size
            link = ["and"] if rest and (size == 100 or rest < 100) else []
            return [*words(number // size), name, *link, *(words(rest) if rest else [])]
    raise AssertionError(number)


def source_ids(number: int) -> list[int]:
    return [SOURCE_TOKENS.index(digit) for digit in str(number)] + [END]


def target_ids(number: int) -> list[int]:
    return [TARGET_TOKENS.index(word) for word in words(number)] + [END]


def split(limit: int, held_out: int) -> tuple[list[int], list[int]]:
    """Numbers below ``limit`` to train on, and others to test on; long and short ones alike."""
    generator = random.Random(0)
    lengths = [range(10**n, min(10 ** (n + 1), limit)) for n in range(len(str(limit - 1)))]
    chosen: set[int] = set()
    for numbers in lengths:
        chosen.update(generator.sample(numbers, min(len(numbers), 30_000)))
    shuffled = sorted(chosen)
    generator.shuffle(shuffled)
    return shuffled[held_out:], shuffled[:held_out]


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """[B, longest] int64, padded on the right."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PAD)
