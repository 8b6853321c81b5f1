"""The comparison at export passes right bundles of any weights, and no wrong ones.

What is right is float64; how far a bundle may be from it is set by PyTorch's own float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seq2edge.export import ExportResult, ParityError, families
from seq2edge.export.checkpoint import Checkpoint, FloatArray
from seq2edge.export.families import bart, marian, t5

from ..conftest import make_model

Export = Callable[..., ExportResult]
Refusal = Callable[..., str]
Change = Callable[[FloatArray], FloatArray]


def save(
    path: Path,
    shape: str,
    std: float | None,
    dtype: torch.dtype = torch.float32,
    head: float = 1.0,
    **values: Any,
) -> Path:
    """A checkpoint of one of conftest's shapes; with ``std``, all its matrices have that.

    ``head`` multiplies the output embeddings.
    """
    model = make_model(shape, **values)
    if std is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, std)
            model.get_output_embeddings().weight.mul_(head)
    model.to(dtype).save_pretrained(path)
    return path


_DEEP_T5 = {"num_layers": 24, "num_decoder_layers": 24}
_DEEP_BART = {"encoder_layers": 24, "decoder_layers": 24}


@pytest.mark.parametrize(
    ("shape", "std", "values"),
    [
        ("t5", 0.5, {}),
        ("t5", 3.0, {}),
        ("t5-v1.1", 1.0, {"head": 100.0}),  # logits of 1e3
        ("bart", 1.0, {}),
        ("bart", 30.0, {}),  # logits of 1e3
        ("marian", 1.0, {}),
        ("marian", 30.0, {}),
        ("t5", None, _DEEP_T5),
        ("t5", 0.3, _DEEP_T5),
        ("bart", None, _DEEP_BART),
        ("marian", 1.0, _DEEP_BART),
    ],
)
def test_right_bundles_pass_however_large_or_deep(
    shape: str, std: float | None, values: dict[str, Any], export: Export, tmp_path: Path
) -> None:
    result = export(save(tmp_path / "c", shape, std, **values), validate=True)
    parity = result.parity
    assert parity is not None
    assert parity.ok
    assert parity.exact + parity.ties == 10
    assert [difference.positions for _, difference in parity.differences()] == [246, 160]
    if std == 30 or "head" in values:
        assert parity.decoder is not None and parity.decoder.scale > 800
    assert "times the largest error of PyTorch in float32" in parity.rule


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", ["t5", "bart"])
def test_checkpoints_stored_in_16_bits_pass(
    shape: str, dtype: torch.dtype, export: Export, tmp_path: Path
) -> None:
    parity = export(save(tmp_path / "c", shape, 0.5, dtype), validate=True).parity
    assert parity is not None and parity.ok


def zeroed(array: FloatArray) -> FloatArray:
    return np.zeros_like(array)


def heads_swapped(array: FloatArray) -> FloatArray:
    """Rows of the first two heads, of 16 each, in each other's place."""
    return np.concatenate([array[16:32], array[:16], array[32:]])


def transposed(array: FloatArray) -> FloatArray:
    return np.ascontiguousarray(array.T)


def shifted(array: FloatArray) -> FloatArray:
    return np.roll(array, 1, axis=0)


_BART_LAYER = "model.decoder.layers.1"
#: shape: (tensor, what is read in its place)
WRONG_TENSORS: list[tuple[str, str, Change]] = [
    ("bart", f"{_BART_LAYER}.fc1.bias", zeroed),
    ("bart", f"{_BART_LAYER}.encoder_attn.q_proj.bias", zeroed),
    ("bart", "model.encoder.layers.1.self_attn_layer_norm.bias", zeroed),
    ("bart", "final_logits_bias", zeroed),
    ("bart", f"{_BART_LAYER}.self_attn.q_proj.weight", heads_swapped),
    ("bart", "model.encoder.layers.0.self_attn.v_proj.weight", heads_swapped),
    ("bart", f"{_BART_LAYER}.encoder_attn.k_proj.weight", transposed),
    ("bart", "model.encoder.layers.1.self_attn.out_proj.weight", transposed),
    ("bart", "model.encoder.embed_positions.weight", shifted),
    ("bart", "model.decoder.embed_positions.weight", shifted),
    ("t5", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", shifted),
    ("t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", shifted),
]


@pytest.mark.parametrize("std", [None, 1.0])
@pytest.mark.parametrize(("shape", "name", "change"), WRONG_TENSORS)
def test_a_wrong_tensor_is_refused(
    shape: str,
    name: str,
    change: Change,
    std: float | None,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    load = Checkpoint.load

    def changed(self: Checkpoint, wanted: str) -> FloatArray:
        array = load(self, wanted)
        return change(array) if wanted == name else array

    monkeypatch.setattr(Checkpoint, "load", changed)
    message = refusal(save(tmp_path / "c", shape, std), ParityError, validate=True)
    assert "positions beyond the limit" in message


def no_scale(spec: Any) -> Any:
    """Embeddings as they are stored."""
    stacks = {
        side: replace(getattr(spec, side), embedding_scale=None) for side in ("encoder", "decoder")
    }
    return replace(spec, embedding_scale=1.0, **stacks)


def other_epsilon(spec: Any) -> Any:
    """1e-5 where it is 1e-6, and the other way round."""
    epsilon = {1e-6: 1e-5, 1e-5: 1e-6}[spec.norm.epsilon]
    return replace(spec, norm=replace(spec.norm, epsilon=epsilon))


@pytest.mark.parametrize(
    ("shape", "change", "std", "values"),
    [
        ("bart-scaled", no_scale, None, {}),
        ("marian", no_scale, None, {}),
        ("t5", other_epsilon, None, {}),
        ("t5", other_epsilon, 0.02, {}),
        ("t5", other_epsilon, None, _DEEP_T5),
        ("bart", other_epsilon, None, {}),
        ("bart", other_epsilon, 0.02, {}),
        ("marian", other_epsilon, 0.02, {}),
    ],
)
def test_a_wrong_scale_or_epsilon_is_refused(
    shape: str,
    change: Callable[[Any], Any],
    std: float | None,
    values: dict[str, int],
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def wrong(family: Any) -> Any:
        return replace(family, spec=lambda *arguments: change(family.spec(*arguments)))

    changed = tuple(map(wrong, (t5.FAMILY, bart.FAMILY, marian.FAMILY)))
    monkeypatch.setattr(families, "FAMILIES", changed)
    message = refusal(save(tmp_path / "c", shape, std, **values), ParityError, validate=True)
    assert "positions beyond the limit" in message
