"""Pegasus.

Source: Zhang et al. 2020, "PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive
Summarization".
"""

from __future__ import annotations

from ..sinusoids import halved_sinusoids
from ..spec import NormPlacement
from .bartline import Sinusoids, Variant, bart_line

_SINUSOIDS = Sinusoids(lambda shape: halved_sinusoids(*shape), stored=True)

FAMILY = bart_line(
    "pegasus",
    Variant(
        NormPlacement.PRE,
        embedding_norm=False,
        final_norm=True,
        sinusoids=lambda _config: _SINUSOIDS,
    ),
    model="PegasusForConditionalGeneration",
    tokenizer="spiece.model",
    defaults={
        "scale_embedding": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": 1,
    },
)
