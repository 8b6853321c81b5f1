"""Validation refuses graphs that compute something else, and leaves nothing of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.export import ExportResult, ParityError, families
from seq2edge.export.checkpoint import Checkpoint, FloatArray
from seq2edge.export.families import bart, t5
from seq2edge.export.spec import Seq2SeqSpec
from seq2edge.export.weights import WeightMapping
from seq2edge.runtime import Bundle, MissingDependencyError

CheckpointOf = Callable[[str], Path]
Export = Callable[..., ExportResult]
Refusal = Callable[..., str]

_FFN = "DenseReluDense"
#: (checkpoint, two of its tensors of one shape): the family's rules take one for the other.
SWAPS: list[tuple[str, str, str]] = [
    (
        "t5",
        "encoder.block.1.layer.0.SelfAttention.q.weight",
        "encoder.block.1.layer.0.SelfAttention.k.weight",
    ),
    (
        "t5",
        "decoder.block.1.layer.1.EncDecAttention.k.weight",
        "decoder.block.1.layer.1.EncDecAttention.v.weight",
    ),
    (
        "t5",
        "decoder.block.0.layer.0.layer_norm.weight",
        "decoder.block.0.layer.1.layer_norm.weight",
    ),
    (
        "t5",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (
        "t5-v1.1",
        f"encoder.block.0.layer.1.{_FFN}.wi_0.weight",
        f"encoder.block.0.layer.1.{_FFN}.wi_1.weight",
    ),
    (
        "umt5",
        "decoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.2.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (
        "bart",
        "model.encoder.layers.1.fc2.bias",
        "model.encoder.layers.1.self_attn.out_proj.bias",
    ),
    (
        "bart",
        "model.encoder.embed_positions.weight",
        "model.decoder.embed_positions.weight",
    ),
]


def swapped(weight_map: list[WeightMapping], first: str, second: str) -> list[WeightMapping]:
    """The rules, with the two checkpoint tensors in each other's place."""
    other = {first: second, second: first}
    return [
        replace(rule, sources=tuple(other.get(name, name) for name in rule.sources))
        for rule in weight_map
    ]


def with_rules(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[list[WeightMapping]], list[WeightMapping]]
) -> None:
    """Let every family's rules go through ``change``."""

    def changed(
        weight_map: Callable[[Seq2SeqSpec], list[WeightMapping]],
    ) -> Callable[..., list[WeightMapping]]:
        return lambda spec: change(weight_map(spec))

    wrong = tuple(replace(f, weight_map=changed(f.weight_map)) for f in (t5.FAMILY, bart.FAMILY))
    monkeypatch.setattr(families, "FAMILIES", wrong)


@pytest.mark.parametrize(("shape", "first", "second"), SWAPS)
def test_a_name_map_with_two_tensors_swapped_is_refused(
    shape: str,
    first: str,
    second: str,
    checkpoint_of: CheckpointOf,
    export: Export,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_rules(monkeypatch, lambda weight_map: swapped(weight_map, first, second))
    message = refusal(checkpoint_of(shape), ParityError, validate=True)
    assert "the bundle differs from PyTorch: encoder max error " in message
    assert "decoder logits max error " in message
    assert "positions beyond the limit, the worst " in message
    assert "greedy tokens identical on " in message
    assert "Nothing was written" in message
    # The swap is one that only a comparison can see.
    assert export(checkpoint_of(shape)).parity is None


def test_the_unchanged_name_map_passes(
    checkpoint_of: CheckpointOf, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_rules(monkeypatch, lambda weight_map: weight_map)
    parity = export(checkpoint_of("t5"), validate=True).parity
    assert parity is not None
    assert parity.ok


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("shared.weight", 3e-3),
        ("decoder.final_layer_norm.weight", 3e-3),
        ("encoder.block.2.layer.1.DenseReluDense.wo.weight", 1e-1),
        ("encoder.block.0.layer.0.layer_norm.weight", float("nan")),
    ],
)
def test_a_weight_that_is_a_little_off_is_refused(
    name: str,
    difference: float,
    checkpoint_of: CheckpointOf,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Checkpoint.load

    def perturbed(self: Checkpoint, wanted: str) -> FloatArray:
        array = load(self, wanted)
        return array * np.float32(1 + difference) if wanted == name else array

    monkeypatch.setattr(Checkpoint, "load", perturbed)
    assert "differs from PyTorch" in refusal(checkpoint_of("t5"), ParityError, validate=True)


def test_a_bundle_that_is_to_be_replaced_survives_a_failed_comparison(
    checkpoint_of: CheckpointOf, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = export(checkpoint_of("t5"))
    _, first, second = SWAPS[0]
    with_rules(monkeypatch, lambda weight_map: swapped(weight_map, first, second))
    with pytest.raises(ParityError):
        export(checkpoint_of("t5"), overwrite=True, validate=True)
    assert [path.name for path in good.path.parent.iterdir()] == [good.path.name]
    bundle = Bundle.open(good.path)
    bundle.verify()
    assert bundle.manifest == good.manifest


def test_a_checkpoint_that_transformers_cannot_load_is_told(
    checkpoint_of: CheckpointOf, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("first line\nsecond line")

    monkeypatch.setattr(transformers.AutoModelForSeq2SeqLM, "from_pretrained", fail)
    message = refusal(checkpoint_of("t5"), ParityError, validate=True)
    assert "transformers cannot load" in message
    assert "first line" in message
    assert "second line" not in message


@pytest.mark.parametrize("package", ["torch", "transformers", "onnxruntime"])
def test_validation_without_a_package_it_needs_names_it(
    package: str, checkpoint_of: CheckpointOf, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, package)
    message = refusal(checkpoint_of("t5"), MissingDependencyError, validate=True)
    assert f"validation needs {package}" in message


def test_without_torch_the_default_is_to_export_without_comparing(
    checkpoint_of: CheckpointOf, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = export(checkpoint_of("t5"), "with", validate=None)
    assert compared.parity is not None
    hide(monkeypatch, "torch")
    result = export(checkpoint_of("t5"), "without", validate=None)
    assert result.parity is None
    assert result.manifest == compared.manifest


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let the export find everything but ``package``."""
    monkeypatch.setattr(
        "seq2edge.export.pipeline.find_spec",
        lambda name: None if name == package else importlib.util.find_spec(name),
    )
