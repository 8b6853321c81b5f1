"""RoBERTa: BERT with other positions and another head.

Source: Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach".
"""

from __future__ import annotations

from ..errors import CheckpointError
from ..spec import Activation, StackSpec
from . import bert
from .base import Config, FamilyDoc
from .components import Component, Head


def _layers(config: Config) -> StackSpec:
    """Positions count from the row after the pad token's: fairseq's make_positions."""
    pad, rows = config.get("pad_token_id"), config.integer("max_position_embeddings")
    if not isinstance(pad, int) or isinstance(pad, bool) or not 0 <= pad < rows - 1:
        raise CheckpointError(
            f"config.json: {config.where}pad_token_id {pad!r} is not supported: positions count"
            f" from the row after it, and there are {rows} rows"
        )
    return bert.layers(config, padding_rows=pad + 1)


COMPONENT = Component(
    kind="roberta",
    model="roberta.",
    defaults={
        **bert.DEFAULTS,
        "vocab_size": 50265,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    stack=_layers,
    weight_map=bert.weight_map,
    embedding=bert.EMBEDDING,
    head=Head(
        weight="lm_head.decoder.weight",
        biases=("lm_head.bias", "lm_head.decoder.bias"),
        # Whatever hidden_act is.
        transform=("lm_head.dense", "lm_head.layer_norm", lambda _config: Activation.GELU),
    ),
    ignored=bert.IGNORED,
)
FAMILY = bert.encoder_family(
    COMPONENT,
    FamilyDoc(
        model="RobertaModel",
        positions="learned",
        norms="after each part, on the embeddings",
        tokenizer="vocab.json, merges.txt",
        at_run_time="an encoder-only model: `seq2edge encode`",
    ),
)
