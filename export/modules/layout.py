"""What the names and shapes of tensors say: layers, widths, biases, norms, ties."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from .names import (
    DEVIATION_TENSORS,
    FFN_GATE,
    NORM_TENSORS,
    PROJECTIONS,
    PYTORCH,
    Pattern,
    check_names,
    norms,
    providers,
    sublayers,
)
from .parts import ModuleDescription, ModuleParts, SideParts

#: A sublayer of a layer: its name in our map, and the layer's number.
Place = tuple[str, int]


@dataclass(frozen=True)
class NormTensors:
    """The tensors of a norm that is there once."""

    weight: str
    bias: str | None


@dataclass(frozen=True)
class StackLayout:
    """One side.

    ``layers`` is what comes before a layer's number, where the layers are PyTorch's. ``biases``
    has the places of those sublayers that have a bias in any layer. ``norm_question`` is why the
    tensors' names leave open what kind the norms are.
    """

    layers: str
    count: int
    names: Mapping[str, str]
    inner_dim: int
    ffn_dim: int
    weights: Mapping[Place, str]
    biases: Mapping[Place, str]
    norm_question: str | None
    norm: NormTensors | None
    embedding_norm: NormTensors | None

    @property
    def gated(self) -> bool:
        return FFN_GATE in self.names

    @property
    def attention_bias(self) -> bool:
        return any("attention." in name for name, _ in self.biases)

    @property
    def bias(self) -> bool:
        return any(name.startswith("ffn.") for name, _ in self.biases)

    @property
    def norm_bias(self) -> bool:
        return any(name.endswith("_norm") for name, _ in self.biases)


@dataclass(frozen=True)
class Layout:
    """Both sides, the sizes they share, and which of the three token tables are one.

    ``source``, ``target``, ``head`` and ``head_bias`` are names of tensors. ``shared``: source
    and target embedding are one; ``tied``: target embedding and generator. ``problems`` are what
    does not fit, as messages.
    """

    encoder: StackLayout
    decoder: StackLayout
    d_model: int
    source: str
    target: str
    head: str
    head_bias: str | None
    source_vocab_size: int
    target_vocab_size: int
    shared: bool
    tied: bool
    problems: tuple[str, ...]


def find_layout(description: ModuleDescription, tensors: Checkpoint) -> Layout:
    """Read the layout off the tensors.

    Raises:
        CheckpointError: so much is missing that the sizes are unknown; all that was found.
    """
    parts = _present(description.parts, tensors)
    problems: list[str] = []
    source = tensor_name(parts.source_embedding, tensors.names)
    target = tensor_name(parts.target_embedding, tensors.names)
    head = target if parts.generator is None else tensor_name(parts.generator, tensors.names)
    stacks = [_stack(side, tensors, problems) for side in parts.sides().values()]
    widths = [_size(name, 1, tensors) for name in (source, target, head)]
    d_model = next((width for width in widths if width is not None), None)
    encoder, decoder = stacks
    if encoder is None or decoder is None or d_model is None:
        absent = [
            name for name in dict.fromkeys((source, target, head)) if name not in tensors.names
        ]
        problems += [f"missing tensor {name}" for name in absent]
        prefixes = ", ".join(sorted({name.partition(".")[0] for name in tensors.names})[:8])
        raise CheckpointError(
            f"{tensors.directory} does not fit its description: {'; '.join(problems)};"
            f" the names of its tensors begin with {prefixes}"
        )
    return Layout(
        encoder=encoder,
        decoder=decoder,
        d_model=d_model,
        source=source,
        target=target,
        head=head,
        head_bias=_bias(head, tensors.names) if parts.generator is not None else None,
        source_vocab_size=_rows(source, tensors),
        target_vocab_size=_rows(target if target in tensors.names else head, tensors),
        shared=_same(source, target, tensors),
        tied=_same(head, target, tensors),
        problems=tuple(problems),
    )


def tensor_name(part: str, names: Collection[str]) -> str:
    """The tensor that a part's name means: itself, or the weight of a module."""
    return part if part in names else f"{part}.weight"


def _bias(weight: str, names: Collection[str]) -> str | None:
    bias = f"{weight.removesuffix('weight')}bias"
    return bias if weight.endswith("weight") and bias in names else None


def _present(parts: ModuleParts, tensors: Checkpoint) -> ModuleParts:
    """Without those optional parts that the tensors lack."""
    absent: dict[str, Any] = {
        attribute: None
        for attribute in parts.optional
        if not any(name.startswith(f"{getattr(parts, attribute)}.") for name in tensors.names)
    }
    return replace(parts, **absent)


def _same(one: str, other: str, tensors: Checkpoint) -> bool:
    both = {one, other} <= tensors.names
    return one == other or (both and tensors.equal(one, other))


def _size(name: str, axis: int, tensors: Checkpoint) -> int | None:
    """Of a matrix that is there."""
    shape = tensors.shape(name) if name in tensors.names else ()
    return shape[axis] if len(shape) == 2 else None


def _rows(name: str, tensors: Checkpoint) -> int:
    if name not in tensors.names:
        return 1  # it is told as missing
    shape = tensors.shape(name)
    if len(shape) != 2:
        raise CheckpointError(f"tensor {name} has shape {list(shape)}, expected [tokens, d_model]")
    return shape[0]


