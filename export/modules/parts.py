"""Where the parts of a user's own model sit, and what its tensors cannot tell."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import CheckpointError
from ..spec import Activation

POSITION_KINDS = ("none", "sinusoidal", "learned")
#: The embedding scale of Vaswani et al. 2017, "Attention Is All You Need", section 3.4.
SQRT_WIDTH = "sqrt(d_model)"


@dataclass(frozen=True)
class PositionalEncoding:
    """What is added to the token embeddings.

    Attributes:
        kind: ``none``, ``sinusoidal`` or ``learned``.
        table: name of the tensor that holds it, [L, D], [1, L, D] or [L, 1, D]: a parameter, a
            buffer, or the weight of an ``nn.Embedding`` (``positions.weight``). Sinusoids may
            do without: they are then computed as in Vaswani et al. 2017, section 3.5, sine and
            cosine in turn.
        length: positions to keep, which is the longest source or target; None: all of the
            table. Needed for sinusoids without one.

    Raises:
        CheckpointError: an impossible combination.
    """

    kind: str
    table: str | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in POSITION_KINDS:
            known = ", ".join(POSITION_KINDS)
            raise CheckpointError(f"positions are of kind {self.kind!r}; known kinds: {known}")
        if self.kind == "none" and (self.table is not None or self.length is not None):
            raise CheckpointError("positions of kind 'none' have no table and no length")
        if self.kind == "learned" and self.table is None:
            raise CheckpointError("learned positions need the name of their table")
        if self.kind == "sinusoidal" and self.table is None and self.length is None:
            raise CheckpointError("sinusoidal positions need a table or a length")
        if self.length is not None and self.length < 1:
            raise CheckpointError(f"positions have the length {self.length}; it must be positive")


@dataclass(frozen=True, kw_only=True)
class ModuleParts:
    """Names of a model's parts, as in ``model.get_submodule(name)`` and its state dict.

    Attributes:
        encoder: an ``nn.TransformerEncoder``, or an ``nn.ModuleList`` of its layers.
        decoder: an ``nn.TransformerDecoder``, or an ``nn.ModuleList`` of its layers.
        source_embedding: the source's ``nn.Embedding``.
        target_embedding: the target's; the same name if there is one for both.
        generator: the ``nn.Linear`` from states to logits; None: the target embedding itself.
        positions: what is added to the source's embeddings.
        target_positions: to the target's; None: the same.
        embedding_scale: factor on the source's embeddings before positions are added; a number
            or ``sqrt(d_model)``.
        target_embedding_scale: on the target's; None: the same.
        encoder_norm: a final ``nn.LayerNorm`` outside ``encoder``, such as beside a ModuleList.
        decoder_norm: the same of the decoder.
        ignored: regular expressions of tensors that the exported model does not need.
    """

    encoder: str
    decoder: str
    source_embedding: str
    target_embedding: str
    generator: str | None
    positions: PositionalEncoding
    target_positions: PositionalEncoding | None = None
    embedding_scale: float | str = 1.0
    target_embedding_scale: float | str | None = None
    encoder_norm: str | None = None
    decoder_norm: str | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerOptions:
    """What a stack's tensors cannot tell of it.

    Attributes:
        epsilon: of the layers' norms.
        final_epsilon: of the final norm; None: the same.
    """

    heads: int
    activation: Activation
    norm_first: bool
    epsilon: float
    final_epsilon: float | None = None


@dataclass(frozen=True)
class ModuleDescription:
    """All that has to be known beside the tensors."""

    parts: ModuleParts
    encoder: LayerOptions
    decoder: LayerOptions
