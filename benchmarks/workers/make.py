"""Makes the checkpoint and the peers' models of it; runs where torch is.

python make.py checkpoint FOLDER GEOMETRY
python make.py optimum CHECKPOINT FOLDER
python make.py ctranslate2 CHECKPOINT FOLDER PRECISION
python make.py openvino CHECKPOINT FOLDER PRECISION
"""

# mypy: allow-untyped-calls, disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

#: What is done to the decoder's random weights, by the end of the tensor's name. With T5's own
#: initialisation every new token repeats the last one, and equal outputs would prove nothing.
#: Sharp attention over near positions makes most of 64 tokens differ. Times do not depend on it.
_GAINS = {".q.weight": 16.0, ".o.weight": 16.0, ".relative_attention_bias.weight": 100.0}


def checkpoint(folder: str, geometry: str) -> None:
    """A model of a known one's sizes with random weights and no tokenizer."""
    import torch

    torch.manual_seed(0)
    model = _GEOMETRIES[geometry]()
    with torch.no_grad():
        for name, parameter in model.get_decoder().named_parameters():
            for ending, gain in _GAINS.items():
                if name.endswith(ending):
                    parameter.mul_(gain)
    model.save_pretrained(folder)


def _t5_small() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    # The values of T5Config() are T5-small's; its decoder starts with the pad token.
    return T5ForConditionalGeneration(T5Config.from_dict({"decoder_start_token_id": 0}))


def _marian_base() -> Any:
    """The sizes of OPUS-MT's models."""
    from transformers import MarianConfig, MarianMTModel

    sizes = _bart_sizes(512, 2048, 8)
    tokens: dict[str, Any] = {
        "pad_token_id": 58100,
        "decoder_start_token_id": 58100,
        "eos_token_id": 0,
    }
    return MarianMTModel(
        MarianConfig(vocab_size=58101, decoder_vocab_size=58101, **sizes, **tokens, init_std=0.05)
    )


def _bart_base() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(vocab_size=50265, **_bart_sizes(768, 3072, 12), init_std=0.05)
    config.forced_eos_token_id = None
    return BartForConditionalGeneration(config)


def _bart_sizes(width: int, feed_forward: int, heads: int) -> dict[str, Any]:
    return {"d_model": width} | {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", 6),
            ("ffn_dim", feed_forward),
            ("attention_heads", heads),
        )
    }


_GEOMETRIES: dict[str, Callable[[], Any]] = {
    "t5-small": _t5_small,
    "marian-base": _marian_base,
    "bart-base": _bart_base,
}


def optimum(checkpoint: str, folder: str) -> None:
    """Write what ``optimum-cli export onnx`` writes."""
    from optimum.exporters.onnx import main_export

    # The task "-with-past" writes the merged decoder (and the two it was merged from).
    main_export(checkpoint, folder, task="text2text-generation-with-past", do_validation=False)


def ctranslate2(checkpoint: str, folder: str, precision: str) -> None:
    """Write what ``ct2-transformers-converter --quantization PRECISION`` writes."""
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoConfig, BartConfig

    if not hasattr(BartConfig, "normalize_before"):  # which the converter reads: transformers 5
        BartConfig.normalize_before = False  # type: ignore[attr-defined]
    hears = AutoConfig.from_pretrained(checkpoint).model_type == "whisper"

    class Converter(TransformersConverter):  # type: ignore[misc]  # untyped
        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            if hears:
                return _tokenizer(checkpoint)
            return _Numbers(AutoConfig.from_pretrained(checkpoint))

    copied = ["tokenizer.json", "preprocessor_config.json"] if hears else None
    Converter(checkpoint, copy_files=copied).convert(folder, quantization=precision)


def openvino(checkpoint: str, folder: str, precision: str) -> None:
    """Write what ``optimum-cli export openvino --weight-format FORMAT`` writes."""
    from optimum.intel import OVModelForSeq2SeqLM

    model = OVModelForSeq2SeqLM.from_pretrained(checkpoint, **_openvino_options(precision))
    model.save_pretrained(folder)


def openvino_genai(checkpoint: str, folder: str, precision: str) -> None:
    """The same of a speech model, with the tokenizer's own graphs."""
    import shutil

    import openvino
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForSpeechSeq2Seq

    model = OVModelForSpeechSeq2Seq.from_pretrained(checkpoint, **_openvino_options(precision))
    model.save_pretrained(folder)
    shutil.copy(f"{checkpoint}/preprocessor_config.json", folder)
    parts = convert_tokenizer(_tokenizer(checkpoint), with_detokenizer=True)
    for part, name in zip(parts, ("tokenizer", "detokenizer"), strict=True):
        openvino.save_model(part, f"{folder}/openvino_{name}.xml")


def _openvino_options(precision: str) -> dict[str, Any]:
    from optimum.intel import OVWeightQuantizationConfig

    bits = {"int8": 8, "int4": 4}.get(precision)
    # Without a word, weights of large models become 8 bits.
    weights: dict[str, Any] = {"load_in_8bit": False}
    if bits is not None:
        weights = {"quantization_config": OVWeightQuantizationConfig(bits=bits)}
    return {"export": True, "compile": False, **weights}


def _tokenizer(checkpoint: str) -> Any:
    """By its tokenizer.json alone, which all libraries read."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=f"{checkpoint}/tokenizer.json")


class _Numbers:
    """As much of a tokenizer as the converter asks for: each token is called by its number."""

    unk_token = "2"

    def __init__(self, config: Any) -> None:
        names = [str(token) for token in range(config.vocab_size)]
        if config.model_type == "marian":
            # The converter drops the last row if it is that of the pad token, by its name.
            names[config.pad_token_id] = "<pad>"
        self._names = names
        self.pad_token, self.eos_token = names[config.pad_token_id], names[config.eos_token_id]
        self.bos_token = str(config.bos_token_id)

    def get_vocab(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(self._names)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return self._names[token]


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "checkpoint": checkpoint,
        "optimum": optimum,
        "ctranslate2": ctranslate2,
        "openvino": openvino,
        "faster-whisper": ctranslate2,
        "openvino-genai": openvino_genai,
    }
    commands[sys.argv[1]](*sys.argv[2:])
