"""How far a bundle may lie from PyTorch: the rule of the comparison at export.

Both are compared with the same model run in float64. At each position the bundle's largest error
may be :data:`MULTIPLE` times the largest that PyTorch itself makes there in float32, plus
:data:`FLOOR` of the largest value. What PyTorch makes is the worst of several runs that add up
their dot products in different orders (``rounding.py``): where a softmax is nearly tied one run
says little, since its error may be small by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

#: Of PyTorch's error. Right bundles of random models, shallow and 24 layers deep, with weights
#: small and huge, were within 2.3 times where PyTorch's runs agree, and within 4.5 where not.
MULTIPLE = 8.0
#: In units of the largest value: 8 roundings of float32, for where PyTorch is right by chance.
FLOOR = 8 * 2.0**-24
#: Share of the positions that may exceed the rule, up to what the worst position is allowed.
#: With large weights a softmax may choose another maximum in one run and not in the others.
SPARE = 0.02

#: The rule in words.
RULE = (
    f"at each position {MULTIPLE:g} times the largest error of PyTorch in float32, and"
    f" {FLOOR:.1e} of the largest value; float64 is right"
)

_Float = TypeVar("_Float", bound=np.floating[Any])
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Expected:
    """The exact values, and how exactly PyTorch computes them.

    Attributes:
        exact: [..., P, N] float64, N values at each of P positions.
        rounding: [..., P] float64, at each position the largest |PyTorch in float32 - exact|.
        runs: PyTorch's runs in float32, [..., P, N] each, where :meth:`projected` needs them.
    """

    exact: NDArray[np.float64]
    rounding: NDArray[np.float64]
    runs: tuple[NDArray[np.float32], ...] = ()

    @property
    def allowed(self) -> NDArray[np.float64]:
        """[..., P], the largest error that passes at each position."""
        scale = np.maximum(self.exact.max(-1), -self.exact.min(-1))
        allowed: NDArray[np.float64] = MULTIPLE * self.rounding + FLOOR * scale
        return allowed

    def at(self, positions: NDArray[np.bool_]) -> Expected:
        """Only where it is True, as [P, N]."""
        runs = tuple(run[positions] for run in self.runs)
        return Expected(self.exact[positions], self.rounding[positions], runs)

    def projected(
        self, layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32] | None]], parts: int
    ) -> Expected:
        """After linear layers (weight [N, parts * M], bias): [layers * parts, P, M]."""
        exact, rounding = [], []
        for weight, bias in layers:
            added = 0 if bias is None else bias

            wide = _split(self.exact @ weight.astype(np.float64) + added, parts)
            runs = [_split(run @ weight + added, parts) for run in self.runs]
            exact.append(wide)
            rounding.append(np.max([largest_errors(run, wide) for run in runs], axis=0))
        return Expected(np.concatenate(exact), np.concatenate(rounding))


@dataclass(frozen=True)
class Difference:
    """|bundle - PyTorch in float64| beside |PyTorch in float32 - PyTorch in float64|.

    Attributes:
        maximum, mean: of the bundle, over all values.
        pytorch: the maximum of PyTorch in float32.
        scale: the largest |value|.
        positions: how many were compared.
        beyond: at how many of them the bundle's error is larger than the rule allows.
        worst: the largest ratio of an error to what is allowed at its position.
        outside: whether an error is larger than the rule allows at any position, or not a number.
    """

    maximum: float
    mean: float
    pytorch: float
    scale: float
    positions: int
    beyond: int
    worst: float
    outside: bool

    @property
    def ok(self) -> bool:
        return not self.outside and self.beyond <= SPARE * self.positions


def judge(pairs: Sequence[tuple[Array, Expected]]) -> Difference:
    """Compare pairs of (the bundle's values [..., P, N], what is expected of them).

    Each pair has positions of its own. Axes before P are several values at the same positions,
    such as keys and values of all layers: the worst of them counts.
    """
    worst, maxima, outside, total, count = [], [], False, 0.0, 0
    for values, expected in pairs:
        errors, added = _errors(values, expected.exact)
        allowed = expected.allowed
        ratios = errors / np.where(allowed > 0, allowed, np.finfo(np.float64).tiny)
        worst.append(ratios.reshape(-1, ratios.shape[-1]).max(0))
        maxima.append(errors.max())
        outside |= not (errors.max(-1) <= allowed.max(-1)).all()  # NaN is not <= anything
        total, count = total + added, count + values.size
    ratio = np.concatenate(worst)
    return Difference(
        maximum=float(np.max(maxima)),
        mean=total / count,
        pytorch=float(np.max([expected.rounding.max() for _, expected in pairs])),
        scale=float(np.max([np.abs(expected.exact).max() for _, expected in pairs])),
        positions=ratio.size,
        beyond=int(np.count_nonzero(~(ratio <= 1))),
        worst=float(ratio.max()),
        outside=outside,
    )


def largest_errors(values: Array, exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., P]: the largest |values - exact| at each position of [..., P, N]."""
    return _errors(values, exact)[0]


def _split(values: NDArray[_Float], parts: int) -> NDArray[_Float]:
    """[P, parts * M] as [parts, P, M]."""
    return np.moveaxis(values.reshape(len(values), parts, -1), 1, 0)


def _errors(values: Array, exact: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """:func:`largest_errors`, and the sum of all.

    Position by position: logits over a large vocabulary are not held once more.
    """
    if values.shape != exact.shape:
        raise AssertionError(f"{values.shape} is compared with {exact.shape}")
    largest, total = np.empty(exact.shape[:-1]), 0.0
    for position in np.ndindex(largest.shape):
        error = np.abs(values[position] - exact[position])
        largest[position] = error.max()
        total += float(error.sum())
    return largest, total


def near_ties(logits: Array, expected: Expected) -> NDArray[np.bool_]:
    """[..., P]: where float32 may choose either of the two best of N logits.

    That is where the two, in float64, are no further apart than errors that pass may move them.

    Args:
        logits: PyTorch's logits in float32 [..., P, N], whose error counts as well.
    """
    rounding = np.maximum(expected.rounding, largest_errors(logits, expected.exact))
    allowed = Expected(expected.exact, rounding).allowed
    margins = np.empty_like(allowed)
    for position in np.ndindex(margins.shape):
        second, best = np.partition(expected.exact[position], -2)[-2:]
        margins[position] = best - second
    ties: NDArray[np.bool_] = margins <= 2 * allowed
    return ties
