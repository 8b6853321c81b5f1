"""CTranslate2's variables as the tensors of the transformers model that they were made from.

A converter stacks query, key and value, drops rows that nothing reads, and keeps tied tables once.
Each step is undone here, and every variable of the file is either used or named in an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import CheckpointError
from ..formats import FloatArray
from .model_bin import ModelBin

#: Ends of variables that the supported models never have, and what they are.
_OTHERS = (
    (r"relative_position_(keys|values)", "relative positions of Shaw et al. 2018"),
    (r"relative_asymmetric_position_keys|relative_(left|right)_max_position", "relative keys"),
    (r"rotary_\w+|(original_)?max_position_embeddings", "rotary positions"),
    (r"weight_zero", "weights of AWQ"),
    (r"embeddings_[1-9]\d*/\w+", "source features beside the tokens"),
    (r"[qkv]_norm/\w+", "norms of queries and keys"),
    (r"num_heads_kv|multi_query|head_dim", "heads that share keys and values"),
    (r"memory_kv/\w+", "memory keys and values"),
    (r"project_(in|out)/\w+", "projections around the layers"),
)


@dataclass(frozen=True)
class Stack:
    """What the file says of one side: layers, heads, width of the states and of the ffn."""

    layers: int
    heads: int
    width: int
    ffn: int


@dataclass(frozen=True)
class _Tensor:
    """Rows of a variable with rows of zeros around them; ``variable`` None: only zeros."""

    variable: str | None
    shape: tuple[int, ...]
    start: int = 0
    stop: int | None = None
    above: int = 0
    below: int = 0


class Tensors:
    """Tensors by the names of transformers; a :class:`..formats.TensorSource`.

    Args:
        model: the file.

    Attributes:
        nested: False, as :class:`..formats.TensorSource` has it.
    """

    nested = False

    def __init__(self, model: ModelBin) -> None:
        self.model = model
        self._tensors: dict[str, _Tensor] = {}
        self._used: set[str] = set()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def load(self, name: str) -> FloatArray:
        tensor = self._tensors[name]
        if tensor.variable is None:
            return np.zeros(tensor.shape, np.float32)
        array = self.model.load(tensor.variable, tensor.start, tensor.stop)
        if tensor.above or tensor.below:
            around = [(tensor.above, tensor.below), *[(0, 0)] * (array.ndim - 1)]
            array = np.pad(array, around)
        return array.reshape(tensor.shape)

    def has(self, variable: str) -> bool:
        return variable in self.model.variables

    def shape(self, variable: str) -> tuple[int, ...]:
        """The shape of a variable.

        Raises:
            CheckpointError: there is no such variable.
        """
        if not self.has(variable):
            raise CheckpointError(f"{self.model.path} has no {variable}")
        return self.model.variables[variable].shape

    def same(self, first: str, second: str) -> bool:
        """Whether two names stand for one variable (equal ones are stored once)."""
        there = self.has(first) and self.has(second)
        return there and self.model.variables[first] == self.model.variables[second]

    def scalar(self, variable: str, default: float) -> float:
        """A number of the file, and a default where it is not there."""
        if not self.has(variable):
            return default
        self._used.add(variable)
        return self.model.scalar(variable)

    def text(self, variable: str) -> str:
        """A text of the file."""
        self._used.add(variable)
        return self.model.text(variable)

    def integer(self, variable: str) -> int:
        """A whole number above 0.

        Raises:
            CheckpointError: it is missing or another.
        """
        value = self.scalar(variable, 0)
        if value < 1 or value != math.floor(value):
            raise CheckpointError(
                f"{self.model.path}: {variable} must be a positive whole number, not {value:g}"
            )
        return int(value)

    def require(self, variable: str, value: float, default: float, what: str) -> None:
        """Refuse another value of a number, by name.

        Raises:
            CheckpointError: ``variable`` is not ``value``, nor is ``default`` where it is missing.
        """
        found = self.scalar(variable, default)
        if not math.isclose(found, value, rel_tol=1e-3, abs_tol=1e-6):
            raise CheckpointError(f"{self.model.path}: {variable} is {found:g}: {what}")

    def whole(self, name: str, variable: str, *, above: int = 0, below: int = 0) -> None:
        """A variable as a tensor, with rows of zeros before and after it."""
        rows, *others = self.shape(variable) or (1,)
        self._add(
            name, _Tensor(variable, (above + rows + below, *others), above=above, below=below)
        )

    def row(self, name: str, variable: str, *, below: int = 0) -> None:
        """A variable [N] as a tensor [1, N + below]."""
        (count,) = self._of_rank(variable, 1)
        self._add(name, _Tensor(variable, (1, count + below), below=below))

    def zeros(self, name: str, shape: tuple[int, ...]) -> None:
        self._add(name, _Tensor(None, shape))

    def norm(self, name: str, scope: str, *, bias: bool = True) -> None:
        self.whole(f"{name}.weight", f"{scope}/gamma")
        if bias:
            self.whole(f"{name}.bias", f"{scope}/beta")

    def linear(
        self, names: Sequence[str], scope: str, *, bias: bool, without: Iterable[str] = ()
    ) -> None:
        """Linear layers that are stacked in one; the first of ``names`` has the first rows.

        Args:
            names: of the layers, as transformers has them.
            scope: the layer's in the file.
            bias: layers have one; where the file has none it is zero.
            without: those of ``names`` whose bias does not exist, and is zero in the file.
        """
        rows, inputs = self._of_rank(f"{scope}/weight", 2)
        stored = bias and self.has(f"{scope}/bias")
        if rows % len(names) or (stored and self.shape(f"{scope}/bias") != (rows,)):
            raise CheckpointError(
                f"{self.model.path}: {scope} has a weight of {[rows, inputs]} and a bias that do"
                f" not fit {len(names)} layers of one size"
            )
        size = rows // len(names)
        for number, name in enumerate(names):
            start, stop = number * size, (number + 1) * size
            self._add(f"{name}.weight", _Tensor(f"{scope}/weight", (size, inputs), start, stop))
            if stored and name in without:
                self._refuse_bias(f"{scope}/bias", start, stop, name)
            elif stored:
                self._add(f"{name}.bias", _Tensor(f"{scope}/bias", (size,), start, stop))
            elif bias and name not in without:
                self.zeros(f"{name}.bias", (size,))

    def attention(
        self, name: str, scope: str, letters: str, last: str, *, bias: bool, cross: bool
    ) -> None:
        """Query, key and value and the layer after them.

        Args:
            name: before the names of the four layers.
            scope: in the file.
            letters: name of a layer, with ``{}`` for q, k or v.
            last: name of the last one.
            bias: whether they have one.
            cross: the keys and values are the encoder's, and stacked without the query.
        """
        stacked = ("q", "kv") if cross else ("qkv",)
        for number, parts in enumerate(stacked):
            names = [f"{name}.{letters.format(part)}" for part in parts]
            self.linear(names, f"{scope}/linear_{number}", bias=bias)
        self.linear([f"{name}.{last}"], f"{scope}/linear_{len(stacked)}", bias=bias)

    def stack(self, side: str) -> Stack:
        """The sizes of ``encoder`` or ``decoder``."""
        numbers = {
            int(match[1])
            for name in self.model.variables
            if (match := re.match(rf"{side}/layer_(\d+)/", name)) is not None
        }
        if not numbers or numbers != set(range(len(numbers))):
            raise CheckpointError(
                f"{self.model.path} has the layers {sorted(numbers)} of its {side}; convert the"
                " model again"
            )
        ffn, width = self._of_rank(f"{side}/layer_0/ffn/linear_0/weight", 2)
        return Stack(len(numbers), self.integer(f"{side}/num_heads"), width, ffn)

    def refuse_others(self) -> None:
        """Refuse what CTranslate2 can compute and no supported family does.

        Raises:
            CheckpointError: with its name, and what it is.
        """
        for name in self.model.variables:
            for end, what in _OTHERS:
                if re.search(rf"(/|^)({end})$", name):
                    raise self._unsupported(f"{name} ({what})")

    def finish(self, meaningless: Iterable[str] = ()) -> None:
        """Refuse variables that nothing has asked for.

        Args:
            meaningless: regular expressions of those that do not change what is computed.

        Raises:
            CheckpointError: with their names, and what they are.
        """
        used = {
            self.model.variables[tensor.variable].start
            for tensor in self._tensors.values()
            if tensor.variable is not None
        }
        used |= {self.model.variables[name].start for name in self._used}
        patterns = [re.compile(pattern) for pattern in (*meaningless, r".*weight_scale")]
        left = sorted(
            name
            for name, variable in self.model.variables.items()
            if variable.start not in used
            and not any(pattern.fullmatch(name) for pattern in patterns)
        )
        if left:
            more = f" and {len(left) - 1} more variables" if len(left) > 1 else ""
            raise self._unsupported(f"{left[0]}{more}")

    def _unsupported(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.model.path} has {what}, which is not supported; export the checkpoint that the"
            " model was converted from"
        )

    def _add(self, name: str, tensor: _Tensor) -> None:
        if tensor.variable is not None:
            self.shape(tensor.variable)
        self._tensors[name] = tensor

    def _of_rank(self, variable: str, rank: int) -> tuple[int, ...]:
        shape = self.shape(variable)
        if len(shape) != rank:
            raise CheckpointError(
                f"{self.model.path}: {variable} has shape {list(shape)}, not {rank} axes"
            )
        return shape

    def _refuse_bias(self, variable: str, start: int, stop: int, name: str) -> None:
        if self.model.load(variable, start, stop).any():
            raise CheckpointError(
                f"{self.model.path}: {variable} is not zero where {name} has no bias"
            )
