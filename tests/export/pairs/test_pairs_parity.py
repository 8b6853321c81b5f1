"""Bundles of BERT's and GPT-2's line compute what transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, EncoderDecoderModel, GenerationConfig

from seq2edge.export import export_checkpoint
from seq2edge.runtime import EncoderModel, InputError, Seq2SeqModel

from ...batches import padded_with_mask

PathOf = Callable[[str], Path]
ENCODERS = ["bert", "bert-relu", "roberta", "roberta-pad"]
DECODERS = ["gpt2", "gpt2-unscaled"]
PAIRS = [
    "bert-bert",
    "bert-bert-odd",
    "roberta-roberta",
    "roberta-roberta-wide",
    "bert-gpt2",
    "bert-gpt2-narrow",
]
NEW_TOKENS = 30


def loaded(kind: Any, checkpoint: Path) -> Any:
    """transformers' model, with the attention that is written out."""
    return kind.from_pretrained(checkpoint, attn_implementation="eager").eval()


def rows_of(vocab_size: int, avoided: set[int]) -> list[list[int]]:
    """10 inputs of 1 to 60 tokens; none is a special one."""
    generator = np.random.default_rng(7)
    words = np.setdiff1d(np.arange(vocab_size), list(avoided))
    return [generator.choice(words, n).tolist() for n in np.linspace(1, 60, 10).astype(int)]


def reference_tokens(
    model: Any, ids: Any, mask: Any, beams: int, prompt: int, **tokens: int
) -> list[list[int]]:
    """transformers' tokens after the prompt, up to the end token."""
    options = GenerationConfig(
        do_sample=False, num_beams=beams, max_new_tokens=NEW_TOKENS, **tokens
    )
    with torch.inference_mode():
        rows = model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            generation_config=options,
        )
    eos = tokens["eos_token_id"]
    found = rows[:, prompt:].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in found]


def check_varied(rows: list[list[int]]) -> None:
    """The sample is of use only if the tokens differ, between the rows and along them."""
    assert len({tuple(row) for row in rows}) > 3
    assert max(len(set(row)) for row in rows) > 3


@pytest.mark.parametrize("shape", [*ENCODERS, *DECODERS, *PAIRS])
def test_outputs_match_pytorch(shape: str, pair_checkpoint_of: PathOf, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no tokenizer"):
        result = export_checkpoint(pair_checkpoint_of(shape), tmp_path / "bundle", validate=True)
    parity = result.parity
    assert parity is not None
    assert [name for name, _ in parity.differences()] == (
        ["encoder"] * (shape not in DECODERS) + ["decoder logits"] * (shape not in ENCODERS)
    )
    assert all(difference.maximum < 2e-4 for _, difference in parity.differences())
    assert parity.exact == parity.inputs == (0 if shape in ENCODERS else 10)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("shape", PAIRS)
def test_pairs_generate_transformers_tokens(
    shape: str, beams: int, pair_checkpoint_of: PathOf, pair_bundle_of: PathOf
) -> None:
    model = loaded(EncoderDecoderModel, pair_checkpoint_of(shape))
    encoder, decoder = model.config.encoder, model.config.decoder
    rows = rows_of(encoder.vocab_size, {encoder.pad_token_id})
    ids, mask = padded_with_mask(rows, encoder.pad_token_id)
    tokens = {
        "pad_token_id": decoder.pad_token_id or 0,
        "eos_token_id": decoder.eos_token_id,
        "decoder_start_token_id": model.config.decoder_start_token_id,
    }
    expected = reference_tokens(model, ids, mask, beams, 1, **tokens)
    check_varied(expected)
    with Seq2SeqModel.load(pair_bundle_of(shape)) as bundle:
        config = replace(bundle.generation_config, num_beams=beams, max_new_tokens=NEW_TOKENS)
        found = bundle.generate_ids(ids, mask, config)
        alone = bundle.generate_ids([rows[3]], None, config)
    assert [row.token_ids for row in found] == expected
    assert alone[0].token_ids == expected[3]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("shape", DECODERS)
def test_decoders_go_on_with_prompts_of_different_lengths(
    shape: str, beams: int, pair_checkpoint_of: PathOf, pair_bundle_of: PathOf
) -> None:
    model = loaded(AutoModelForCausalLM, pair_checkpoint_of(shape))
    eos = model.config.eos_token_id
    rows = rows_of(model.config.vocab_size, {eos})
    ids, mask = padded_with_mask(rows, eos, left=True)
    tokens = {"pad_token_id": eos, "eos_token_id": eos}
    expected = reference_tokens(model, ids, mask, beams, ids.shape[1], **tokens)
    check_varied(expected)
    with Seq2SeqModel.load(pair_bundle_of(shape)) as bundle:
        config = replace(bundle.generation_config, num_beams=beams, max_new_tokens=NEW_TOKENS)
        right, left = (padded_with_mask(rows, eos, left=side) for side in (False, True))
        results = [bundle.generate_ids(*inputs, config) for inputs in (right, left)]
        alone = [bundle.generate_ids([row], None, config)[0].token_ids for row in rows]
        parts = bundle.generate_ids(*right, config, batch_size=3)
    for found in (*results, parts):
        assert [row.token_ids for row in found] == expected
    assert alone == expected


@pytest.mark.parametrize("shape", ENCODERS)
def test_encoders_give_transformers_states(
    shape: str, pair_checkpoint_of: PathOf, pair_bundle_of: PathOf
) -> None:
    reference = loaded(AutoModel, pair_checkpoint_of(shape))
    pad = reference.config.pad_token_id
    rows = rows_of(reference.config.vocab_size, {pad})[::-1]  # batches are of similar lengths
    ids, mask = padded_with_mask(rows, pad)
    left = padded_with_mask(rows, pad, left=True)
    with torch.inference_mode():
        arguments = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        states = reference(**arguments).last_hidden_state.numpy() * mask[..., None]
    with EncoderModel.load(pair_bundle_of(shape)) as model:
        found = model.encode_ids(ids, mask)
        parts = model.encode_ids(ids, batch_size=3)
        mean = model.encode_ids(ids, pooling="mean")
        first = model.encode_ids(ids, pooling="first", batch_size=4)
        left_states = model.encode_ids(*left)
        left_first = model.encode_ids(*left, pooling="first")
        with pytest.raises(InputError, match="batch_size must be at least 1, not 0"):
            model.encode_ids(ids, batch_size=0)
    assert found.shape == (*ids.shape, reference.config.hidden_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, states, atol=2e-4)
    np.testing.assert_allclose(parts, states, atol=2e-4)
    sums = states.sum(axis=1) / mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mean, sums, atol=2e-4)
    np.testing.assert_allclose(first, states[:, 0], atol=2e-4)
    of_tokens = left_states[range(len(rows)), [ids.shape[1] - len(row) for row in rows]]
    np.testing.assert_allclose(left_first, of_tokens, atol=2e-4)
