"""config.json to architecture: what is refused, what is assumed, which special tokens count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from seq2edge.export import ExportResult
from seq2edge.runtime import Seq2SeqModel

Editable = Callable[..., Path]
EditConfig = Callable[..., None]
Export = Callable[..., ExportResult]
Refusal = Callable[..., str]

_TINY = {"vocab_size": 96, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
_TINY_BART = {
    "vocab_size": 96,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
}
_TINY_POST = {**_TINY_BART, "decoder_start_token_id": 2}
_BART_OPTIONAL = (
    "activation_function",
    "scale_embedding",
    "pad_token_id",
    "eos_token_id",
    "forced_eos_token_id",
)
_STARTED = (*_BART_OPTIONAL, "decoder_start_token_id")
#: model type: (config class, its tiny values, keys that a config.json may leave out)
_T5_OPTIONAL = (
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
    "feed_forward_proj",
    "num_decoder_layers",
    "pad_token_id",
    "eos_token_id",
)
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "t5": ("T5", {**_TINY, "decoder_start_token_id": 0}, _T5_OPTIONAL),
    "mt5": ("MT5", _TINY, (*_T5_OPTIONAL, "decoder_start_token_id")),
    "umt5": ("UMT5", _TINY, (*_T5_OPTIONAL, "decoder_start_token_id")),
    "bart": ("Bart", _TINY_BART, _STARTED),
    "mbart": ("MBart", _TINY_POST, _BART_OPTIONAL),
    "plbart": ("PLBart", _TINY_POST, _BART_OPTIONAL),
    "pegasus": ("Pegasus", _TINY_BART, _STARTED),
    "m2m_100": ("M2M100", _TINY_BART, (*_BART_OPTIONAL[:-1], "decoder_start_token_id")),
    "blenderbot": ("Blenderbot", _TINY_BART, _STARTED),
    "blenderbot-small": ("BlenderbotSmall", _TINY_BART, _STARTED),
    "marian": (
        "Marian",
        {**_TINY_BART, "pad_token_id": 95, "decoder_start_token_id": 95},
        ("activation_function", "scale_embedding", "eos_token_id", "forced_eos_token_id"),
    ),
}


def save_tiny(kind: str, folder: Path) -> Path:
    """A tiny model of a model type whose optional config values are transformers' defaults."""
    prefix, values, _ = FAMILIES[kind]
    config = getattr(transformers, f"{prefix}Config")(**values)
    name = "MarianMTModel" if kind == "marian" else f"{prefix}ForConditionalGeneration"
    model = getattr(transformers, name)(config)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    return folder


