"""Blenderbot and Blenderbot-small.

Source: Roller et al. 2021, "Recipes for building an open-domain chatbot".
"""

from __future__ import annotations

from ..spec import NormPlacement
from .bartline import Variant, bart_line

_TOKENS = {
    "scale_embedding": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 2,
}

FAMILY = bart_line(
    "blenderbot",
    Variant(NormPlacement.PRE, embedding_norm=False, final_norm=True),
    model="BlenderbotForConditionalGeneration",
    tokenizer="vocab.json, merges.txt",
    defaults={**_TOKENS, "encoder_no_repeat_ngram_size": 3},
)

SMALL = bart_line(
    "blenderbot-small",
    Variant(NormPlacement.POST, embedding_norm=True, final_norm=False, decoder_norm_first=True),
    model="BlenderbotSmallForConditionalGeneration",
    tokenizer="vocab.json, merges.txt",
    defaults=_TOKENS,
)
