"""A PyTorch model in float64, and in float32 with its roundings falling elsewhere.

Both are modes that see every operation, so the model is neither changed nor copied: not its code
(T5 asks for float32 in the middle of its norms and softmax), and not its weights, of which one at a
time is widened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from .errors import ParityError
from .judge import FLOOR, Expected, largest_errors, near_ties

_aten = torch.ops.aten
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
#: Functions of PyTorch that refuse, or warn of, weights of another type than their inputs.
_STRICT = {
    *(f"conv{transposed}{axes}d" for transposed in ("", "_transpose") for axes in (1, 2, 3)),
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "rms_norm"),
}
#: Reads a tensor's ``dtype``.
_DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]
#: Weights with more values than this are widened in parts: 256 MB of float64.
_PART = 1 << 25
#: Runs in float32: the first two, and where these do not agree as many as there may be.
_RUNS, _MOST_RUNS = 2, 8
#: Errors of two runs agree if they differ by no more than this factor at any position.
_AGREEMENT = 4.0


@contextmanager
def in_float64() -> Iterator[None]:
    """Compute in float64 all that would be computed in float32 or less.

    What a model asks for by name (``.float()``, ``dtype=torch.float32``) is float64 as well.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _WideFunctions(), _WideOperations():
            yield
    finally:
        torch.set_default_dtype(default)


class _WideFunctions(TorchFunctionMode):
    """Patches for code that compares the types of weights and inputs before an operation runs."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _STRICT:
            args, kwargs = tree_map(_widened, (args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        return _widened(result) if func == _DTYPE else result


class _WideOperations(TorchDispatchMode):
    """All operations that compute."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _aten.embedding.default:  # picks rows: they need not be widened all
            return _widened(func(*args, **(kwargs or {})))
        if func.is_view:  # what reads it widens it
            return func(*args, **(kwargs or {}))
        if func is _aten.mm.default and args[1].numel() > _PART:
            return _product_in_parts(*args)
        if func is _aten.addmm.default and args[2].numel() > _PART and not kwargs:
            return _product_in_parts(args[1], args[2]) + _widened(args[0])
        # What an operation writes to stays what it is.
        aliases = [argument.alias_info for argument in func._schema.arguments]
        written = [alias is not None and alias.is_write for alias in aliases]
        wide = [
            value if keep else tree_map(_widened, value)
            for value, keep in zip(args, written, strict=False)
        ]
        named = {
            name: value if name == "out" else _widened(value)
            for name, value in (kwargs or {}).items()
        }
        return func(*wide, **named)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in _NARROW:
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


def _product_in_parts(left: Tensor, right: Tensor) -> Tensor:
    """left [P, K] @ right [K, N], some of right's columns widened at a time."""
    columns = max(1, _PART // right.shape[0])
    wide = _widened(left)
    return torch.cat([wide @ _widened(part) for part in torch.split(right, columns, 1)], dim=1)


class SumsReordered(TorchDispatchMode):
    """Add up dot products in a random order: other roundings, of the same size."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, args = func.overloadpacket.__name__, list(args)
        if name == "linear":
            args[:2] = self._reordered(args[0], args[1], -1)
        elif name in ("mm", "bmm", "matmul") and args[1].dim() > 1:
            args[:2] = self._reordered(args[0], args[1], -2)
        elif name in ("addmm", "baddbmm"):
            args[1:3] = self._reordered(args[1], args[2], -2)
        return func(*args, **(kwargs or {}))

    def _reordered(self, left: Tensor, right: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(left.shape[-1], generator=self._generator).to(left.device)
        return left.index_select(-1, order), right.index_select(axis, order)


def measure(
    run: Callable[[], Sequence[Tensor]], *, keep: int = 0, repeat: bool = False
) -> list[Expected]:
    """Run a model in float64 and several times in float32.

    Twice, and up to 8 times where the errors of these two disagree: there the model magnifies
    roundings, and one run's error may be large or small by chance.

    Args:
        run: computes outputs [..., N] in whatever mode is on, always the same ones.
        keep: of how many outputs, from the first, the runs are kept.
        repeat: first make sure that a second run gives the same: for code that is not ours.

    Raises:
        ParityError: a second run gives something else.
    """
    if repeat and not all(map(torch.equal, run(), run())):
        raise ParityError(
            "the model computes something else when it is run again on the same inputs, so nothing"
            " can be compared with it: dropout that eval() does not stop, random numbers or a"
            " state that changes may be why. Nothing was written"
        )
    with in_float64():
        outputs = run()
    exact = [output.double().cpu().numpy() for output in outputs]
    errors: list[list[NDArray[np.float64]]] = []
    kept: list[list[NDArray[np.float32]]] = []
    for float32 in _float32_runs(run):
        errors.append([largest_errors(f, e) for f, e in zip(float32, exact, strict=True)])
        kept.append(float32[:keep])
        if len(errors) == _RUNS and all(map(_agree, *errors, exact)):
            break
    return [
        Expected(
            wide,
            np.max([error[index] for error in errors], axis=0),
            tuple(float32[index] for float32 in kept) if index < keep else (),
        )
        for index, wide in enumerate(exact)
    ]


def _float32_runs(run: Callable[[], Sequence[Tensor]]) -> Iterator[list[NDArray[np.float32]]]:
    """As it is, then in other orders."""
    yield [output.float().cpu().numpy() for output in run()]
    for seed in range(1, _MOST_RUNS):
        with SumsReordered(seed):
            outputs = run()
        yield [output.float().cpu().numpy() for output in outputs]


def _agree(
    first: NDArray[np.float64], second: NDArray[np.float64], exact: NDArray[np.float64]
) -> bool:
    floor = FLOOR * np.abs(exact).max(-1)
    more, less = np.maximum(first, second), np.minimum(first, second)
    return bool((more <= _AGREEMENT * np.maximum(less, floor)).all())


def greedy_ties(
    score: Callable[[], Tensor], scores: NDArray[np.float32], logits: Expected
) -> NDArray[np.bool_]:
    """[B, T]: where float32 may choose another token than the one it chose.

    Args:
        score: the logits [B, T, V] of what greedy decoding wrote.
        scores: these logits as PyTorch computed them while it decoded.
        logits: of the same sources, whose worst rounding [B, Q] counts as well.
    """
    with in_float64():
        exact = score()
    rounding = np.broadcast_to(logits.rounding.max(1, keepdims=True), scores.shape[:2])
    return near_ties(scores, Expected(exact.cpu().numpy(), rounding))
