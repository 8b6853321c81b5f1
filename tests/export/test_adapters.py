"""LoRA adapters as peft saves them, merged as peft merges them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from seq2edge.export import CheckpointError, ExportResult

from .conftest import load_for_training

Editable = Callable[..., Path]
Export = Callable[..., ExportResult]
Refusal = Callable[..., str]
Edit = Callable[..., None]
Train = Callable[..., Path]

T5_PARTS = ["q", "k", "v", "o", "wi", "wo"]


@pytest.fixture
def merged(tmp_path: Path) -> Callable[[Path, Path], Path]:
    """A function from base and adapter to the checkpoint that peft merges them to."""

    def run(base: Path, adapter: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.PeftModel.from_pretrained(
                load_for_training(base), adapter
            ).merge_and_unload()
        model.save_pretrained(tmp_path / "merged")
        return tmp_path / "merged"

    return run


def weights(result: ExportResult) -> dict[str, np.ndarray[Any, Any]]:
    data = (result.path / "weights.bin").read_bytes()
    return {
        name: np.frombuffer(data, info.dtype, info.length // 4, info.offset)
        for name, info in result.manifest.weights.items()
    }


def assert_same(ours: ExportResult, theirs: ExportResult) -> None:
    assert ours.manifest.weights == theirs.manifest.weights
    expected = weights(theirs)
    for name, array in weights(ours).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5, err_msg=name)


#: Shape of the base model, and options of peft's LoraConfig.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("t5", {"target_modules": ["q", "v"]}),
    ("t5", {"target_modules": "all-linear", "use_rslora": True, "r": 3}),
    ("t5", {"target_modules": T5_PARTS, "use_dora": True}),
    (
        "t5",
        {
            "target_modules": r".*decoder.*\.(q|k)",
            "alpha_pattern": {"EncDecAttention.q": 32},
            "rank_pattern": {r"block\.1.*\.k": 2},
        },
    ),
    ("t5", {"target_modules": ["q"], "layers_to_transform": [1], "layers_pattern": "block"}),
    ("t5", {"target_modules": ["q"], "modules_to_save": ["lm_head"]}),
    ("t5", {"target_modules": ["q"], "trainable_token_indices": [3, 5, 9]}),
    ("t5-v1.1", {"target_modules": ["wi_0", "wo"], "modules_to_save": ["lm_head"]}),
    ("bart", {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"}),
    ("bart", {"target_modules": "all-linear", "bias": "all", "r": 5}),
    ("bart", {"target_modules": ["fc1", "out_proj"], "lora_bias": True, "use_rslora": True}),
    (
        "bart",
        {"target_modules": ["fc2"], "modules_to_save": ["layernorm_embedding", "embed_positions"]},
    ),
    ("bart", {"target_modules": ["k_proj", "fc1"], "use_dora": True, "use_rslora": True}),
    ("marian-separate", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
]


@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_a_merged_bundle_is_that_of_peft(
    shape: str,
    options: dict[str, Any],
    editable: Editable,
    train: Train,
    merged: Callable[[Path, Path], Path],
    export: Export,
) -> None:
    base = editable(shape)
    adapter = train(base, **options)
    plain = export(base, "base")
    ours = export(adapter, "ours", base=base)
    assert_same(ours, export(merged(base, adapter), "theirs"))
    assert ours.manifest.files["weights.bin"] != plain.manifest.files["weights.bin"]


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=str)
def test_layers_that_keep_inputs_first_are_merged_as_peft_merges_them(
    options: dict[str, Any],
    tmp_path: Path,
    train: Train,
    merged: Callable[[Path, Path], Path],
    export: Export,
) -> None:
    """GPT-2's Conv1D; some of its weights are square, so that their shape does not tell."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 90, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    targets = ["c_attn", "c_proj", "c_fc"]
    adapter = train(tmp_path / "base", target_modules=targets, fan_in_fan_out=True, **options)
    theirs = export(merged(tmp_path / "base", adapter), "theirs")
    assert_same(export(adapter, "ours", base=tmp_path / "base"), theirs)


