"""Limits of engines: defaults that fit the model, clear refusals, and the shapes they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.runtime import Bundle, InputError
from seq2edge.runtime.backends.tensorrt import Limits
from seq2edge.runtime.backends.tensorrt.builder.profile import profiles
from seq2edge.runtime.bundle.manifest import Dimensions, GraphInfo, TensorSpec

UNBOUNDED = Dimensions(
    vocab_size=100,
    d_model=8,
    encoder_layers=1,
    decoder_layers=1,
    decoder_heads=2,
    decoder_head_dim=4,
)
BOUNDED = replace(UNBOUNDED, max_source_length=80, max_target_length=60)


def test_defaults_are_cut_to_what_the_model_allows() -> None:
    assert Limits.of(UNBOUNDED) == Limits(1, 512, 256, 8)
    assert Limits.of(BOUNDED) == Limits(1, 80, 60, 8)
    assert Limits.of(UNBOUNDED, max_target_length=4) == Limits(1, 512, 4, 4)


def test_what_is_asked_for_is_taken() -> None:
    limits = Limits.of(
        BOUNDED, max_batch=3, max_source_length=80, max_target_length=240, max_num_tokens=4
    )
    assert limits == Limits(3, 80, 240, 4)  # four beams of 60 tokens


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"max_batch": 0}, "max_batch=0 must be at least 1"),
        ({"max_target_length": 0}, "max_target_length=0 must be at least 1"),
        ({"max_batch": 2**31}, "max_batch=2147483648 must be at least 1 and at most 2147483647"),
        ({"max_source_length": 81}, "max_source_length=81 is more than the model's 80"),
        ({"max_target_length": 121, "max_num_tokens": 2}, "at most 60 tokens, and there are 2"),
        ({"max_num_tokens": 9, "max_target_length": 8}, "max_num_tokens=9 tokens .* do not fit"),
    ],
)
def test_limits_that_the_model_cannot_use_are_refused(asked: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits.of(BOUNDED, **asked)


def test_shapes_of_a_decoder(bundle_of: Callable[[str], Path]) -> None:
    manifest = Bundle.open(bundle_of("t5")).manifest
    one, several = profiles(manifest.graphs["decoder"], Limits(4, 100, 32, 6))
    assert one["input_ids"] == ((1, 1), (1, 1), (4, 1))
    assert several["input_ids"] == ((1, 1), (1, 4), (4, 6))
    assert several["attention_mask"] == ((1, 1, 1, 32), (1, 1, 4, 32), (4, 1, 6, 32))
    for shapes in (one, several):
        assert shapes["past_key.0"] == ((1, 3, 32, 24), (1, 3, 32, 24), (4, 3, 32, 24))
        assert shapes["cross_value.1"] == ((1, 3, 1, 24), (1, 3, 64, 24), (4, 3, 100, 24))


def test_a_second_profile_is_made_only_for_several_queries(
    bundle_of: Callable[[str], Path],
) -> None:
    graphs = Bundle.open(bundle_of("t5")).manifest.graphs
    assert len(profiles(graphs["decoder"], Limits(1, 8, 8, 1))) == 1
    assert len(profiles(graphs["encoder"], Limits(1, 8, 8, 4))) == 1


def test_a_size_that_no_limit_belongs_to_is_refused() -> None:
    spec = TensorSpec("x", "float32", ("batch", "pages"))
    info = GraphInfo("odd.onnx", 24, "float32", (spec,), (), {}, 0)
    with pytest.raises(InputError, match=r"odd.onnx: input x has an unknown size 'pages'"):
        profiles(info, Limits(1, 8, 8, 1))
