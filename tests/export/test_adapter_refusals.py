"""Adapters that cannot be merged as peft would merge them are refused by what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seq2edge.export import CheckpointError, ExportResult, export_checkpoint

Editable = Callable[..., Path]
Export = Callable[..., ExportResult]
Refusal = Callable[..., str]
Edit = Callable[..., None]
Train = Callable[..., Path]

Q = "base_model.model.encoder.block.0.layer.0.SelfAttention.q"


def edit_adapter(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "no lora_B"),
        (lambda t: t.pop(f"{Q}.lora_A.weight"), "no lora_A"),
        (lambda t: t.update(other=torch.ones(2)), "other"),
        (
            lambda t: [t.pop(f"{Q}.lora_{x}.weight") for x in "AB"],
            "no tensors for encoder.block.0.layer.0.SelfAttention.q",
        ),
        (
            lambda t: t.update({f"{Q[:-1]}k.lora_{x}.weight": torch.ones(4, 4) for x in "AB"}),
            "target_modules",
        ),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(3, 48)}), "rank"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 47)}), "shape"),
        (lambda t: t.update({f"{Q}.lora_B.weight": torch.full((72, 4), torch.nan)}), "NaN"),
        (
            lambda t: t.update({"base_model.model.shared.weight": torch.ones(390, 48)}),
            "vocabulary was resized",
        ),
    ],
    ids=["B", "A", "unknown", "module", "untargeted", "rank", "shape", "nan", "resized"],
)
def test_tensors_that_do_not_fit_are_named(
    change: Callable[[dict[str, torch.Tensor]], object],
    expected: str,
    editable: Editable,
    train: Train,
    refusal: Refusal,
) -> None:
    adapter = train(editable("t5"), target_modules=["q", "v"])
    edit_adapter(adapter, change)
    assert expected in refusal(adapter)


def test_an_adapter_of_another_model_is_refused(
    editable: Editable, train: Train, refusal: Refusal, edit_config: Edit
) -> None:
    adapter = train(editable("t5"), target_modules=["q", "v"])
    other = editable("bart", "other")
    edit_config(adapter, "adapter_config.json", base_model_name_or_path=str(other))
    message = refusal(adapter)
    assert "SelfAttention.q.lora_A.weight" in message
    assert " more" in message
    assert message.count("lora_A") <= 3
    assert "the base model that the adapter was trained on" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"peft_type": "IA3"}, "merge_and_unload"),
        ({"peft_type": "ADALORA"}, "merge_and_unload"),
        ({"peft_type": "VERA"}, "merge_and_unload"),
        ({"peft_type": "OFT"}, "merge_and_unload"),
        ({"peft_type": "PREFIX_TUNING"}, "cache entries"),
        ({"peft_type": "PROMPT_TUNING"}, "cache entries"),
        ({"peft_type": None}, "merge_and_unload"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora'"),
        ({"use_qalora": True}, "use_qalora"),
        ({"an_option_of_the_future": 3}, "an_option_of_the_future 3"),
        ({"r": 8}, "rank"),
        ({"r": "four"}, "r must be"),
    ],
    ids=str,
)
def test_what_is_not_merged_is_refused_by_name(
    options: dict[str, Any],
    expected: str,
    editable: Editable,
    train: Train,
    edit_config: Edit,
    refusal: Refusal,
) -> None:
    adapter = train(editable("t5"), target_modules=["q", "v"])
    edit_config(adapter, "adapter_config.json", **options)
    message = refusal(adapter)
    assert expected in message
    assert "adapter" in message


def test_an_adapter_without_one_of_its_files_is_named(
    editable: Editable, train: Train, refusal: Refusal
) -> None:
    base = editable("t5")
    adapter = train(base, target_modules=["q"])
    config = adapter / "adapter_config.json"
    kept = config.read_bytes()
    config.unlink()
    shutil.copytree(base, adapter, dirs_exist_ok=True)  # beside a model, it is not ignored
    assert "no adapter_config.json" in refusal(adapter)
    config.write_bytes(kept)
    (adapter / "adapter_model.safetensors").unlink()
    assert "no adapter_model.safetensors" in refusal(adapter)


def test_a_base_that_is_not_there_is_told_with_the_way_out(
    editable: Editable, train: Train, edit_config: Edit, refusal: Refusal
) -> None:
    adapter = train(editable("t5"), target_modules=["q"])
    edit_config(adapter, "adapter_config.json", base_model_name_or_path="/no/such/folder")
    message = refusal(adapter)
    assert "/no/such/folder" in message
    assert "--base" in message
    edit_config(adapter, "adapter_config.json", base_model_name_or_path=None)
    assert "--base" in refusal(adapter)


def test_a_base_without_an_adapter_is_refused(editable: Editable, tmp_path: Path) -> None:
    checkpoint = editable("t5")
    with pytest.raises(CheckpointError, match="no adapter"):
        export_checkpoint(checkpoint, tmp_path / "bundle", base=checkpoint)


def test_a_named_file_of_weights_beside_an_adapter_is_not_merged_silently(
    editable: Editable, train: Train, export: Export
) -> None:
    base = editable("t5")
    adapter = train(base, target_modules=["q"])
    shutil.copytree(adapter, base, dirs_exist_ok=True)
    with pytest.warns(UserWarning, match="adapter beside it is not merged"):
        export(base / "model.safetensors")


@pytest.mark.parametrize(
    ("shape", "modules"), [("t5", ["shared"]), ("bart", ["embed_tokens", "lm_head"])]
)
def test_an_embedding_that_was_trained_apart_from_the_others_is_refused(
    shape: str, modules: list[str], editable: Editable, train: Train, refusal: Refusal
) -> None:
    target = "q" if shape == "t5" else "q_proj"
    adapter = train(editable(shape), target_modules=[target], modules_to_save=modules)
    message = refusal(adapter)
    assert "modules_to_save trained" in message
    assert modules[0] in message


def test_trained_tokens_of_a_model_whose_head_is_its_own_are_refused(
    editable: Editable, train: Train, refusal: Refusal
) -> None:
    """peft ties them to the head if the config says so, which depends on transformers."""
    adapter = train(editable("t5-v1.1"), target_modules=["q"], trainable_token_indices=[4])
    assert "trainable_token_indices" in refusal(adapter)
