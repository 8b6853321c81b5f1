"""Every tensor is accounted for: missing, unused, wrongly shaped and tied ones are told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSeq2SeqLM

from seq2edge.export import ExportResult

Tensors = dict[str, NDArray[Any]]
Editable = Callable[..., Path]
Edit = Callable[[Path, Callable[[Tensors], object]], None]
Export = Callable[..., ExportResult]
Refusal = Callable[..., str]

WO = "encoder.block.2.layer.1.DenseReluDense.wo.weight"
CROSS_K = "decoder.block.1.layer.1.EncDecAttention.k.weight"
Q = "encoder.block.0.layer.0.SelfAttention.q.weight"
FC1 = "model.decoder.layers.2.fc1.bias"


def problems(message: str) -> list[str]:
    """The list in "CHECKPOINT does not fit its config.json: A; B; C"."""
    head, _, rest = message.partition(" does not fit its config.json: ")
    assert head and rest, message
    return sorted(rest.split("; "))


#: A tensor of each family that only some of them have.
OWN = {
    "mbart": "model.decoder.layer_norm.bias",
    "pegasus": "model.encoder.layer_norm.weight",
    "marian": "model.decoder.layers.0.encoder_attn.q_proj.weight",
    "marian-separate": "model.decoder.embed_tokens.weight",
    "m2m100": "model.encoder.layers.1.fc2.weight",
    "blenderbot": "model.decoder.embed_positions.weight",
    "blenderbot-small": "model.decoder.layernorm_embedding.weight",
    "plbart": "model.encoder.layernorm_embedding.bias",
}


@pytest.mark.parametrize(
    ("shape", "name"), [("t5", WO), ("t5", CROSS_K), ("bart", FC1), *OWN.items()]
)
def test_a_renamed_tensor_is_one_missing_and_one_unused(
    shape: str, name: str, editable: Editable, edit_tensors: Edit, refusal: Refusal
) -> None:
    checkpoint = editable(shape)
    edit_tensors(checkpoint, lambda tensors: tensors.update(other=tensors.pop(name)))
    message = refusal(checkpoint)
    assert message.startswith(str(checkpoint))
    assert problems(message) == [f"missing tensor {name}", "unused tensor other"]


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ("t5", "shared.weight"),
        ("t5", Q),
        ("t5", "decoder.final_layer_norm.weight"),
        ("umt5", "decoder.block.2.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("bart", "model.encoder.embed_positions.weight"),
        ("bart", FC1),
        *OWN.items(),
    ],
)
def test_a_removed_tensor_is_listed_alone(
    shape: str, name: str, editable: Editable, edit_tensors: Edit, refusal: Refusal
) -> None:
    checkpoint = editable(shape)
    edit_tensors(checkpoint, lambda tensors: tensors.pop(name))
    assert problems(refusal(checkpoint)) == [f"missing tensor {name}"]


def test_all_problems_are_listed_at_once(
    editable: Editable, edit_tensors: Edit, refusal: Refusal
) -> None:
    def change(tensors: Tensors) -> None:
        del tensors[WO]
        tensors[Q] = tensors[Q][:-1]
        tensors["classifier.weight"] = tensors[CROSS_K]
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1

    checkpoint = editable("t5")
    edit_tensors(checkpoint, change)
    assert problems(refusal(checkpoint)) == [
        f"missing tensor {WO}",
        f"tensor {Q} has shape [71, 48], expected [72, 48]",
        "tensor encoder.embed_tokens.weight differs from shared.weight, which it should be tied to",
        "unused tensor classifier.weight",
    ]


@pytest.mark.parametrize(
    ("shape", "name", "found", "expected"),
    [
        ("t5", "shared.weight", (383, 48), (384, 48)),
        ("t5", CROSS_K, (48, 72), (72, 48)),
        (
            "t5",
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            (32, 3),
            (16, 3),
        ),
        ("t5-v1.1", "lm_head.weight", (380, 48), (384, 48)),
        ("bart", "model.decoder.embed_positions.weight", (80, 64), (82, 64)),
        ("bart", "final_logits_bias", (400,), (1, 400)),
        ("bart", FC1, (1, 128), (128,)),
    ],
)
def test_a_wrong_shape_is_told_with_the_expected_one(
    shape: str,
    name: str,
    found: tuple[int, ...],
    expected: tuple[int, ...],
    editable: Editable,
    edit_tensors: Edit,
    refusal: Refusal,
) -> None:
    def change(tensors: Tensors) -> None:
        assert tensors[name].shape == expected
        tensors[name] = np.ones(found, np.float32)

    checkpoint = editable(shape)
    edit_tensors(checkpoint, change)
    assert problems(refusal(checkpoint)) == [
        f"tensor {name} has shape {list(found)}, expected {list(expected)}"
    ]


@pytest.mark.parametrize(
    ("shape", "table", "copies"),
    [
        (
            "t5",
            "shared.weight",
            ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"],
        ),
        (
            "bart",
            "model.shared.weight",
            [
                "model.encoder.embed_tokens.weight",
                "model.decoder.embed_tokens.weight",
                "lm_head.weight",
            ],
        ),
    ],
)
@pytest.mark.parametrize("keep", [True, False], ids=["beside the table", "instead of the table"])
def test_equal_copies_of_the_embedding_give_the_same_weights(
    keep: bool,
    shape: str,
    table: str,
    copies: list[str],
    editable: Editable,
    edit_tensors: Edit,
    export: Export,
) -> None:
    checkpoint = editable(shape)
    plain = export(checkpoint, "plain").manifest

    def change(tensors: Tensors) -> None:
        tensors.update(dict.fromkeys(copies, tensors[table]))
        if not keep:
            del tensors[table]

    edit_tensors(checkpoint, change)
    copied = export(checkpoint, "copied").manifest
    assert copied.files["weights.bin"] == plain.files["weights.bin"]
    assert copied.weights == plain.weights


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ("t5", "encoder.embed_tokens.weight"),
        ("t5", "decoder.embed_tokens.weight"),
        ("bart", "model.encoder.embed_tokens.weight"),
        ("bart", "model.decoder.embed_tokens.weight"),
    ],
)
def test_an_embedding_copy_that_differs_is_an_error(
    shape: str, name: str, editable: Editable, edit_tensors: Edit, refusal: Refusal
) -> None:
    table = "shared.weight" if shape == "t5" else "model.shared.weight"

    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[table].copy()
        tensors[name][3, 2] += 1e-3

    checkpoint = editable(shape)
    edit_tensors(checkpoint, change)
    assert problems(refusal(checkpoint)) == [
        f"tensor {name} differs from {table}, which it should be tied to"
    ]


@pytest.mark.parametrize("shape", ["t5", "umt5", "bart"])
def test_a_head_that_differs_is_a_head_of_its_own(
    shape: str,
    editable: Editable,
    edit_tensors: Edit,
    export: Export,
    greedy_tokens: Callable[[Path], list[list[int]]],
) -> None:
    table = "model.shared.weight" if shape == "bart" else "shared.weight"

    def change(tensors: Tensors) -> None:
        generator = np.random.default_rng(1)
        tensors["lm_head.weight"] = generator.normal(size=tensors[table].shape).astype(np.float32)

    checkpoint = editable(shape)
    tied = export(checkpoint, "tied")
    edit_tensors(checkpoint, change)
    # transformers takes a saved head that differs for an untied one; the state is checked here
    # so that the comparison below is known to be against that model.
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    untied = export(checkpoint, "untied", validate=True)
    assert "lm_head.weight" in untied.manifest.weights
    assert "lm_head.weight" not in tied.manifest.weights
    assert untied.parity is not None
    assert untied.parity.ok
    assert greedy_tokens(untied.path) != greedy_tokens(tied.path)


def test_the_cross_attention_bias_of_early_t5_checkpoints_is_ignored(
    editable: Editable, edit_tensors: Edit, export: Export
) -> None:
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    checkpoint = editable("t5")
    plain = export(checkpoint, "plain").manifest
    edit_tensors(checkpoint, lambda t: t.update({name: np.ones((16, 3), np.float32)}))
    early = export(checkpoint, "early").manifest
    assert early.files["weights.bin"] == plain.files["weights.bin"]
    assert not [weight for weight in early.weights if re.search("cross.*bias", weight)]


def test_the_cross_attention_bias_of_another_block_is_not_ignored(
    editable: Editable, edit_tensors: Edit, refusal: Refusal
) -> None:
    name = "decoder.block.1.layer.1.EncDecAttention.relative_attention_bias.weight"
    checkpoint = editable("t5")
    edit_tensors(checkpoint, lambda t: t.update({name: np.ones((16, 3), np.float32)}))
    assert problems(refusal(checkpoint)) == [f"unused tensor {name}"]


def test_a_config_with_fewer_layers_than_the_checkpoint_lists_the_rest_as_unused(
    editable: Editable, edit_config: Callable[..., None], refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    edit_config(checkpoint, num_layers=2)
    found = problems(refusal(checkpoint))
    assert found
    assert all(line.startswith("unused tensor encoder.block.2.") for line in found)
