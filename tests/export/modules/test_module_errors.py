"""Modules that compute something else than the graphs would are refused, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seq2edge.export import CheckpointError, ParityError, PositionalEncoding, export_module

from ...translators import TOKENS, Shape, Translator, make_translator, parts_of

SHAPE = Shape("lists", layers=(2, 1))


class OwnLayer(nn.TransformerEncoderLayer):
    def _ff_block(self, x: Tensor) -> Tensor:
        return super()._ff_block(x) * 0.5


def own_layer(model: Translator) -> None:
    model.encoder[1] = OwnLayer(64, 4, 96, batch_first=True)


def own_activation(model: Translator) -> None:
    model.decoder[0].activation = torch.tanh


def lambda_activation(model: Translator) -> None:
    model.decoder[0].activation = lambda x: x * x


def unlike_layers(model: Translator) -> None:
    model.encoder[1].norm2.eps = 0.1
    model.encoder[1].norm1.eps = 0.1


def other_norm(model: Translator) -> None:
    model.encoder_norm = nn.RMSNorm(64)


def added_keys(model: Translator) -> None:
    model.encoder[0].self_attn.add_zero_attn = True


def other_width(model: Translator) -> None:
    model.decoder[0].multihead_attn = nn.MultiheadAttention(64, 4, kdim=32, vdim=32)


def biased_keys(model: Translator) -> None:
    model.encoder[0].self_attn = nn.MultiheadAttention(64, 4, add_bias_kv=True)


def renormed(model: Translator) -> None:
    model.source_embedding.max_norm = 1.0


def other_generator(model: Translator) -> None:
    model.generator = nn.Sequential(nn.Linear(64, 390), nn.LogSoftmax(-1))  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (own_layer, r"encoder\.1 is a OwnLayer, whose _ff_block is not nn.TransformerEncoderL"),
        (own_activation, r"decoder\.0 has the activation tanh"),
        (lambda_activation, r"decoder\.0 has the activation <lambda>"),
        (unlike_layers, r"encoder\.1 is set otherwise"),
        (other_norm, "encoder_norm is a RMSNorm, and must be an nn.LayerNorm"),
        (added_keys, r"encoder\.0: .*add_zero_attn is not supported"),
        (other_width, r"decoder\.0: attention with kdim"),
        (biased_keys, r"encoder\.0: .*add_bias_kv"),
        (renormed, "source_embedding has max_norm"),
        (other_generator, "generator is a Sequential, and must be an nn.Linear"),
    ],
)
def test_what_the_graphs_cannot_do_is_told(
    change: Callable[[Translator], None], message: str, tmp_path: Path
) -> None:
    model = make_translator(SHAPE)
    change(model)
    assert message_of(model, tmp_path, match=message)


def message_of(
    model: Translator,
    folder: Path,
    match: str | None = None,
    error: Any = CheckpointError,
    **other: Any,
) -> str:
    options: dict[str, Any] = {"parts": parts_of(SHAPE), "tokens": TOKENS, **other}
    with pytest.raises(error, match=match) as caught:
        export_module(model, folder / "bundle", **options)
    assert list(folder.iterdir()) == []
    return str(caught.value)


def test_a_part_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    parts = replace(parts_of(SHAPE), decoder="transformer.decoder")
    message = message_of(make_translator(SHAPE), tmp_path, parts=parts)
    assert "has no part 'transformer.decoder'" in message
    assert "source_embedding, target_embedding" in message


def test_a_part_that_is_not_described_is_an_unused_tensor(tmp_path: Path) -> None:
    parts = replace(
        parts_of(SHAPE), encoder_norm=None, positions=PositionalEncoding("sinusoidal", length=9)
    )
    message = message_of(make_translator(SHAPE), tmp_path, parts=parts)
    assert message.endswith(
        "unused tensor encoder_norm.bias; unused tensor encoder_norm.weight;"
        " unused tensor positions.table"
    )


def test_a_description_that_the_forward_contradicts_is_refused(tmp_path: Path) -> None:
    model = make_translator(SHAPE)
    wrong = {"parts": replace(parts_of(SHAPE), embedding_scale=1.0), "forward": model}
    message_of(model, tmp_path, "differs from PyTorch", ParityError, **wrong)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda source, _padding, _target: source, r"forward gave \[10, 48\], not logits"),
        (lambda source: source, "forward.source, padding, target. failed"),
    ],
)
def test_a_forward_of_another_form_is_told(forward: Any, message: str, tmp_path: Path) -> None:
    message_of(make_translator(SHAPE), tmp_path, message, ParityError, forward=forward)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("rotary", {}, "known kinds: none, sinusoidal, learned"),
        ("none", {"length": 3}, "no table and no length"),
        ("learned", {}, "need the name of their table"),
        ("sinusoidal", {}, "need a table or a length"),
        ("sinusoidal", {"length": 0}, "must be positive"),
    ],
)
def test_impossible_positions_are_told(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PositionalEncoding(kind, **options)


def test_more_positions_than_the_table_has_are_told(tmp_path: Path) -> None:
    positions = PositionalEncoding("sinusoidal", table="positions.table", length=81)
    parts = replace(parts_of(SHAPE), positions=positions)
    message = message_of(make_translator(SHAPE), tmp_path, parts=parts)
    assert "81 positions are asked for and positions.table has 80" in message
