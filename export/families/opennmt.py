"""OpenNMT-py's transformer, as the packages of Argos Translate and LibreTranslate hold it.

Source: Klein et al. 2017, "OpenNMT: Open-Source Toolkit for Neural Machine Translation"; its
models are read from folders of CTranslate2.
"""

from __future__ import annotations

from ..sinusoids import sinusoids
from ..spec import NormPlacement
from .bartline import Sinusoids, Variant, bart_line

#: OpenNMT's, sines and cosines by turns; other toolkits' tables are in the file as well.
_SINUSOIDS = Sinusoids(lambda shape: sinusoids(*shape), stored=True)

FAMILY = bart_line(
    "opennmt",
    Variant(
        NormPlacement.PRE,
        embedding_norm=False,
        final_norm=True,
        sinusoids=lambda _config: _SINUSOIDS,
        may_separate=True,
    ),
    model="",  # transformers has none
    tokenizer="sentencepiece.model, in a package of Argos Translate",
    defaults={
        "activation_function": "relu",
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
    },
)
