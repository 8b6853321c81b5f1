"""Marian: the OPUS-MT models.

Source: Junczys-Dowmunt et al. 2018, "Marian: Fast Neural Machine Translation in C++"; Tiedemann
and Thottingal 2020, "OPUS-MT: Building open translation services for the World".
"""

from __future__ import annotations

from ..sinusoids import halved_sinusoids
from ..spec import NormPlacement
from .bartline import Sinusoids, Variant, bart_line

_SINUSOIDS = Sinusoids(lambda shape: halved_sinusoids(*shape), stored=True)

FAMILY = bart_line(
    "marian",
    Variant(
        NormPlacement.POST,
        embedding_norm=False,
        final_norm=False,
        sinusoids=lambda _config: _SINUSOIDS,
        may_separate=True,
    ),
    model="MarianMTModel",
    tokenizer="source.spm, target.spm, vocab.json (and target_vocab.json)",
    languages="of models with several target languages: what vocab.json has as `>>code<<`",
    at_run_time="the target language, if there are several",
    defaults={
        "scale_embedding": False,
        "share_encoder_decoder_embeddings": True,
        "pad_token_id": 58100,
        "eos_token_id": 0,
        "decoder_start_token_id": 58100,
        "forced_eos_token_id": 0,
    },
)