@pytest.mark.parametrize(
    ("shape", "target", "dora"),
    [("t5", "shared", False), ("t5", "shared", True), ("t5", "lm_head", False)],
)
def test_an_adapter_of_a_tied_embedding_changes_what_peft_changes_and_says_so(
    shape: str,
    target: str,
    dora: bool,
    editable: Editable,
    train: Train,
    merged: Callable[[Path, Path], Path],
    export: Export,
) -> None:
    base = editable(shape)
    adapter = train(base, target_modules=["q", target], use_dora=dora)
    theirs = export(merged(base, adapter), "theirs")
    with pytest.warns(UserWarning, match=f"{target} is tied to"):
        ours = export(adapter, "ours", base=base)
    assert_same(ours, theirs)


def test_a_merged_bundle_is_compared_with_pytorch(
    editable: Editable, train: Train, export: Export
) -> None:
    base = editable("bart")
    adapter = train(base, target_modules=["q_proj"], modules_to_save=["lm_head"])
    parity = export(adapter, base=base, validate=True).parity
    assert parity is not None
    assert parity.ok


@pytest.mark.parametrize("place", ["named", "beside", "relative", "given", "wrapped", ".bin"])
def test_the_base_model_is_where_it_may_be(
    place: str, editable: Editable, edit_config: Edit, train: Train, export: Export
) -> None:
    base = editable("t5")
    adapter = train(base, target_modules=["q", "v"])
    expected = export(adapter, "expected", base=base).manifest.files["weights.bin"]
    options: dict[str, Any] = {}
    if place == "named":  # by peft itself, with its whole path
        named = json.loads((adapter / "adapter_config.json").read_text())
        assert named["base_model_name_or_path"] == str(base)
    elif place == "beside":
        shutil.copytree(base, adapter, dirs_exist_ok=True)
        edit_config(adapter, "adapter_config.json", base_model_name_or_path="org/unreachable")
    elif place == "relative":
        base.rename(adapter / "inner")
        edit_config(adapter, "adapter_config.json", base_model_name_or_path="inner")
    elif place == "given":
        edit_config(adapter, "adapter_config.json", base_model_name_or_path="org/unreachable")
        options["base"] = base
    elif place == "wrapped":
        state = load_file(base / "model.safetensors")
        save_file({f"module.{k}": v for k, v in state.items()}, base / "model.safetensors")
    else:
        file = adapter / "adapter_model.safetensors"
        torch.save(load_file(file), adapter / "adapter_model.bin")
        file.unlink()
    found = export(adapter, **options).manifest.files["weights.bin"]
    assert found == expected


def test_tokenizer_files_of_the_adapter_come_before_the_base_models(
    editable: Editable, train: Train, export: Export
) -> None:
    def tokenizer(word: str) -> str:
        model = {"type": "WordLevel", "vocab": {"<unk>": 3, word: 4}, "unk_token": "<unk>"}
        return json.dumps({"version": "1.0", "model": model})

    base = editable("t5")
    adapter = train(base, target_modules=["q"])
    (base / "tokenizer.json").write_text(tokenizer("base"))
    without = export(adapter, "without").path / "tokenizer.json"
    assert '"base"' in without.read_text()
    (adapter / "tokenizer.json").write_text(tokenizer("adapter"))
    with_own = export(adapter, "own").path / "tokenizer.json"
    assert '"adapter"' in with_own.read_text()


def test_tensors_of_a_state_dict_that_keep_the_adapters_name_are_merged(
    editable: Editable, train: Train, export: Export
) -> None:
    """As torch.save of the tensors that were trained leaves them, wrapped by DataParallel."""
    adapter = train(editable("t5"), target_modules=["q", "v"])
    expected = export(adapter, "expected").manifest.files["weights.bin"]
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    named = {f"module.{k.replace('.weight', '.default.weight')}": v for k, v in tensors.items()}
    torch.save(named, adapter / "adapter_model.bin")
    assert export(adapter).manifest.files["weights.bin"] == expected
    by_file = export(adapter / "adapter_model.bin", "named")
    assert by_file.manifest.files["weights.bin"] == expected
    second = {k.replace(".default.", ".second."): v for k, v in named.items()}
    torch.save({**named, **second}, adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="of two adapters"):
        export(adapter, "two")
