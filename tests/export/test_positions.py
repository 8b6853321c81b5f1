"""Biases fall in transformers' buckets; learned and computed positions are right to the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BartForConditionalGeneration
from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.t5.modeling_t5 import T5Attention

from seq2edge.export.graph.positions import expand_relative_bias
from seq2edge.export.sinusoids import fairseq_sinusoids, halved_sinusoids
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends import Step
from seq2edge.runtime.backends.onnxruntime import OrtBackend


@pytest.mark.parametrize("bidirectional", [True, False], ids=["encoder", "decoder"])
@pytest.mark.parametrize(
    ("buckets", "max_distance"), [(32, 128), (16, 40), (8, 20), (64, 256), (32, 20), (4, 3)]
)
def test_expanded_bias_is_the_table_row_that_transformers_looks_up(
    buckets: int, max_distance: int, bidirectional: bool
) -> None:
    table = np.random.default_rng(buckets).normal(size=(buckets, 3)).astype(np.float32)
    expanded = expand_relative_bias(table, max_distance, bidirectional)
    distance = np.arange(-300, 301)  # query minus key
    # The graph clips the distance and gathers; a decoder sees no key to the right.
    first = -max_distance if bidirectional else 0
    found = expanded[np.clip(distance, first, max_distance) - first]
    bucket = T5Attention._relative_position_bucket(
        torch.tensor(-distance),  # key minus query
        bidirectional=bidirectional,
        num_buckets=buckets,
        max_distance=max_distance,
    )
    np.testing.assert_array_equal(found, table[bucket.numpy()])
    assert len(expanded) == max_distance - first + 1


def test_learned_positions_match_at_the_very_last_position(
    checkpoint_of: Callable[[str], Path], bundle_of: Callable[[str], Path]
) -> None:
    model = BartForConditionalGeneration.from_pretrained(checkpoint_of("bart")).eval()
    length = model.config.max_position_embeddings
    generator = np.random.default_rng(3)
    source, target = generator.integers(4, model.config.vocab_size, (2, 2, length))
    with torch.inference_mode():
        expected = model(
            input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(target)
        ).logits.numpy()
    backend = OrtBackend(Bundle.open(bundle_of("bart")), num_threads=1)
    decoder = backend.new_cache(
        backend.encode({"input_ids": source, "attention_mask": np.ones(source.shape, np.bool_)}),
        length,
    )
    step = Step.allocate(2, length, length, vocab_size=model.config.vocab_size)
    step.input_ids[:] = target
    step.position_ids[:] = np.arange(length)
    step.attention_mask[:] = np.tri(length, dtype=np.bool_)
    decoder.forward(step)
    backend.close()
    assert step.logits is not None
    np.testing.assert_allclose(step.logits[:, -1], expected[:, -1], atol=2e-4)
    np.testing.assert_allclose(step.logits, expected, atol=2e-4)


def test_the_manifest_says_how_long_learned_positions_reach(
    bundle_of: Callable[[str], Path],
) -> None:
    learned = Bundle.open(bundle_of("bart")).manifest
    assert learned.dimensions.max_source_length == learned.dimensions.max_target_length == 80
    assert learned.weights["decoder.positions.weight"].shape == (80, 64)
    relative = Bundle.open(bundle_of("t5")).manifest
    assert relative.dimensions.max_source_length is None
    assert relative.dimensions.max_target_length is None


@pytest.mark.parametrize("pad", [0, 1, 5])
@pytest.mark.parametrize("width", [8, 9])
def test_m2m100s_positions_are_those_of_right_padded_sources(pad: int, width: int) -> None:
    """transformers counts from the row after the pad token's, and padding on the right moves none.

    Row p of the table is what a source's token p gets, whatever is padded after it.
    """
    theirs = M2M100SinusoidalPositionalEmbedding(60, width, pad)
    ids = torch.full((2, 60), pad + 1)
    ids[1, 40:] = pad
    expected = theirs(ids)
    table = torch.from_numpy(fairseq_sinusoids(60, width, first=pad + 1))
    torch.testing.assert_close(table, expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(table[:40], expected[1, :40], atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [8, 9])
def test_marians_positions_are_all_sines_before_all_cosines(width: int) -> None:
    expected = MarianSinusoidalPositionalEmbedding(70, width).create_weight()
    table = torch.from_numpy(halved_sinusoids(70, width))
    torch.testing.assert_close(table, expected, atol=1e-6, rtol=0)


def test_a_table_that_a_marian_checkpoint_stores_is_read(
    editable: Callable[..., Path], edit_tensors: Callable[..., None], export: Callable[..., Any]
) -> None:
    checkpoint, name = editable("marian"), "model.encoder.embed_positions.weight"
    stored = np.random.default_rng(4).normal(size=(80, 64)).astype(np.float32)
    edit_tensors(checkpoint, lambda tensors: tensors.update({name: stored}))
    # Against transformers, which reads it as well; the decoder's is computed.
    assert export(checkpoint, validate=True).parity.encoder.maximum < 2e-4


def test_a_table_that_an_m2m100_checkpoint_stores_is_computed_all_the_same(
    editable: Callable[..., Path], edit_tensors: Callable[..., None], export: Callable[..., Any]
) -> None:
    checkpoint, name = editable("m2m100"), "model.decoder.embed_positions.weights"
    edit_tensors(checkpoint, lambda tensors: tensors.update({name: np.ones((9, 64), np.float32)}))
    assert export(checkpoint, validate=True).parity.decoder.maximum < 2e-4
