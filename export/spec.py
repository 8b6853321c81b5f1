"""``Seq2SeqSpec``: all that the graphs need to know about an architecture.

Graph code reads these fields and never a model's name, so a new family is a new spec and a
name map (``export/families``), not a new graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Activation(Enum):
    """Feed-forward activations by the names that ``transformers`` configs use."""

    RELU = "relu"
    GELU = "gelu"
    #: The tanh approximation; ``gelu_pytorch_tanh`` is the same function.
    GELU_NEW = "gelu_new"
    SILU = "silu"


class NormKind(Enum):
    LAYER = "layer"  # mean and variance, scale and bias
    RMS = "rms"  # root mean square, scale only (T5's T5LayerNorm)


class NormPlacement(Enum):
    PRE = "pre"  # x + f(norm(x))
    POST = "post"  # norm(x + f(x))


@dataclass(frozen=True)
class NormSpec:
    """``bias``: a layer norm adds one (``nn.LayerNorm(bias=False)`` does not; RMS never does)."""

    kind: NormKind
    epsilon: float
    bias: bool = True


@dataclass(frozen=True)
class RelativeBias:
    """T5's bucketed relative position bias, added to the attention scores.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.1.
    ``per_layer`` gives every layer a table of its own (umT5); else the first layer's serves
    all.
    """

    buckets: int
    max_distance: int
    per_layer: bool


@dataclass(frozen=True)
class LearnedPositions:
    """A table of ``length`` position embeddings that are added to the token embeddings.

    The table need not have been learned: sinusoids are computed once, at export.
    ``offset`` rows come before position 0 in the checkpoint (BART: 2).
    """

    length: int
    offset: int = 0


Positions = RelativeBias | LearnedPositions


@dataclass(frozen=True)
class StackSpec:
    """One side of the model: a stack of identical layers.

    Attributes:
        attention_scale: factor on the attention scores (1 in T5, ``head_dim**-0.5`` in BART).
        positions: None: the stack has no positions of its own.
        final_norm: a norm after the last layer.
        embedding_norm: a norm on the embedded tokens, before the first layer.
        embedding_scale: factor on this side's token embeddings; None: the model's.
        last_norm: the final norm, where it differs from the layers'; None: it does not.
    """

    layers: int
    heads: int
    head_dim: int
    attention_scale: float
    ffn_dim: int
    activation: Activation
    gated: bool
    positions: Positions | None
    final_norm: bool
    embedding_norm: bool
    embedding_scale: float | None = None
    last_norm: NormSpec | None = None

    @property
    def inner_dim(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class Seq2SeqSpec:
    """An encoder-decoder transformer with a language-model head.

    Attributes:
        vocab_size: tokens that the decoder reads and writes.
        embedding_scale: factor on the token embeddings.
        logits_scale: factor on the decoder's states before the head.
        tied_lm_head: the head is the (shared) token embedding.
        logits_bias: a bias on the logits.
        bias: linear layers have biases.
        separate_decoder_embedding: the decoder embeds its tokens with a table of its own.
        source_vocab_size: tokens that the encoder reads, which may be others only where the
            tables are separate; None: ``vocab_size``.
    """

    family: str
    vocab_size: int
    d_model: int
    encoder: StackSpec
    decoder: StackSpec
    norm: NormSpec
    norm_placement: NormPlacement
    bias: bool
    tied_lm_head: bool
    logits_bias: bool = False
    logits_scale: float = 1.0
    embedding_scale: float = 1.0
    separate_decoder_embedding: bool = False
    source_vocab_size: int | None = None

    @property
    def source_rows(self) -> int:
        """Rows of the encoder's embedding table."""
        return self.vocab_size if self.source_vocab_size is None else self.source_vocab_size

    @property
    def max_source_length(self) -> int | None:
        return _length(self.encoder.positions)

    @property
    def max_target_length(self) -> int | None:
        return _length(self.decoder.positions)


def _length(positions: Positions | None) -> int | None:
    return positions.length if isinstance(positions, LearnedPositions) else None