def config_of(checkpoint: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return values


@pytest.mark.parametrize("model_type", ["electra", None, ["t5"], 7])
def test_an_unknown_model_type_is_refused_with_the_known_ones(
    model_type: Any, editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    config = config_of(checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    message = refusal(checkpoint)
    assert repr(model_type) in message
    for known in ("t5", "mt5", "umt5", "bart"):
        assert known in message.partition("known: ")[2].split(", ")


@pytest.mark.parametrize(
    ("shape", "key", "value"),
    [
        ("t5", "feed_forward_proj", "gated-tanhexp"),
        ("t5", "feed_forward_proj", "tanhexp"),
        ("t5", "feed_forward_proj", "split-relu"),
        ("t5", "feed_forward_proj", "gated-gelu-new"),
        ("t5", "feed_forward_proj", 3),
        ("bart", "activation_function", "tanhexp"),
        ("bart", "activation_function", ["gelu"]),
        ("marian", "activation_function", "quick_gelu"),
        ("m2m100", "activation_function", "tanhexp"),
    ],
)
def test_an_unknown_activation_is_refused_by_name(
    shape: str,
    key: str,
    value: Any,
    editable: Editable,
    edit_config: EditConfig,
    refusal: Refusal,
) -> None:
    checkpoint = editable(shape)
    edit_config(checkpoint, **{key: value})
    message = refusal(checkpoint)
    assert f"config.json: {key}" in message
    assert (value if isinstance(value, str) else repr(value)).removeprefix("gated-") in message


@pytest.mark.parametrize("kind", FAMILIES)
def test_keys_that_config_leaves_out_mean_what_transformers_means(
    kind: str, export: Export, edit_config: EditConfig, tmp_path: Path
) -> None:
    checkpoint = save_tiny(kind, tmp_path / kind)
    full = export(checkpoint, "full").manifest
    written = config_of(checkpoint)
    optional = FAMILIES[kind][2]
    assert set(optional) - {"forced_eos_token_id", "decoder_start_token_id"} <= set(written)
    edit_config(checkpoint, **dict.fromkeys(optional))
    assert not set(optional) & set(config_of(checkpoint))
    silent = export(checkpoint, "silent").manifest
    for file in ("encoder.onnx", "decoder.onnx", "weights.bin"):
        assert silent.files[file] == full.files[file]
    assert silent.special_tokens == full.special_tokens
    assert silent.generation == full.generation


@pytest.mark.parametrize(
    ("shape", "key"),
    [
        *(("t5", key) for key in _TINY),
        *(("bart", key) for key in _TINY_BART),
    ],
)
def test_a_missing_required_key_is_named(
    shape: str, key: str, editable: Editable, edit_config: EditConfig, refusal: Refusal
) -> None:
    checkpoint = editable(shape)
    edit_config(checkpoint, **{key: None})
    message = refusal(checkpoint)
    assert message.startswith("config.json:")
    assert f" {key} " in message


@pytest.mark.parametrize("value", ["48", 0, -48, 48.5, True, [48]])
def test_a_size_that_is_no_positive_integer_is_named(
    value: Any, editable: Editable, edit_config: EditConfig, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    edit_config(checkpoint, d_model=value)
    assert f"d_model must be a positive integer, not {value!r}" in refusal(checkpoint)


def test_heads_that_do_not_divide_the_width_are_named(
    editable: Editable, edit_config: EditConfig, refusal: Refusal
) -> None:
    checkpoint = editable("bart")
    edit_config(checkpoint, decoder_attention_heads=5)
    message = refusal(checkpoint)
    assert "d_model 64" in message
    assert "decoder_attention_heads 5" in message


def test_generation_config_wins_over_config(
    editable: Editable, edit_config: EditConfig, export: Export
) -> None:
    checkpoint = editable("t5")
    (checkpoint / "generation_config.json").unlink()
    edit_config(checkpoint, pad_token_id=3, eos_token_id=4, decoder_start_token_id=5, num_beams=2)
    alone = export(checkpoint, "alone").manifest
    assert (alone.special_tokens.pad, alone.special_tokens.eos) == (3, (4,))
    assert alone.special_tokens.decoder_start == 5
    assert alone.generation["num_beams"] == 2
    edit_config(
        checkpoint,
        "generation_config.json",
        pad_token_id=6,
        eos_token_id=7,
        decoder_start_token_id=8,
        num_beams=4,
    )
    both = export(checkpoint, "both").manifest
    assert (both.special_tokens.pad, both.special_tokens.eos) == (6, (7,))
    assert both.special_tokens.decoder_start == 8
    assert both.generation["num_beams"] == 4


def test_a_token_that_generation_config_leaves_out_comes_from_config(
    editable: Editable, edit_config: EditConfig, export: Export
) -> None:
    checkpoint = editable("bart")
    (checkpoint / "generation_config.json").unlink()
    edit_config(checkpoint, pad_token_id=9, decoder_start_token_id=5)
    edit_config(checkpoint, "generation_config.json", eos_token_id=7)
    special = export(checkpoint).manifest.special_tokens
    assert (special.pad, special.decoder_start, special.eos) == (9, 5, (7,))


def test_any_token_of_an_eos_list_ends_a_sequence(
    editable: Editable, edit_config: EditConfig, export: Export
) -> None:
    source = [[5, 9, 33, 71, 200, 2]]
    checkpoint = editable("bart")
    with Seq2SeqModel.load(export(checkpoint, "one").path) as model:
        tokens = model.generate_ids(source, max_new_tokens=12)[0].token_ids
    last = next(token for token in tokens[1:] if token != tokens[0])
    edit_config(checkpoint, "generation_config.json", eos_token_id=[2, last])
    result = export(checkpoint, "two")
    assert result.manifest.special_tokens.eos == (2, last)
    with Seq2SeqModel.load(result.path) as model:
        found = model.generate_ids(source, max_new_tokens=12)[0]
    assert found.token_ids == tokens[: tokens.index(last) + 1]
    assert found.finish_reason == "eos"


@pytest.mark.parametrize("key", ["pad_token_id", "eos_token_id", "decoder_start_token_id"])
@pytest.mark.parametrize("value", [384, -1, "1", 1.5, [0, 384]])
def test_a_special_token_that_is_no_token_is_refused(
    key: str, value: Any, editable: Editable, edit_config: EditConfig, refusal: Refusal
) -> None:
    checkpoint = editable("t5")
    edit_config(checkpoint, "generation_config.json", **{key: value})
    message = refusal(checkpoint)
    assert key in message or "[384] lie outside the vocabulary of 384" in message


def test_a_decoder_start_token_that_nothing_sets_is_asked_for(
    editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("bart")
    for name in ("config.json", "generation_config.json"):
        path = checkpoint / name
        unset = {"decoder_start_token_id": None, "bos_token_id": None}
        path.write_text(json.dumps({**json.loads(path.read_text()), **unset}))
    assert "decoder_start_token_id is set in neither" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("shape", "key", "value"),
    [
        ("bart", "is_encoder_decoder", False),
        ("mbart", "is_encoder_decoder", None),
        ("pegasus", "attention_type", "block_sparse"),
        ("plbart", "encoder_attention_type", "transient-global"),
        ("blenderbot", "position_embedding_type", "relative_key"),
        ("m2m100", "pad_token_id", "1"),
        ("marian", "share_encoder_decoder_embeddings", "no"),
        ("blenderbot-small", "scale_embedding", 8.0),
    ],
)
def test_a_config_value_that_cannot_be_honoured_is_refused_by_name(
    shape: str, key: str, value: Any, editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable(shape)
    (checkpoint / "config.json").write_text(json.dumps({**config_of(checkpoint), key: value}))
    message = refusal(checkpoint)
    assert message.startswith(f"config.json: {key} ")
    assert repr(value) in message


def test_values_of_relatives_that_mean_the_usual_attention_are_taken(
    editable: Editable, edit_config: EditConfig, export: Export
) -> None:
    checkpoint = editable("pegasus")
    edit_config(checkpoint, attention_type="original_full", position_embedding_type="absolute")
    export(checkpoint)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("led", "sliding windows"),
        ("longt5", "transient-global"),
        ("bigbird_pegasus", "BigBird"),
        ("prophetnet", "several tokens at once"),
        ("fsmt", "Moses"),
        ("nllb-moe", "mixtures of experts"),
    ],
)
def test_a_known_architecture_that_is_not_exported_is_refused_with_the_reason(
    model_type: str, reason: str, editable: Editable, edit_config: EditConfig, refusal: Refusal
) -> None:
    checkpoint = editable("bart")
    edit_config(checkpoint, model_type=model_type)
    message = refusal(checkpoint)
    assert repr(model_type) in message
    assert reason in message
