"""PLBart, for programming languages.

Source: Ahmad et al. 2021, "Unified Pre-training for Program Understanding and Generation".
"""

from __future__ import annotations

from .bart import VARIANT
from .bartline import bart_line

FAMILY = bart_line(
    "plbart",
    VARIANT,
    model="PLBartForConditionalGeneration",
    tokenizer="sentencepiece.bpe.model",
    languages="java, python, en_XX; multi-task checkpoints also javascript, php, ruby, go",
    at_run_time="both languages, unless the checkpoint is for one pair",
    defaults={
        "scale_embedding": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
    },
)
