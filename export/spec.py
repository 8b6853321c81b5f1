"""``ModelSpec``: all that the graphs need to know about an architecture.

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
    TANH = "tanh"


class NormKind(Enum):
    LAYER = "layer"  # mean and variance, scale and bias
    RMS = "rms"  # root mean square, scale only (T5's T5LayerNorm)
    #: (x - mean) / (std + epsilon) with the unbiased standard deviation, scale and bias: the
    #: layer norm of "The Annotated Transformer" (Rush 2018), which is not nn.LayerNorm's.
    STD = "std"


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
    ``offset`` rows come before position 0 in the checkpoint (BART: 2). The checkpoint keeps a
    table of so many ``token_types`` beside it, the first of which is added (BERT).
    """

    length: int
    offset: int = 0
    token_types: int = 0


@dataclass(frozen=True)
class RotaryPositions:
    """Queries and keys of self-attention turned by their position.

    Dimension i of the first half of ``width`` dimensions of a head goes with dimension i of the
    second half, and the two are turned by position * theta ** (-2i / ``divisor``); the other
    dimensions of the head stay. ``length``: positions that the model was made for; None: any.
    Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding".
    """

    length: int | None
    theta: float
    width: int
    divisor: int


Positions = RelativeBias | LearnedPositions | RotaryPositions


@dataclass(frozen=True)
class Convolution:
    """A convolution over time of ``kernel`` inputs, every ``stride`` of them, and an activation.

    ``padding`` zeros are put before and after the inputs. ``norm``, if there is one, is taken over
    all channels and times of a source, with a scale and a bias for each channel (``nn.GroupNorm``
    of one group); it has that epsilon.
    """

    outputs: int
    kernel: int
    stride: int
    padding: int
    activation: Activation
    bias: bool = True
    norm: float | None = None


@dataclass(frozen=True)
class ConvolutionStem:
    """What an encoder has in place of a token embedding: features [B, channels, F] through
    convolutions one after the other, the last of which gives the first layer's input.

    Nothing of such a source is padding, so neither stack has a mask of it. ``channels`` None: it
    reads audio [B, samples].
    """

    channels: int | None
    convolutions: tuple[Convolution, ...]


@dataclass(frozen=True)
class LogMelSpec:
    """Audio to a logarithmic mel spectrogram, as Whisper reads it.

    ``sampling_rate`` is in Hz, ``fft_length`` and ``hop_length`` in samples. Source: Radford et
    al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", section 2.2.
    """

    mel_bins: int
    sampling_rate: int
    fft_length: int
    hop_length: int


@dataclass(frozen=True)
class StackSpec:
    """One side of the model: a stack of identical layers.

    Attributes:
        attention_scale: factor on the attention scores (1 in T5, ``head_dim**-0.5`` in BART). It is
            written into the query's weights, not into the graphs.
        positions: None: the stack has no positions of its own.
        final_norm: a norm after the last layer.
        embedding_norm: a norm on the embedded tokens, before the first layer.
        positions_after_norm: that norm is taken before the positions are added.
        embedding_scale: factor on this side's token embeddings; None: the model's.
        last_norm: the final norm, where it differs from the layers'; None: it does not.
        d_model, norm, norm_placement: this side's, where the two differ; None: the model's.
        stem: what an encoder reads in place of tokens; None: tokens.
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
    positions_after_norm: bool = False
    embedding_scale: float | None = None
    last_norm: NormSpec | None = None
    d_model: int | None = None
    norm: NormSpec | None = None
    norm_placement: NormPlacement | None = None
    stem: ConvolutionStem | None = None

    @property
    def inner_dim(self) -> int:
        return self.heads * self.head_dim


@dataclass(frozen=True)
class ModelSpec:
    """A transformer: an encoder, a decoder with a language-model head, or both.

    A decoder without an encoder has no cross-attention; an encoder without a decoder gives its
    last hidden states.

    Attributes:
        vocab_size: tokens that the decoder reads and writes; without one, the encoder's.
        d_model: width of the hidden states, the decoder's where the two differ.
        embedding_scale: factor on the token embeddings.
        logits_scale: factor on the decoder's states before the head.
        tied_lm_head: the head is the (shared) token embedding.
        logits_bias: a bias on the logits.
        bias: linear layers have biases.
        attention_bias: those of attention do; None: as ``bias`` says.
        shared_positions: both stacks add rows of one table of positions, as long as the longer
            of the two; each stack's own ``positions`` say how many of them it uses.
        separate_decoder_embedding: the decoder embeds its tokens with a table of its own.
        source_vocab_size: tokens that the encoder reads, which may be others only where the
            tables are separate; None: ``vocab_size``.
        head_transform: a linear layer, this activation and a norm come before the head (BERT).
        log_mel: how audio becomes the features that the encoder reads; None: it reads others.
        alignment_heads: (layer, head) of the decoder's cross-attention that tell when a token was
            said; empty: a bundle has no graph for them.
    """

    family: str
    vocab_size: int
    d_model: int
    encoder: StackSpec | None
    decoder: StackSpec | None
    norm: NormSpec
    norm_placement: NormPlacement
    bias: bool
    tied_lm_head: bool
    logits_bias: bool = False
    logits_scale: float = 1.0
    embedding_scale: float = 1.0
    separate_decoder_embedding: bool = False
    source_vocab_size: int | None = None
    head_transform: Activation | None = None
    attention_bias: bool | None = None
    shared_positions: bool = False
    log_mel: LogMelSpec | None = None
    alignment_heads: tuple[tuple[int, int], ...] = ()

    @property
    def attention_has_bias(self) -> bool:
        return self.bias if self.attention_bias is None else self.attention_bias

    @property
    def shared_position_rows(self) -> int:
        """Rows of the table of positions that both stacks share; 0: each has its own, or none."""
        lengths = (self.max_source_length, self.max_target_length)
        return max(length or 0 for length in lengths) if self.shared_positions else 0

    @property
    def source_rows(self) -> int:
        """Rows of the encoder's embedding table."""
        return self.vocab_size if self.source_vocab_size is None else self.source_vocab_size

    @property
    def max_source_length(self) -> int | None:
        """Without an encoder, sources are the decoder's prompts."""
        return _length(self.encoder or self.decoder)

    @property
    def max_target_length(self) -> int | None:
        return _length(self.decoder)

    def width(self, stack: StackSpec) -> int:
        """Of the hidden states of one of the two stacks."""
        return self.d_model if stack.d_model is None else stack.d_model

    def norm_of(self, stack: StackSpec) -> NormSpec:
        return stack.norm or self.norm

    def placement_of(self, stack: StackSpec) -> NormPlacement:
        return stack.norm_placement or self.norm_placement


@dataclass(frozen=True)
class Seq2SeqSpec(ModelSpec):
    """A model of both."""

    encoder: StackSpec
    decoder: StackSpec


def _length(stack: StackSpec | None) -> int | None:
    positions = None if stack is None else stack.positions
    return positions.length if isinstance(positions, (LearnedPositions, RotaryPositions)) else None
