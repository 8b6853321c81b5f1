"""M2M100, and NLLB, which has its architecture.

Sources: Fan et al. 2021, "Beyond English-Centric Multilingual Machine Translation"; NLLB Team 2022,
"No Language Left Behind".
"""

from __future__ import annotations

from ..errors import CheckpointError
from ..sinusoids import fairseq_sinusoids
from ..spec import NormPlacement
from .bartline import Sinusoids, Variant, bart_line
from .base import Config


def _sinusoids(config: Config) -> Sinusoids:
    """Positions count from the row after the pad token's; padding on the right moves none."""
    pad = config.get("pad_token_id")
    if not isinstance(pad, int) or isinstance(pad, bool) or pad < 0:
        raise CheckpointError(f"config.json: pad_token_id must be a token id, not {pad!r}")
    # Where a checkpoint keeps a table, transformers computes it all the same.
    return Sinusoids(lambda shape: fairseq_sinusoids(shape[0], shape[1], pad + 1), stored=False)


FAMILY = bart_line(
    "m2m_100",
    Variant(NormPlacement.PRE, embedding_norm=False, final_norm=True, sinusoids=_sinusoids),
    model="M2M100ForConditionalGeneration",
    tokenizer="M2M100: sentencepiece.bpe.model, vocab.json; NLLB: sentencepiece.bpe.model",
    languages="M2M100: 100 such as en, fr; NLLB: 202 such as eng_Latn, fra_Latn",
    at_run_time="both languages",
    ignored=(r"model\.(encoder|decoder)\.embed_positions\.weights",),
    defaults={
        "activation_function": "relu",
        "scale_embedding": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    },
)
