"""PyTorch's own error in float32, and its model run in float64 without being changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seq2edge.export import rounding
from seq2edge.export.rounding import in_float64, measure

from ..conftest import make_model


def outputs(model: nn.Module) -> Tensor:
    """Logits of three sources, one of them padded."""
    ids = torch.tensor([[5, 9, 33, 71, 1], [8, 14, 1, 0, 0], [90, 91, 92, 93, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    targets = torch.tensor([[2, 7, 9, 11], [2, 8, 8, 3], [2, 40, 41, 42]])
    with torch.no_grad():
        logits: Tensor = model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=targets, use_cache=False
        ).logits
    return logits


@pytest.mark.parametrize("shape", ["bart", "marian"])
def test_float64_is_that_of_a_model_converted_to_it(shape: str) -> None:
    model = make_model(shape)
    model.set_attn_implementation("eager")
    with in_float64():
        found = outputs(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert outputs(model).dtype == torch.float32
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, outputs(model.double()), rtol=0, atol=1e-11)


def test_float64_holds_where_t5_asks_for_float32() -> None:
    """Its norms and softmax do; converting the model to float64 leaves those in float32."""
    model = make_model("t5")
    with in_float64():
        found = outputs(model)
    with in_float64():
        again = outputs(model.double())  # the weights widened before, and not one by one
    torch.testing.assert_close(found, again, rtol=0, atol=1e-12)
    assert 1e-9 < float((outputs(model) - found).abs().max()) < 1e-5


def test_large_weights_are_widened_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("t5")
    with in_float64():
        whole = outputs(model)
    monkeypatch.setattr(rounding, "_PART", 1000)
    with in_float64():
        parts = outputs(model)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


class Mixed(nn.Module):
    """What refuses mixed types, writes in place and makes tensors of a named type."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(6, 6, 3, padding=1, dtype=dtype)
        self.lstm = nn.LSTM(6, 6, batch_first=True, dtype=dtype)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, dtype=dtype)
        self.register_buffer("table", torch.rand(5, 6, dtype=dtype))

    def forward(self) -> Tensor:
        x = self.table[None].repeat(2, 1, 1)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        x, _ = self.lstm(x)
        mask = torch.full((5, 5), float("-inf")).triu(1)
        x = x + self.attention(x, x, x, attn_mask=mask.to(x.dtype), need_weights=False)[0]
        total = torch.zeros(2, 5, 6, dtype=self.table.dtype)
        total += x
        total[:, 1:] += x[:, :-1].float()
        return total


def test_float64_reaches_any_module() -> None:
    model = Mixed()
    reference = Mixed(torch.float64)
    reference.load_state_dict({name: t.double() for name, t in model.state_dict().items()})
    with torch.no_grad(), in_float64():
        found, expected = model(), reference()
    assert found.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert torch.get_default_dtype() == torch.float32


def test_error_is_measured_at_each_position() -> None:
    model = make_model("t5")
    (found,) = measure(lambda: [outputs(model)], keep=1)
    assert found.exact.shape == (3, 4, 384)
    assert found.exact.dtype == np.float64
    plain = np.abs(outputs(model).numpy() - found.exact).max(-1)
    assert (found.rounding >= plain).all()
    assert (found.rounding <= 4 * plain.max()).all()
    assert (found.rounding > 0).all()
    assert len(found.runs) == 2  # they agree
    assert not np.array_equal(*found.runs)


def test_where_roundings_are_magnified_more_runs_are_made() -> None:
    model = make_model("t5")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1)
    (found,) = measure(lambda: [outputs(model)], keep=1)
    assert len(found.runs) == 8
