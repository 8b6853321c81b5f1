"""Folders and files as training loops leave them: wrapped names, nested state dicts, NaN."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from seq2edge.export import ExportResult, export_checkpoint
from seq2edge.export.errors import CheckpointError

from .test_weights import problems

Editable = Callable[..., Path]
Export = Callable[..., ExportResult]
Refusal = Callable[..., str]
State = dict[str, torch.Tensor]

WRAPPERS = [
    "module.",
    "model.",
    "_orig_mod.",
    "module._orig_mod.",
    "model.module.",
    "lightning_module.net.t5.",
    "_forward_module.model._fsdp_wrapped_module.",
]

OTHERS = ["t5", "umt5", "marian-separate"]


def digest(result: ExportResult) -> str:
    return result.manifest.files["weights.bin"].sha256


def take_weights(checkpoint: Path) -> State:
    """The tensors of a checkpoint, whose folder has none after that."""
    file = checkpoint / "model.safetensors"
    state = load_file(file)
    file.unlink()
    return state


@pytest.mark.parametrize(
    ("shape", "wrapper"),
    [*(("bart", wrapper) for wrapper in WRAPPERS), *((s, WRAPPERS[-1]) for s in OTHERS)],
)
def test_names_of_a_wrapped_model_give_the_bundle_of_the_plain_one(
    shape: str, wrapper: str, editable: Editable, export: Export
) -> None:
    checkpoint = editable(shape)
    plain = digest(export(checkpoint, "plain"))
    state = take_weights(checkpoint)
    wrapped = {wrapper + name: tensor for name, tensor in state.items()}
    save_file(wrapped, checkpoint / "model.safetensors")
    assert digest(export(checkpoint, "wrapped")) == plain


@pytest.mark.parametrize("shape", ["bart", "t5-v1.1"])
def test_wrapped_names_are_compared_with_pytorch(
    shape: str, editable: Editable, export: Export
) -> None:
    checkpoint = editable(shape)
    state = take_weights(checkpoint)
    torch.save({f"module.{k}": v for k, v in state.items()}, checkpoint / "pytorch_model.bin")
    parity = export(checkpoint, validate=True).parity
    assert parity is not None
    assert parity.ok
    assert parity.exact + parity.ties == parity.inputs > 0


def test_wrappers_within_names_are_left_out(editable: Editable, export: Export) -> None:
    """As torch.compile of layers and activation checkpointing leave them."""
    checkpoint = editable("t5")
    plain = digest(export(checkpoint, "plain"))
    state = take_weights(checkpoint)

    def inner(name: str) -> str:
        name = name.replace("encoder.block.1.", "encoder.block.1._orig_mod.")
        return name.replace(".layer.0.", ".layer.0._checkpoint_wrapped_module.")

    wrapped = {inner(name): tensor for name, tensor in state.items()}
    assert wrapped.keys() != state.keys()
    save_file(wrapped, checkpoint / "model.safetensors")
    assert digest(export(checkpoint, "wrapped")) == plain


def test_a_wrapped_model_without_its_head_is_read(editable: Editable, export: Export) -> None:
    checkpoint = editable("bart")
    state = take_weights(checkpoint)
    del state["final_logits_bias"]
    save_file(state, checkpoint / "model.safetensors")
    plain = digest(export(checkpoint, "plain"))
    headless = {"module." + k.removeprefix("model."): v for k, v in state.items()}
    save_file(headless, checkpoint / "model.safetensors")
    assert digest(export(checkpoint, "wrapped")) == plain


def trainings(state: State) -> dict[str, Any]:
    """What training loops save, by what does it so."""
    wrapped = {f"model.{name}": tensor for name, tensor in state.items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}
    return {
        "lightning": {
            "state_dict": wrapped,
            "epoch": 3,
            "optimizer_states": [optimizer],
            "hyper_parameters": argparse.Namespace(lr=1.0, folder=Path("data")),
        },
        "metrics": {
            "best": np.float64(0.5),
            "epoch": np.int64(3),
            "losses": np.ones(3, np.float32),
            "state_dict": state,
        },
        "tutorial": {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": optimizer},
        "model": {"model": state, "optimizer": optimizer, "loss": torch.tensor(0.5)},
        "deepspeed": {"module": state, "lr_scheduler": None},
        "nested": {"model": {"state_dict": wrapped}},
        "own": {"translator": state},
    }


KINDS = ["metrics", "lightning", "tutorial", "model", "deepspeed", "nested", "own"]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        *(("last.ckpt", kind) for kind in KINDS),
        ("pytorch_model.bin", "lightning"),
        ("best.pth", "tutorial"),
        ("weights.pt", "model"),
    ],
)
def test_what_a_training_loop_saved_gives_the_bundle_of_its_state_dict(
    file: str, kind: str, editable: Editable, export: Export
) -> None:
    checkpoint = editable("t5")
    plain = digest(export(checkpoint, "plain"))
    torch.save(trainings(take_weights(checkpoint))[kind], checkpoint / file)
    torch.save({"step": 1}, checkpoint / "optimizer.pt")  # not weights
    assert digest(export(checkpoint, "alone")) == plain
    assert digest(export(checkpoint / file, "named")) == plain


def test_a_lightning_checkpoint_is_compared_with_pytorch(
    editable: Editable, export: Export
) -> None:
    checkpoint = editable("t5")
    torch.save(trainings(take_weights(checkpoint))["lightning"], checkpoint / "last.ckpt")
    parity = export(checkpoint, validate=True).parity
    assert parity is not None
    assert parity.ok


def test_a_state_dict_beside_the_exported_one_is_named(editable: Editable, export: Export) -> None:
    checkpoint = editable("t5")
    state = take_weights(checkpoint)
    saved = {"state_dict": state, "ema_state_dict": {k: v + 1 for k, v in state.items()}}
    torch.save(saved, checkpoint / "last.ckpt")
    with pytest.warns(UserWarning, match="also holds tensors in 'ema_state_dict'"):
        export(checkpoint)


def test_state_dicts_of_which_none_is_usually_the_models_are_refused(
    editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    state = take_weights(checkpoint)
    torch.save({"first": state, "second": state}, checkpoint / "last.ckpt")
    assert "'first', 'second'" in refusal(checkpoint)


def test_two_models_under_two_prefixes_are_refused(editable: Editable, refusal: Refusal) -> None:
    checkpoint = editable("t5")
    state = take_weights(checkpoint)
    both = {f"{side}.{k}": v.clone() for side in ("student", "teacher") for k, v in state.items()}
    save_file(both, checkpoint / "model.safetensors")
    message = refusal(checkpoint)
    assert "several models" in message
    assert "'student.'" in message
    assert "'teacher.'" in message


def test_no_prefix_is_taken_where_two_names_would_become_one(
    editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    state = take_weights(checkpoint)
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    save_file({**wrapped, "shared.weight": state["shared.weight"].clone()}, checkpoint / "a.pt")
    (checkpoint / "a.pt").rename(checkpoint / "model.safetensors")
    assert "module.shared.weight and shared.weight" in refusal(checkpoint)


def test_a_second_copy_under_a_prefix_is_not_taken_for_the_model(
    editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    state = take_weights(checkpoint)
    copies = {f"ema.{name}": tensor.clone() for name, tensor in state.items()}
    save_file({**state, **copies}, checkpoint / "model.safetensors")
    message = refusal(checkpoint)
    assert "unused tensor ema." in message
    assert "moving average" in message


@pytest.mark.parametrize(
    ("value", "validate"), [(float("nan"), False), (float("inf"), True), (float("-inf"), False)]
)
@pytest.mark.parametrize(
    ("shape", "name", "place"),
    [
        ("t5", "decoder.block.0.layer.2.DenseReluDense.wo.weight", (3, 4)),
        ("t5", "shared.weight", (0, 0)),
        ("t5-v1.1", "lm_head.weight", (9, 2)),
        ("bart", "model.encoder.layers.1.fc2.bias", (5,)),
        ("bart", "final_logits_bias", (0, 7)),
    ],
)
def test_a_value_that_is_not_finite_is_refused_with_its_tensor(
    shape: str,
    name: str,
    place: tuple[int, ...],
    value: float,
    validate: bool,
    editable: Editable,
    refusal: Refusal,
) -> None:
    checkpoint = editable(shape)
    state = take_weights(checkpoint)
    state[name][place] = value
    state[name].view(-1)[-1] = float("nan")
    save_file(state, checkpoint / "model.safetensors")
    message = refusal(checkpoint, validate=validate)
    assert name in message
    assert f"the first at {list(place)}" in message
    assert f"{int((~state[name].isfinite()).sum())} of {state[name].numel()} values" in message
    assert "float16" in message


def test_large_finite_weights_whose_sum_overflows_are_exported(
    editable: Editable, export: Export
) -> None:
    checkpoint = editable("t5")
    state = take_weights(checkpoint)
    state["shared.weight"][:] = 3e38
    save_file(state, checkpoint / "model.safetensors")
    export(checkpoint)


#: What lies in a folder without a model, and what the message says of it.
REMAINS = {
    "checkpoints": (["checkpoint-900/", "checkpoint-1000/"], "the latest is checkpoint-1000"),
    "optimizer": (["optimizer.pt", "scheduler.pt", "rng_state.pth"], "training's state only"),
    "deepspeed": (["zero_to_fp32.py", "global_step5/", "latest"], "python zero_to_fp32.py"),
    "fsdp": (["pytorch_model_fsdp_0/", "optimizer.bin"], "accelerate merge-weights"),
    "tensorflow": (["tf_model.h5"], "tf_model.h5"),
    "flax": (["flax_model.msgpack"], "flax_model.msgpack"),
    "gguf": (["model-q4_0.gguf"], "GGUF"),
    "onnx": (["encoder_model.onnx", "decoder_model.onnx"], "seq2edge import"),
    "ctranslate2": (["model.bin", "shared_vocabulary.json"], "CTranslate2"),
    "marian": (["model.npz", "decoder.yml"], "convert_marian_to_pytorch"),
}


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("kind", REMAINS)
def test_a_folder_without_a_model_says_what_it_holds(
    kind: str, config: bool, editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    (checkpoint / "model.safetensors").unlink()
    if not config:
        (checkpoint / "config.json").unlink()
    names, expected = REMAINS[kind]
    for name in names:
        path = checkpoint / name
        path.mkdir() if name.endswith("/") else path.write_bytes(b"0")
    message = refusal(checkpoint)
    assert expected in message
    assert message.startswith(str(checkpoint))


def test_a_folder_of_models_names_them(editable: Editable, refusal: Refusal) -> None:
    best = editable("t5", "best")
    message = refusal(best.parent)
    assert f"there are models in {best}" in message


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_models_two_folders_down_are_named(name: str, refusal: Refusal, tmp_path: Path) -> None:
    inner = tmp_path / "run" / "best" / "model"
    inner.mkdir(parents=True)
    (inner / name).write_text("{}")
    assert f"there are models in {inner}" in refusal(tmp_path / "run")
    with pytest.raises(CheckpointError, match="no adapter") as caught:
        export_checkpoint(tmp_path / "run", tmp_path / "bundle", base="t5-small")
    assert f"there are models in {inner}" in str(caught.value)


def test_several_files_of_weights_are_named(editable: Editable, refusal: Refusal) -> None:
    checkpoint = editable("t5")
    state = take_weights(checkpoint)
    for epoch in range(3):
        torch.save(state, checkpoint / f"epoch{epoch}.ckpt")
    message = refusal(checkpoint)
    assert "epoch0.ckpt, epoch1.ckpt, epoch2.ckpt" in message
    assert "by its path" in message


def test_a_git_lfs_pointer_is_told_from_a_damaged_file(
    editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (checkpoint / "model.safetensors").write_bytes(pointer)
    assert "git lfs pull" in refusal(checkpoint)


def test_a_pickled_module_is_refused_with_the_way_to_its_state_dict(
    editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    take_weights(checkpoint)
    for saved in ({"state_dict": torch.nn.Linear(2, 2)}, torch.nn.Linear(2, 2)):
        torch.save(saved, checkpoint / "last.ckpt")
        message = refusal(checkpoint)
        assert "cannot be read safely" in message
        assert "save its state dict alone" in message
        assert "saved.state_dict()" in message


def test_a_file_that_is_not_torchs_is_not_taken_for_a_pickle_of_objects(
    editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    take_weights(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"<html>not found</html>")
    message = refusal(checkpoint)
    assert "pytorch_model.bin" in message
    assert "damaged" in message
    assert "Python objects" not in message


@pytest.mark.parametrize(
    ("config", "weights", "cause"),
    [
        ("t5", "bart", "another architecture"),
        ("bart", "t5", "another architecture"),
        ("bart", "bart-scaled", "another size"),
        ("t5", "t5-deep-decoder", ""),
    ],
)
def test_weights_of_another_model_list_the_first_tensors_and_the_cause(
    config: str,
    weights: str,
    cause: str,
    editable: Editable,
    checkpoint_of: Callable[[str], Path],
    refusal: Refusal,
) -> None:
    checkpoint = editable(config)
    shutil.copy(checkpoint_of(weights) / "model.safetensors", checkpoint)
    message = refusal(checkpoint)
    assert len(problems(message)) <= 16
    assert len(message) < 2500
    assert " more " in message
    assert cause in message


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("encoder.block.0.layer.0.SelfAttention.q.lora_A.default.weight", "PEFT adapter"),
        ("encoder.block.0.layer.0.SelfAttention.q.SCB", "quantized"),
        ("encoder.block.0.layer.0.SelfAttention.q.qweight", "quantized"),
    ],
)
def test_tensors_that_tools_leave_beside_weights_tell_the_tool(
    name: str, cause: str, editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    state = take_weights(checkpoint)
    save_file({**state, name: torch.ones(2)}, checkpoint / "model.safetensors")
    message = refusal(checkpoint)
    assert name in message
    assert cause in message