def _stack(side: SideParts, tensors: Checkpoint, problems: list[str]) -> StackLayout | None:
    """One side, with what is wrong added to ``problems``; None: it has no layers."""
    own = PYTORCH[side.side] if side.names is None else side.names
    names = {name: own[name] for name in sublayers(side.side) if name in own}
    unknown = [name for name in own if name not in names]
    if unknown:
        problems.append(
            f"the names of the {side.side} have {', '.join(unknown)}; there are:"
            f" {', '.join(sublayers(side.side))}"
        )
    problems += check_names(side.side, names)
    layers = _prefix(side.layers, tensors)
    patterns = _patterns(side, names, layers, problems)
    names = {name: names[name] for name in patterns}
    numbers = [pattern.layers(tensors.names) for pattern in patterns.values()]
    count = 1 + max((max(some) for some in numbers if some), default=-1)
    if not count:
        looked_for = next((pattern.name(0) for pattern in patterns.values()), "")
        problems.append(f"no layers of the {side.side} (no tensor of {looked_for})")
        return None
    weights, biases, question = _tensors(side, patterns, count, tensors.names)
    inner, ffn = _inner_dim(names, weights, tensors), _ffn_dim(weights, tensors)
    inside = None
    if (
        side.names is None
        and layers != side.layers
        and f"{side.layers}.norm.weight" in tensors.names
    ):
        inside = f"{side.layers}.norm"
    if inside is not None and side.norm not in (None, inside):
        raise CheckpointError(f"the {side.side} has two final norms, {inside} and {side.norm}")
    return StackLayout(
        layers=layers or "",
        count=count,
        names=names,
        inner_dim=inner,
        ffn_dim=ffn,
        weights=weights,
        biases=biases,
        norm_question=question,
        norm=_norm(side.norm or inside, tensors.names),
        embedding_norm=_norm(side.embedding_norm, tensors.names),
    )


def _prefix(path: str | None, tensors: Checkpoint) -> str | None:
    """What comes before a layer's number: the path, or a container's ``layers`` in it."""
    for layers in (path, f"{path}.layers"):
        if any(name.startswith(f"{layers}.0.") for name in tensors.names):
            return layers
    return path


def _patterns(
    side: SideParts, names: Mapping[str, str], layers: str | None, problems: list[str]
) -> dict[str, Pattern]:
    patterns = {}
    for name, text in names.items():
        if "{" not in text and layers is not None:
            patterns[name] = Pattern(f"{layers}.", 1, 0, f".{text}")
            continue
        pattern = Pattern.parse(text)
        if pattern is None:
            problems.append(
                f"{name} of the {side.side} is {text!r}; a whole name has one number, such as"
                " {layer} or {2*layer+1}, and one within a layer needs the name of the layers"
            )
        else:
            patterns[name] = pattern
    return patterns


def _tensors(
    side: SideParts, patterns: Mapping[str, Pattern], count: int, names: Collection[str]
) -> tuple[dict[Place, str], dict[Place, str], str | None]:
    """Weights and biases by their places, and why it is open what kind the norms are.

    Of the norms, and of all that a PyTorch layer has, all have a bias or none has.
    """
    weights, possible = {}, {}
    question = None
    alike = set(patterns) if side.names is None else set(norms(side.side))
    for sublayer, pattern in patterns.items():
        modules = [pattern.name(layer) for layer in range(count)]
        weight, bias = ".weight", ".bias"
        if sublayer in norms(side.side):
            weight, bias = _norm_suffixes(modules, names)
            if weight[1:] in DEVIATION_TENSORS:
                question = (
                    f"norms with a tensor like {modules[0]}{weight} often divide by the standard"
                    " deviation plus epsilon: say norm = 'std' if they do, else norm = 'layer'"
                )
        elif any(f"{module}_weight" in names for module in modules):
            weight, bias = "_weight", "_bias"
        for layer, module in enumerate(modules):
            # A parameter of its own, and not of a module, has the name itself.
            weights[sublayer, layer] = module if module in names else f"{module}{weight}"
            possible[sublayer, layer] = f"{module}{bias}"
    biased = {sublayer for (sublayer, _), bias in possible.items() if bias in names}
    biased |= set() if biased.isdisjoint(alike) else alike
    biases = {place: bias for place, bias in possible.items() if place[0] in biased}
    if side.names and question is None and biased.isdisjoint(norms(side.side)):
        question = (
            f"the norms of the {side.side} have no biases, as RMS norms have none: say norm ="
            " 'rms' or norm = 'layer'"
        )
    return weights, biases, question


def _norm_suffixes(modules: list[str], names: Collection[str]) -> tuple[str, str]:
    for weight, bias in NORM_TENSORS:
        if any(f"{module}.{weight}" in names for module in modules):
            return f".{weight}", f".{bias}"
    return ".weight", ".bias"


def _norm(module: str | None, names: Collection[str]) -> NormTensors | None:
    if module is None:
        return None
    weight, bias = _norm_suffixes([module], names)
    return NormTensors(
        f"{module}{weight}", f"{module}{bias}" if f"{module}{bias}" in names else None
    )


def _inner_dim(names: Mapping[str, str], weights: Mapping[Place, str], tensors: Checkpoint) -> int:
    """Outputs of a query, of the first layer that has one."""
    for part in providers(names, "self_attention", 0, 3):
        start, stop = PROJECTIONS[part]
        rows = _first_size(f"self_attention.{part}", 0, weights, tensors)
        if rows is not None:
            return rows // (stop - start)
    return _first_size("self_attention.out", 1, weights, tensors) or 1


def _ffn_dim(weights: Mapping[Place, str], tensors: Checkpoint) -> int:
    up = _first_size("ffn.up", 0, weights, tensors)
    return up or _first_size("ffn.down", 1, weights, tensors) or 1


def _first_size(
    sublayer: str, axis: int, weights: Mapping[Place, str], tensors: Checkpoint
) -> int | None:
    """Of the weight of the first layer that has it."""
    own = (weight for (name, _), weight in weights.items() if name == sublayer)
    sizes = (_size(weight, axis, tensors) for weight in own)
    return next((size for size in sizes if size is not None), None)
