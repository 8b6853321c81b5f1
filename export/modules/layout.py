"""What the names and shapes of tensors say: layers, widths, biases, norms, ties."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from .parts import ModuleDescription, ModuleParts

_LINEAR_BIAS = re.compile(r".*(in_proj_bias|out_proj\.bias|linear[12]\.bias)")
_NORM_BIAS = re.compile(r".*\.norm[123]\.bias")


@dataclass(frozen=True)
class StackLayout:
    """One side. ``layers`` is what comes before a layer's number, ``norm`` the final norm."""

    layers: str
    count: int
    ffn_dim: int
    bias: bool
    norm_bias: bool
    norm: str | None
    norm_has_bias: bool


@dataclass(frozen=True)
class Layout:
    """Both sides, the sizes they share, and which of the three token tables are one.

    ``shared``: source and target embedding; ``tied``: target embedding and generator.
    """

    encoder: StackLayout
    decoder: StackLayout
    d_model: int
    source_vocab_size: int
    target_vocab_size: int
    shared: bool
    tied: bool
    generator_bias: bool


def find_layout(description: ModuleDescription, tensors: Checkpoint) -> Layout:
    """Read the layout off the tensors.

    Raises:
        CheckpointError: a part that is not there, or sides that do not fit each other; all that
            was found.
    """
    parts, names = description.parts, tensors.names
    source, target = f"{parts.source_embedding}.weight", f"{parts.target_embedding}.weight"
    head = target if parts.generator is None else f"{parts.generator}.weight"
    needed = dict.fromkeys((source, target, head))
    problems = [f"missing tensor {name}" for name in needed if name not in names]
    stacks = []
    for side, path in (("encoder", parts.encoder), ("decoder", parts.decoder)):
        layers = _layers(path, tensors)
        if layers is None or f"{layers}.0.linear1.weight" not in names:
            problems.append(
                f"no layers of the {side} (no {path}.0.linear1.weight or"
                f" {path}.layers.0.linear1.weight)"
            )
            continue
        stacks.append(_stack(side, path, layers, parts, tensors))
    if problems:
        prefixes = ", ".join(sorted({name.partition(".")[0] for name in names})[:8])
        raise CheckpointError(
            f"{tensors.directory} does not fit its description: {'; '.join(problems)};"
            f" the names of its tensors begin with {prefixes}"
        )
    encoder, decoder = stacks
    for what, ours, theirs in (
        ("biases in linear layers", encoder.bias, decoder.bias),
        ("biases in norms", encoder.norm_bias, decoder.norm_bias),
    ):
        if ours != theirs:
            raise CheckpointError(
                f"only the {'encoder' if ours else 'decoder'} has {what}; both must, or neither"
            )
    rows = _rows(source, tensors), _rows(target, tensors)
    return Layout(
        encoder=encoder,
        decoder=decoder,
        d_model=tensors.shape(source)[1],
        source_vocab_size=rows[0],
        target_vocab_size=rows[1],
        shared=source == target or tensors.equal(source, target),
        tied=head == target or tensors.equal(head, target),
        generator_bias=f"{parts.generator}.bias" in names,
    )


def _rows(name: str, tensors: Checkpoint) -> int:
    shape = tensors.shape(name)
    if len(shape) != 2:
        raise CheckpointError(f"tensor {name} has shape {list(shape)}, expected [tokens, d_model]")
    return shape[0]


def _layers(path: str, tensors: Checkpoint) -> str | None:
    for layers in (path, f"{path}.layers"):
        if any(name.startswith(f"{layers}.0.") for name in tensors.names):
            return layers
    return None


def _stack(
    side: str, path: str, layers: str, parts: ModuleParts, tensors: Checkpoint
) -> StackLayout:
    own = [name for name in tensors.names if name.startswith(f"{layers}.")]
    numbers = [re.match(r"\d+", name[len(layers) + 1 :]) for name in own]
    inside = f"{path}.norm" if layers != path and f"{path}.norm.weight" in tensors.names else None
    named = parts.encoder_norm if side == "encoder" else parts.decoder_norm
    if inside is not None and named not in (None, inside):
        raise CheckpointError(f"the {side} has two final norms, {inside} and {named}")
    norm = named or inside
    return StackLayout(
        layers=layers,
        count=1 + max(int(number.group()) for number in numbers if number),
        ffn_dim=tensors.shape(f"{layers}.0.linear1.weight")[0],
        bias=any(map(_LINEAR_BIAS.fullmatch, own)),
        norm_bias=any(map(_NORM_BIAS.fullmatch, own)),
        norm=norm,
        norm_has_bias=f"{norm}.bias" in tensors.names,
    )
