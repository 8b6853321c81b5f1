"""mBART and mBART-50.

Sources: Liu et al. 2020, "Multilingual Denoising Pre-training for Neural Machine Translation";
Tang et al. 2020, "Multilingual Translation with Extensible Multilingual Pretraining".
"""

from __future__ import annotations

from ..spec import NormPlacement
from .bartline import Variant, bart_line

FAMILY = bart_line(
    "mbart",
    Variant(NormPlacement.PRE, embedding_norm=True, final_norm=True, offset=2),
    model="MBartForConditionalGeneration",
    tokenizer="sentencepiece.bpe.model",
    languages="mBART: 25 such as en_XX, ro_RO; mBART-50: 52",
    at_run_time="mBART-50: both languages; mBART: the source's, if it is not the checkpoint's own",
    defaults={
        "scale_embedding": False,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
    },
)
