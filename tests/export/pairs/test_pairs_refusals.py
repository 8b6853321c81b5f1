"""What the graphs do not know is refused by name, and every tensor is accounted for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from seq2edge.export import CheckpointError, export_checkpoint
from seq2edge.runtime import EncoderModel

PathOf = Callable[[str], Path]


@pytest.fixture
def copy_of(pair_checkpoint_of: PathOf, tmp_path: Path) -> PathOf:
    def copy(shape: str) -> Path:
        return Path(shutil.copytree(pair_checkpoint_of(shape), tmp_path / "checkpoint"))

    return copy


def configure(folder: Path, key: str, value: Any) -> None:
    """Set ``key`` of config.json; ``decoder.key`` is one of a nested config."""
    file = folder / "config.json"
    config = values = json.loads(file.read_text())
    *parents, last = key.split(".")
    for parent in parents:
        values = values[parent]
    values[last] = value
    file.write_text(json.dumps(config))


def edit(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    bundle = folder.parent / "bundle"
    with pytest.raises(CheckpointError) as caught:
        export_checkpoint(folder, bundle, validate=False)
    assert not bundle.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "key", "value", "message"),
    [
        ("bert", "position_embedding_type", "relative_key", "position_embedding_type 'relative"),
        ("bert", "is_decoder", True, "is_decoder True is not supported"),
        ("bert", "hidden_act", "gelu_fast", "hidden_act 'gelu_fast' is not supported"),
        ("bert", "num_attention_heads", 5, "hidden_size 48 is not a multiple"),
        ("roberta", "pad_token_id", None, "pad_token_id None is not supported"),
        ("roberta", "pad_token_id", 89, "pad_token_id 89 is not supported"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx True"),
        ("gpt2", "add_cross_attention", True, "add_cross_attention True is not supported"),
        ("gpt2", "activation_function", "mish", "activation_function 'mish' is not supported"),
        ("bert-bert", "decoder.is_decoder", False, "decoder.is_decoder False is not supported"),
        ("bert-bert", "encoder.is_decoder", True, "encoder.is_decoder True is not supported"),
        ("bert-bert", "decoder.hidden_act", "mish", "decoder.hidden_act 'mish' is not supported"),
        ("bert-bert", "encoder.hidden_size", "a", "encoder.hidden_size must be a positive integer"),
        ("bert-bert", "encoder.model_type", "electra", "encoder.model_type 'electra'"),
        ("bert-bert", "decoder.model_type", "bart", "known decoders of pairs: bert, gpt2, roberta"),
        ("bert-gpt2", "decoder.add_cross_attention", False, "decoder.add_cross_attention False"),
        ("bert-gpt2", "decoder.cross_attention_hidden_size", 7, "cross_attention_hidden_size 7"),
        ("roberta-roberta", "decoder_start_token_id", 1, "is the pad token"),
        ("bert-bert-odd", "decoder_start_token_id", 280, "special tokens [280] lie outside"),
    ],
)
def test_config_values_that_the_graphs_do_not_know_are_refused(
    shape: str, key: str, value: Any, message: str, copy_of: PathOf
) -> None:
    folder = copy_of(shape)
    (folder / "generation_config.json").unlink(missing_ok=True)
    configure(folder, key, value)
    assert message in refusal(folder)


def test_xlnet_is_refused_with_the_reason(copy_of: PathOf) -> None:
    folder = copy_of("bert")
    configure(folder, "model_type", "xlnet")
    message = refusal(folder)
    assert "'xlnet' is not supported" in message
    assert "query and distance" in message


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ("bert", "encoder.layer.1.attention.self.key.bias"),
        ("roberta", "embeddings.token_type_embeddings.weight"),
        ("gpt2", "transformer.h.1.mlp.c_fc.weight"),
        ("bert-bert", "decoder.bert.encoder.layer.0.crossattention.self.value.weight"),
        ("bert-bert", "decoder.cls.predictions.transform.dense.weight"),
        ("bert-gpt2-narrow", "enc_to_dec_proj.bias"),
        ("roberta-roberta-wide", "enc_to_dec_proj.weight"),
    ],
)
def test_a_tensor_that_is_missing_is_named(shape: str, name: str, copy_of: PathOf) -> None:
    folder = copy_of(shape)
    edit(folder, lambda tensors: tensors.pop(name) is None)
    prefix = {"bert": "bert.", "roberta": "roberta."}.get(shape, "")
    assert f"missing tensor {prefix}{name}" in refusal(folder)


@pytest.mark.parametrize("shape", ["bert", "gpt2", "bert-gpt2"])
def test_a_tensor_that_nothing_reads_is_named(shape: str, copy_of: PathOf) -> None:
    folder = copy_of(shape)
    edit(folder, lambda tensors: tensors.update({"classifier.weight": np.ones(3, np.float32)}))
    assert "classifier.weight" in refusal(folder)


def test_a_projection_of_another_width_is_named(copy_of: PathOf) -> None:
    folder = copy_of("bert-gpt2-narrow")
    wrong = {"enc_to_dec_proj.weight": np.ones((40, 47), np.float32)}
    edit(folder, lambda tensors: tensors.update(wrong))
    message = refusal(folder)
    assert "enc_to_dec_proj.weight has shape [40, 47], expected [40, 48]" in message


@pytest.mark.parametrize("shape", ["bert-gpt2", "gpt2"])
def test_the_causal_masks_of_old_checkpoints_are_not_read(shape: str, copy_of: PathOf) -> None:
    folder = copy_of(shape)
    prefix = "decoder.transformer.h.0" if shape == "bert-gpt2" else "transformer.h.0"
    mask = {f"{prefix}.attn.bias": np.ones((1, 1, 4, 4), np.float32)}
    edit(folder, lambda tensors: tensors.update(mask))
    with pytest.warns(UserWarning, match="no tokenizer"):
        export_checkpoint(folder, folder.parent / "bundle", validate=False)


def test_the_names_of_old_checkpoints_and_their_heads_are_known(
    copy_of: PathOf, pair_bundle_of: PathOf
) -> None:
    """As Google's bert-base-uncased has them: gamma and beta, a prefix, two heads, a pooler."""
    folder = copy_of("bert")

    def age(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            old = old.replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[f"bert.{old}"] = tensors.pop(name)
        tensors["cls.predictions.bias"] = np.zeros(300, np.float32)
        tensors["cls.seq_relationship.weight"] = np.zeros((2, 48), np.float32)
        tensors["bert.embeddings.position_ids"] = np.arange(90)

    edit(folder, age)
    with pytest.warns(UserWarning, match="no tokenizer"):
        result = export_checkpoint(folder, folder.parent / "bundle", validate=False)
    states = []
    for path in (result.path, pair_bundle_of("bert")):
        with EncoderModel.load(path) as model:
            states.append(model.encode_ids([[7, 8, 9]]))
    np.testing.assert_array_equal(*states)
