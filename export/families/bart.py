"""BART. Source: Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training"."""

from __future__ import annotations

from ..spec import NormPlacement
from .bartline import Variant, bart_line

#: BartLearnedPositionalEmbedding keeps two rows before position 0.
VARIANT = Variant(NormPlacement.POST, embedding_norm=True, final_norm=False, offset=2)

FAMILY = bart_line(
    "bart",
    VARIANT,
    model="BartForConditionalGeneration",
    tokenizer="vocab.json, merges.txt",
    defaults={
        "scale_embedding": False,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
)
