"""Small Whisper checkpoints with random weights, of every shape that real ones have."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2edge.export import export_checkpoint
from seq2edge.runtime import Bundle

#: Special tokens stand after so many ordinary ones.
WORDS = 80
EOS, START = WORDS, WORDS + 1
LANGUAGES = {"<|en|>": WORDS + 2, "<|de|>": WORDS + 3}
TASKS = {"translate": WORDS + 4, "transcribe": WORDS + 5}
PREVIOUS, NO_SPEECH, NO_TIMESTAMPS = WORDS + 7, WORDS + 8, WORDS + 9
#: As many times as a window of 30 s has, 0.02 s apart.
TIMES = 1501
VOCABULARY = NO_TIMESTAMPS + 1 + TIMES

_BASE = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_target_positions": 64,
    "pad_token_id": EOS,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "decoder_start_token_id": START,
    "begin_suppress_tokens": [0, EOS],
    "suppress_tokens": [1, 2, START],
}
_ALIGNMENT = {"alignment_heads": [[1, 3], [0, 1], [1, 0]]}

#: config values, and those of generation_config.json
SHAPES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "tiny": ({}, _ALIGNMENT),
    # large-v3 and turbo: more mels, and a decoder that is shallower than the encoder.
    "turbo": ({"num_mel_bins": 128, "encoder_layers": 3, "decoder_layers": 1}, {}),
    "distil": ({"encoder_layers": 4}, {"alignment_heads": [[1, 2]]}),
    "wide-ffn": ({"decoder_layers": 3, "decoder_ffn_dim": 48, "encoder_attention_heads": 2}, {}),
    "english": ({}, {**_ALIGNMENT, "is_multilingual": False}),
}


def make_whisper(
    shape: str, folder: Path, *, seed: int = 7, speaks: bool = False, **changes: Any
) -> Path:
    """Save a checkpoint of a shape to ``folder``; :func:`write_tokenizer` adds a tokenizer.

    ``speaks``: it writes words, times and ends by turns, with probabilities that differ.
    """
    import torch
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    values, own = SHAPES[shape]
    values = {**_BASE, **values, **changes}
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(WhisperConfig(**values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # no tensor at its trivial initial value
                parameter.add_(0.1 * torch.randn_like(parameter))
            if "decoder" in name and name.endswith("final_layer_norm.weight"):
                # With a tied head a random model else repeats its token for ever.
                parameter.mul_(torch.randn_like(parameter).sign())
        if speaks:
            model.model.decoder.layer_norm.weight *= 40
            model.model.decoder.layer_norm.bias *= 10
            model.model.decoder.embed_positions.weight *= 20
            model.model.decoder.embed_tokens.weight[START:] *= 0.25
    settings = {
        "is_multilingual": True,
        "no_timestamps_token_id": NO_TIMESTAMPS,
        "prev_sot_token_id": PREVIOUS,
        "max_initial_timestamp_index": 50,
        "return_timestamps": False,
        "max_length": values["max_target_positions"],
        **own,
    }
    if settings["is_multilingual"]:
        settings |= {"lang_to_id": LANGUAGES, "task_to_id": TASKS}
    # Else transformers makes another one of the config when it loads it.
    settings["_from_model_config"] = False
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=values.get("num_mel_bins", 80))
    extractor.save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A tokenizer.json of ``WORDS`` letters and signs, and of the special tokens after them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = "\u0120" + string.ascii_letters + string.digits + ".,!?'-:;\"()*+/=#@"
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    assert len(vocabulary) == WORDS
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", "<|startoftranscript|>", *LANGUAGES, "<|translate|>"]
    control += ["<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]
    control += ["<|notimestamps|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    times = [f"<|{0.02 * number:.2f}|>" for number in range(TIMES)]
    tokenizer.add_tokens([AddedToken(token, special=False) for token in times])
    assert tokenizer.get_vocab_size() == VOCABULARY
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def speaking_bundle(shape: str, folder: Path) -> Bundle:
    """The bundle ``folder/bundle`` of a shape that writes words and times, with a tokenizer."""
    checkpoint = make_whisper(shape, folder / "checkpoint", seed=8, speaks=True)
    write_tokenizer(checkpoint)
    export_checkpoint(checkpoint, folder / "bundle", validate=False)
    return Bundle.open(folder / "bundle")
