"""Relative biases fall in transformers' buckets; learned positions are right to the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BartForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from seq2edge.export.graph.positions import expand_relative_bias
from seq2edge.runtime import Bundle
from seq2edge.runtime.engines import Step
from seq2edge.runtime.engines.onnxruntime import OnnxRuntimeEngine


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
    engine = OnnxRuntimeEngine(Bundle.open(bundle_of("bart")), num_threads=1)
    decoder = engine.decoder(engine.encode(source, np.ones(source.shape, np.bool_)), length)
    step = Step.allocate(2, length, length, vocab_size=model.config.vocab_size)
    step.input_ids[:] = target
    step.position_ids[:] = np.arange(length)
    step.attention_mask[:] = np.tri(length, dtype=np.bool_)
    decoder.bind(step)()
    engine.close()
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
