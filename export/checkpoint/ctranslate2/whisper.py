"""Whisper folders, as faster-whisper ships them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .tensors import Tensors
from .vocabulary import ids_of, read_vocabulary

#: Tokens of the vocabulary of English-only models; the others have one for each language more.
_ENGLISH_TOKENS = 51864
#: The first timestamp of a window lies within its first second (Radford et al. 2022).
_MAX_INITIAL_TIMESTAMP = 50
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_MEANINGLESS = (
    r"decoder/alibi_use_positive_positions",
    r"decoder/alignment_(heads|layer)",
    r"decoder/scale_alibi",
)


def map_whisper(
    tensors: Tensors, told: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Map the tensors; gives config.json and generation_config.json as transformers has them.

    Args:
        tensors: filled.
        told: the folder's config.json.
        folder: with the vocabulary.

    Raises:
        CheckpointError: what is no Whisper model, or lacks what it needs.
    """
    shapes = {side: tensors.stack(side) for side in ("encoder", "decoder")}
    for number in (1, 2):
        for kind in ("weight", "bias"):
            tensors.whole(f"model.encoder.conv{number}.{kind}", f"encoder/conv{number}/{kind}")
    embeddings = "decoder/embeddings/weight"
    tensors.whole("model.decoder.embed_tokens.weight", embeddings)
    if not tensors.same(embeddings, "decoder/projection/weight"):
        tensors.whole("proj_out.weight", "decoder/projection/weight")
    for side, stack in shapes.items():
        theirs = f"model.{side}"
        tensors.whole(f"{theirs}.embed_positions.weight", f"{side}/position_encodings/encodings")
        tensors.norm(f"{theirs}.layer_norm", f"{side}/layer_norm")
        for index in range(stack.layers):
            _map_layer(tensors, f"{theirs}.layers.{index}", f"{side}/layer_{index}")
    tensors.require("decoder/pre_norm", 1, 1, "Whisper's norms are before each part")
    tensors.require("decoder/scale_embeddings", 0, 0, "Whisper's embeddings are not scaled")
    tensors.require("decoder/activation", 3, 3, "Whisper's activation is gelu (3)")
    tensors.require("decoder/start_from_zero_embedding", 0, 0, "Whisper starts with a token")
    tensors.require("decoder/alibi", 0, 0, "Whisper's positions are learned")
    tensors.finish(_MEANINGLESS)
    ids = _ids(folder, tensors.shape(embeddings)[0])
    return _config(tensors, ids), _generation(tensors, ids, told, folder)


def _map_layer(tensors: Tensors, name: str, scope: str) -> None:
    parts: list[tuple[str, str, tuple[str, ...]]] = [("self_attention", "self_attn", ("qkv",))]
    if tensors.has(f"{scope}/attention/linear_0/weight"):
        parts.append(("attention", "encoder_attn", ("q", "kv")))
    for theirs, ours, stacked in parts:
        for number, letters in enumerate(stacked):
            names = [f"{name}.{ours}.{letter}_proj" for letter in letters]
            scoped = f"{scope}/{theirs}/linear_{number}"
            tensors.linear(names, scoped, bias=True, without=[f"{name}.{ours}.k_proj"])
        tensors.linear(
            [f"{name}.{ours}.out_proj"], f"{scope}/{theirs}/linear_{len(stacked)}", bias=True
        )
        tensors.norm(f"{name}.{ours}_layer_norm", f"{scope}/{theirs}/layer_norm")
    for number in (1, 2):
        tensors.linear([f"{name}.fc{number}"], f"{scope}/ffn/linear_{number - 1}", bias=True)
    tensors.norm(f"{name}.final_layer_norm", f"{scope}/ffn/layer_norm")


def _ids(folder: Path, rows: int) -> Mapping[str, int]:
    tokens = read_vocabulary(folder, "vocabulary")
    if tokens is None:
        raise CheckpointError(f"{folder} has neither vocabulary.json nor vocabulary.txt")
    if len(tokens) != rows:
        raise CheckpointError(
            f"{folder}: the vocabulary has {len(tokens)} tokens, and the model {rows}"
        )
    return ids_of(tokens)


def _config(tensors: Tensors, ids: Mapping[str, int]) -> dict[str, Any]:
    encoder, decoder = tensors.stack("encoder"), tensors.stack("decoder")
    end = ids.get("<|endoftext|>")
    return {
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "architectures": ["WhisperForConditionalGeneration"],
        "vocab_size": tensors.shape("decoder/embeddings/weight")[0],
        "num_mel_bins": tensors.shape("encoder/conv1/weight")[1],
        "d_model": decoder.width,
        "encoder_layers": encoder.layers,
        "decoder_layers": decoder.layers,
        "encoder_attention_heads": encoder.heads,
        "decoder_attention_heads": decoder.heads,
        "encoder_ffn_dim": encoder.ffn,
        "decoder_ffn_dim": decoder.ffn,
        "max_source_positions": tensors.shape("encoder/position_encodings/encodings")[0],
        "max_target_positions": tensors.shape("decoder/position_encodings/encodings")[0],
        "activation_function": "gelu",
        "scale_embedding": False,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": ids.get("<|startoftranscript|>"),
        "tie_word_embeddings": tensors.same(
            "decoder/embeddings/weight", "decoder/projection/weight"
        ),
    }


def _generation(
    tensors: Tensors, ids: Mapping[str, int], told: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    named = {
        "no_timestamps_token_id": "<|notimestamps|>",
        "prev_sot_token_id": "<|startofprev|>",
        "decoder_start_token_id": "<|startoftranscript|>",
        "eos_token_id": "<|endoftext|>",
    }
    missing = sorted(token for token in named.values() if token not in ids)
    if missing:
        raise CheckpointError(f"{folder}: the vocabulary has no {' and no '.join(missing)}")
    multilingual = tensors.shape("decoder/embeddings/weight")[0] != _ENGLISH_TOKENS
    generation = {
        **{key: ids[token] for key, token in named.items()},
        "bos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": _MAX_INITIAL_TIMESTAMP,
        "max_length": tensors.shape("decoder/position_encodings/encodings")[0],
        "return_timestamps": False,
        "suppress_tokens": told.get("suppress_ids"),
        "begin_suppress_tokens": told.get("suppress_ids_begin"),
        "alignment_heads": told.get("alignment_heads"),
    }
    if multilingual:
        generation["lang_to_id"] = _languages(ids, told.get("lang_ids"), folder)
        tasks = ("transcribe", "translate")
        generation["task_to_id"] = {t: ids[f"<|{t}|>"] for t in tasks if f"<|{t}|>" in ids}
    return {key: value for key, value in generation.items() if value is not None}


def _languages(ids: Mapping[str, int], listed: Any, folder: Path) -> dict[str, int]:
    """Tokens of languages to ids: those that config.json lists, or else all that look like one."""
    by_id = {number: token for token, number in ids.items()}
    if not listed:
        return {token: number for token, number in ids.items() if _LANGUAGE.fullmatch(token)}
    if not isinstance(listed, list) or not all(number in by_id for number in listed):
        raise CheckpointError(f"{folder}/config.json: lang_ids are not ids of tokens")
    return {by_id[number]: number for number in listed}
