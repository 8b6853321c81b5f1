"""Graphs as ONNX Runtime runs them best on a CPU, beside the canonical ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from seq2edge.runtime.bundle.manifest import BLOCK_ENCODER

from ...errors import NotLowerableError
from ..rewrite import apply_passes
from ..unused_initializers import RemoveUnusedInitializersPass
from .attention import AttentionLoweringPass
from .block_attention import BlockAttentionPass
from .cross_int8 import QuantizeCrossPass
from .encoder_attention import EncoderAttentionPass
from .graph_inputs import remove_unread_inputs
from .nodes import FoldBiasPass, HostArgMaxPass, RowsOfHeadPass
from .two_stage_head import TwoStageHeadPass

#: The oldest ONNX Runtime that runs what is made here: ``query_seqlens``.
MINIMUM_ONNXRUNTIME = "1.32"


@dataclass(frozen=True)
class Lowered:
    """What became of the graphs.

    Attributes:
        models: by the names that :data:`seq2edge.runtime.bundle.manifest.CPU_GRAPHS` gives them.
            :data:`.BLOCK_ENCODER` beside them.
        refusal: why there are none; None where there are.
        two_stages: whether the head has two stages.
        whole_attention: why the encoder's is not in blocks, where that was asked for.
    """

    models: Mapping[str, ir.Model]
    refusal: str | None = None
    two_stages: bool = False
    whole_attention: str | None = None


@dataclass(frozen=True)
class Lowering:
    """What is done beyond what changes no number.

    Attributes:
        quantize_source: let the encoder give its keys and values in int8 (:mod:`.cross_int8`).
        two_stage_head: propose tokens by 4 bits (:mod:`.two_stage_head`), where the head has 8.
        suppressed: tokens that the model's own options never let come.
        scored_from: the head of two stages scores the tokens from this one on always.
        blocks: attention of the encoder over long sources is computed in blocks, by products of
            floats, which changes no number, or of ``integers``; None: not in blocks.
    """

    quantize_source: bool = False
    two_stage_head: bool = False
    suppressed: Sequence[int] = ()
    scored_from: int | None = None
    blocks: Literal["floats", "integers"] | None = None


def lower_for_cpu(models: Mapping[str, ir.Model], how: Lowering) -> Lowered:
    """Copies of those graphs that ONNX Runtime runs faster on a CPU in another form.

    They read the same weights by the same names. ``models`` stay as they are.
    """
    if "decoder" not in models:
        return Lowered({}, "there is no decoder")
    lowered = {"decoder_cpu": models["decoder"].clone()}
    decoder = lowered["decoder_cpu"]
    try:
        apply_passes(
            decoder,
            [
                AttentionLoweringPass(quantized_source=how.quantize_source),
                HostArgMaxPass(),
                RowsOfHeadPass(),
                FoldBiasPass(),
            ],
        )
        apply_passes(decoder, [RemoveUnusedNodesPass()])
        remove_unread_inputs(decoder)
    except NotLowerableError as reason:
        return Lowered({}, str(reason))
    head = TwoStageHeadPass(how.suppressed, how.scored_from)
    two_stages = how.two_stage_head and apply_passes(decoder, [head])
    apply_passes(decoder, [RemoveUnusedInitializersPass()])
    if "encoder" in models:
        encoder = models["encoder"].clone()
        changed = apply_passes(encoder, [EncoderAttentionPass()])
        if changed:
            apply_passes(encoder, [RemoveUnusedNodesPass(), RemoveUnusedInitializersPass()])
        if how.quantize_source:
            apply_passes(encoder, [FoldBiasPass(), QuantizeCrossPass()])
        if changed or how.quantize_source:
            lowered["encoder_cpu"] = encoder
        if how.blocks is not None:
            return _with_blocks(Lowered(lowered, two_stages=two_stages), models["encoder"], how)
    return Lowered(lowered, two_stages=two_stages)


def _with_blocks(lowered: Lowered, canonical: ir.Model, how: Lowering) -> Lowered:
    """Beside these graphs the encoder with attention in blocks, where there is one."""
    integers = how.blocks == "integers"
    # What attends in floats without a mask has been given an operator that is faster.
    encoder = canonical if integers else lowered.models.get("encoder_cpu", canonical)
    encoder = encoder.clone()
    try:
        if not apply_passes(encoder, [BlockAttentionPass(integers=integers)]):
            return lowered
    except NotLowerableError as reason:
        return replace(lowered, whole_attention=str(reason))
    if integers and how.quantize_source:
        apply_passes(encoder, [FoldBiasPass(), QuantizeCrossPass()])
    return replace(lowered, models={**lowered.models, BLOCK_ENCODER: encoder})
