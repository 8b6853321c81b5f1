"""Architectures that are a model of their own, or one side of an encoder-decoder pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..spec import Activation, StackSpec
from ..transforms import Copy, Projected, ProjectedBias, Transform, Transpose
from ..weights import WeightMapping, linear, norm
from .base import Config


@dataclass(frozen=True)
class Head:
    """Names of a language-model head's tensors.

    Attributes:
        weight: the output embedding.
        biases: names under which its bias is saved, the last one that of the layer which is run;
            untied from the embedding, a head has that bias only. None: it has no bias.
        transform: a linear layer and a norm before it, and the activation between them.
    """

    weight: str
    biases: tuple[str, ...] = ()
    transform: tuple[str, str, Callable[[Config], Activation]] | None = None


@dataclass(frozen=True)
class SideNames:
    """How the tensors of one side are named.

    Attributes:
        prefix: what is before its tensors' names in the checkpoint.
        side: ``encoder`` or ``decoder``, as the graphs' parameters are named.
        embedding: the parameter of its token embedding.
        tied: other names of the tensor of that.
        crossed: it has cross-attention.
        projection: a linear layer of the checkpoint between the encoder's states and the
            cross-attention; None: there is none.
    """

    prefix: str
    side: str
    embedding: str = "embedding.weight"
    tied: tuple[str, ...] = ()
    crossed: bool = False
    projection: str | None = None


@dataclass(frozen=True)
class Component:
    """An architecture that is a model of its own or one side of a pair.

    Attributes:
        model: what is before all names but the head's, in a model that has a head.
        defaults: config values that the model's code assumes where config.json is silent.
        stack: its layers, by its config.
        weight_map: the name map of its embedding and layers.
        embedding: name of its token embedding.
        head: of a decoder.
        ignored: regular expressions of names that it never reads; without ``model``.
    """

    kind: str
    model: str
    defaults: Mapping[str, Any]
    stack: Callable[[Config], StackSpec]
    weight_map: Callable[[StackSpec, SideNames], list[WeightMapping]]
    embedding: str
    head: Head
    ignored: tuple[str, ...] = ()

    def is_tied(self, checkpoint: Checkpoint, prefix: str = "") -> bool:
        """Whether the head is the token embedding itself, by the tensors."""
        head, embedding = prefix + self.head.weight, prefix + self.model + self.embedding
        if not {head, embedding} <= checkpoint.names:
            return True
        return checkpoint.equal(head, embedding)

    def head_activation(self, config: Config) -> Activation | None:
        """``ModelSpec.head_transform``."""
        return None if self.head.transform is None else self.head.transform[2](config)

    def head_weight_map(self, tied: bool, prefix: str = "") -> list[WeightMapping]:
        """The name map of the head, but for a tied weight."""
        mappings: list[WeightMapping] = []
        biases = tuple(prefix + name for name in self.head.biases)
        if not tied:
            mappings.append(
                WeightMapping("lm_head.weight", (prefix + self.head.weight,), Transpose())
            )
            biases = biases[-1:]
        if biases:
            mappings.append(WeightMapping("lm_head.bias", biases[:1], tied=biases[1:]))
        if self.head.transform is not None:
            dense, last, _ = self.head.transform
            mappings += linear("head_transform.dense", prefix + dense, bias=True)
            mappings += norm("head_transform.norm", prefix + last, bias=True)
        return mappings


def head_dim(config: Config, width: str, heads: str) -> int:
    """Width of one attention head.

    Raises:
        CheckpointError: the width is not a multiple of the number of heads.
    """
    size, count = config.integer(width), config.integer(heads)
    if size % count:
        raise CheckpointError(
            f"config.json: {config.where}{width} {size} is not a multiple of {config.where}{heads}"
            f" {count}"
        )
    return size // count


def require(config: Config, key: str, expected: object, reason: str) -> None:
    """Refuse another value than ``expected``.

    Raises:
        CheckpointError: it is another one.
    """
    if config.get(key) != expected:
        raise CheckpointError(
            f"config.json: {config.where}{key} {config.get(key)!r} is not supported: {reason}"
        )


def cross_weight_map(
    index: int, inner: Transform, sources: tuple[str, ...], width: int, projection: str | None
) -> list[WeightMapping]:
    """Cross-attention keys and values of a layer, through ``projection`` where there is one."""
    parameter = f"cross.{index}.kv"
    weights = tuple(f"{source}.weight" for source in sources)
    biases = tuple(f"{source}.bias" for source in sources)
    if projection is None:
        return [
            WeightMapping(f"{parameter}.weight", weights, inner),
            WeightMapping(f"{parameter}.bias", biases, Copy()),
        ]
    through = (f"{projection}.weight", f"{projection}.bias")
    return [
        WeightMapping(f"{parameter}.weight", (*weights, through[0]), Projected(inner, width)),
        WeightMapping(
            f"{parameter}.bias", (*weights, *biases, through[1]), ProjectedBias(inner, width)
        ),
    ]
