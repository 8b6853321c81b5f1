"""Where the parts of a user's own model sit, and what its tensors cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import CheckpointError
from ..spec import Activation, NormKind

POSITION_KINDS = ("none", "sinusoidal", "learned")
#: How computed sinusoids lie in their columns, see :mod:`..sinusoids`.
SINUSOID_ORDERS = ("interleaved", "halves", "fairseq")
#: The embedding scale of Vaswani et al. 2017, "Attention Is All You Need", section 3.4.
SQRT_WIDTH = "sqrt(d_model)"
INVERSE_SQRT_WIDTH = "1/sqrt(d_model)"
#: Short for transformers' name of the tanh approximation.
_TANH_NAMES = ("gelu_tanh", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class PositionalEncoding:
    """What is added to the token embeddings.

    Attributes:
        kind: ``none``, ``sinusoidal`` or ``learned``.
        table: name of the tensor that holds it, [L, D], [1, L, D] or [L, 1, D], or of the
            ``nn.Embedding`` whose weight it is. Sinusoids may do without: they are then computed.
        length: positions to keep, which is the longest source or target; None: all of the
            table. Needed for sinusoids without one.
        order: of sinusoids that are computed. ``interleaved``: sine and cosine in turn, as in
            Vaswani et al. 2017, section 3.5; ``halves``: the same, all sines first; ``fairseq``:
            all sines first, with frequencies that reach 1/10000 in the last column.
        offset: rows of the table before the one that the first token gets, or the number of the
            first position that is computed (fairseq: the padding index and 1).
        scale: factor on the rows: a number, ``sqrt(d_model)`` or ``1/sqrt(d_model)``.

    Raises:
        CheckpointError: an impossible combination.
    """

    kind: str
    table: str | None = None
    length: int | None = None
    order: str = "interleaved"
    offset: int = 0
    scale: float | str = 1.0

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
        if self.offset < 0:
            raise CheckpointError(f"positions have the offset {self.offset}; it cannot be negative")
        if self.order not in SINUSOID_ORDERS:
            known = ", ".join(SINUSOID_ORDERS)
            raise CheckpointError(f"sinusoids in the order {self.order!r}; known orders: {known}")
        if self.order != "interleaved" and (self.kind != "sinusoidal" or self.table is not None):
            raise CheckpointError("the order of positions is for sinusoids without a table")


@dataclass(frozen=True)
class LayerOptions:
    """What a stack's tensors cannot tell of it; :func:`layer_options` makes one.

    Attributes:
        epsilon: of the layers' norms.
        final_epsilon: of the final norm; None: the same.
        norm: None: nobody said; a layer norm, unless the tensors' names make that doubtful.
        norm_offset: added to the norms' stored weights.
    """

    heads: int
    activation: Activation
    norm_first: bool
    epsilon: float
    final_epsilon: float | None = None
    norm: NormKind | None = None
    norm_offset: float = 0.0


def layer_options(
    *,
    nhead: int,
    activation: str,
    norm_first: bool,
    layer_norm_eps: float = 1e-5,
    final_norm_eps: float | None = None,
    norm: str | None = None,
    norm_offset: float = 0.0,
) -> LayerOptions:
    """How the layers of a stack are set, where they are not PyTorch's own.

    Args:
        nhead: attention heads.
        activation: ``relu``, ``gelu``, ``gelu_tanh`` or ``silu``.
        norm_first: norms come before attention and feed-forward (pre-norm), not after the sum.
        layer_norm_eps: epsilon of the layers' norms.
        final_norm_eps: of the final norm; None: the same.
        norm: ``layer`` (``nn.LayerNorm``), ``rms`` (``nn.RMSNorm``) or ``std``, which divides by
            the unbiased standard deviation plus epsilon ("The Annotated Transformer").
        norm_offset: added to the stored weights of norms, which some keep less 1.

    Raises:
        CheckpointError: a value that is not known.
    """
    try:
        function = Activation("gelu_new" if activation in _TANH_NAMES else activation)
    except ValueError:
        known = ", ".join(sorted([*(a.value for a in Activation), *_TANH_NAMES]))
        raise CheckpointError(
            f"activation {activation!r} is not supported; known activations: {known}"
        ) from None
    try:
        kind = None if norm is None else NormKind(norm)
    except ValueError:
        known = ", ".join(kind.value for kind in NormKind)
        raise CheckpointError(f"norm {norm!r} is not supported; known norms: {known}") from None
    if nhead < 1:
        raise CheckpointError(f"nhead is {nhead}; it must be positive")
    final = layer_norm_eps if final_norm_eps is None else final_norm_eps
    return LayerOptions(nhead, function, norm_first, layer_norm_eps, final, kind, norm_offset)


@dataclass(frozen=True, kw_only=True)
class ModuleParts:
    """Names of a model's parts, as in ``model.get_submodule(name)`` and its state dict.

    Attributes:
        encoder: an ``nn.TransformerEncoder``, or an ``nn.ModuleList`` of its layers; with
            ``encoder_names``, what a layer's number comes after (None: they are whole names).
        decoder: an ``nn.TransformerDecoder``, or an ``nn.ModuleList`` of its layers; likewise.
        source_embedding: the source's ``nn.Embedding``.
        target_embedding: the target's; the same name if there is one for both.
        generator: the ``nn.Linear`` from states to logits; None: the target embedding itself.
        positions: what is added to the source's embeddings.
        target_positions: to the target's; None: the same.
        embedding_scale: factor on the source's embeddings before positions are added; a number,
            ``sqrt(d_model)`` or ``1/sqrt(d_model)``.
        target_embedding_scale: on the target's; None: the same.
        encoder_norm: a final norm outside ``encoder``, such as beside a ModuleList.
        decoder_norm: the same of the decoder.
        encoder_embedding_norm: a norm on the source's embeddings, after positions are added.
        decoder_embedding_norm: on the target's.
        encoder_names: for layers that are not PyTorch's, names of their sublayers by ours
            (docs/pytorch.md): within a layer, ``attention.fc_q``, or whole with ``{layer}`` or
            ``{2*layer+1}`` where the number is. None: the layers are PyTorch's.
        decoder_names: of the decoder's layers.
        layers: how the layers are set, where they are not PyTorch's.
        decoder_layers: where the decoder's are set otherwise.
        ignored: regular expressions of tensors that the exported model does not need.
        optional: names of attributes whose part may be missing from the tensors; it is then
            taken for None.
        refused: regular expressions of tensors that mean another computation than is exported,
            with what to say of it.
    """

    encoder: str | None
    decoder: str | None
    source_embedding: str
    target_embedding: str
    generator: str | None
    positions: PositionalEncoding
    target_positions: PositionalEncoding | None = None
    embedding_scale: float | str = 1.0
    target_embedding_scale: float | str | None = None
    encoder_norm: str | None = None
    decoder_norm: str | None = None
    encoder_embedding_norm: str | None = None
    decoder_embedding_norm: str | None = None
    encoder_names: Mapping[str, str] | None = None
    decoder_names: Mapping[str, str] | None = None
    layers: LayerOptions | None = None
    decoder_layers: LayerOptions | None = None
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def hand_written(self) -> bool:
        """Whether the layers are named sublayer by sublayer, not PyTorch's own."""
        return self.encoder_names is not None or self.decoder_names is not None

    def sides(self) -> dict[str, SideParts]:
        """The two stacks, each with what belongs to it."""
        target_scale = self.target_embedding_scale
        return {
            "encoder": SideParts(
                "encoder",
                self.encoder,
                self.encoder_names,
                self.positions,
                self.embedding_scale,
                self.encoder_norm,
                self.encoder_embedding_norm,
            ),
            "decoder": SideParts(
                "decoder",
                self.decoder,
                self.decoder_names,
                self.target_positions or self.positions,
                self.embedding_scale if target_scale is None else target_scale,
                self.decoder_norm,
                self.decoder_embedding_norm,
            ),
        }


@dataclass(frozen=True)
class SideParts:
    """What :class:`ModuleParts` says of one side."""

    side: str
    layers: str | None
    names: Mapping[str, str] | None
    positions: PositionalEncoding
    embedding_scale: float | str
    norm: str | None
    embedding_norm: str | None


@dataclass(frozen=True)
class ModuleDescription:
    """All that has to be known beside the tensors."""

    parts: ModuleParts
    encoder: LayerOptions
    decoder: LayerOptions
