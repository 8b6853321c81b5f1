"""The bundle computes what PyTorch computes: logits as exactly, the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from seq2edge.export import export_checkpoint
from seq2edge.runtime import Seq2SeqModel

from ..batches import padded_with_mask

BART_LINE = [
    "mbart",
    "mbart-scaled",
    "pegasus",
    "pegasus-scaled",
    "marian",
    "marian-separate",
    "m2m100",
    "m2m100-unscaled",
    "blenderbot",
    "blenderbot-scaled",
    "blenderbot-small",
    "blenderbot-small-scaled",
    "plbart",
    "plbart-unscaled",
]
SHAPES = ["t5", "t5-v1.1", "t5-deep-decoder", "mt5", "umt5", "bart", "bart-scaled", *BART_LINE]
NEW_TOKENS = 70  # beyond the 64 slots that the cache starts with, so it has to grow


def sources(vocab_size: int, pad: int, eos: int) -> list[list[int]]:
    """20 inputs of 1 to 60 tokens."""
    generator = np.random.default_rng(7)
    rows = []
    for length in np.linspace(1, 60, 20).astype(int):
        row = generator.integers(3, vocab_size, length)
        row[-1] = eos
        rows.append([int(token) for token in row if token != pad])
    return rows


def reference_tokens(
    model: Any,
    ids: np.ndarray,
    mask: np.ndarray,
    num_beams: int = 1,
    max_new_tokens: int = NEW_TOKENS,
) -> list[list[int]]:
    """transformers' tokens after the start token, cut after the end token."""
    config = model.config
    layers = getattr(config, "num_decoder_layers", 0), getattr(config, "num_layers", 0)
    with torch.inference_mode():
        rows = model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            do_sample=False,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            use_cache=layers[0] <= layers[1],  # see export/parity.py
        )[:, 1:].tolist()
    eos = config.eos_token_id
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_match_pytorch(
    shape: str, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="no tokenizer"):
        result = export_checkpoint(checkpoint_of(shape), tmp_path / "bundle", validate=True)
    parity = result.parity
    assert parity is not None
    for _, difference in parity.differences():
        assert difference.maximum < 2e-4 or difference.maximum < 2 * difference.pytorch
        assert difference.beyond == 0
    assert parity.exact == parity.inputs == 10


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_match_transformers_batched_and_alone(
    shape: str, checkpoint_of: Callable[[str], Path], bundle_of: Callable[[str], Path]
) -> None:
    reference = AutoModelForSeq2SeqLM.from_pretrained(
        checkpoint_of(shape), attn_implementation="eager"
    ).eval()
    config = reference.config
    rows = sources(config.vocab_size, config.pad_token_id, config.eos_token_id)
    ids, mask = padded_with_mask(rows, config.pad_token_id)
    expected = reference_tokens(reference, ids, mask)
    with Seq2SeqModel.load(bundle_of(shape)) as model:
        batch = model.generate_ids(ids, mask, max_new_tokens=NEW_TOKENS)
        alone = [model.generate_ids([row], max_new_tokens=NEW_TOKENS)[0] for row in rows]
    assert [found.token_ids for found in batch] == expected
    assert [found.token_ids for found in alone] == expected
    # The sample is of use only if the tokens differ, between the rows and along them.
    assert len({tuple(row) for row in expected}) > 1
    assert max(len(set(row)) for row in expected) > 1


@pytest.mark.parametrize("shape", BART_LINE)
def test_beam_tokens_match_transformers(
    shape: str, checkpoint_of: Callable[[str], Path], bundle_of: Callable[[str], Path]
) -> None:
    """A padded batch: where positions depended on padding, the short sources would differ."""
    model = AutoModelForSeq2SeqLM.from_pretrained(
        checkpoint_of(shape), attn_implementation="eager"
    ).eval()
    config = model.config
    rows = sources(config.vocab_size, config.pad_token_id, config.eos_token_id)[::2]
    ids, mask = padded_with_mask(rows, config.pad_token_id)
    expected = reference_tokens(model, ids, mask, num_beams=4, max_new_tokens=20)
    with Seq2SeqModel.load(bundle_of(shape)) as loaded:
        options = replace(loaded.generation_config, num_beams=4, max_new_tokens=20)
        found = [found.token_ids for found in loaded.generate_ids(ids, mask, options)]
    assert len(found) == 10
    assert found == expected
