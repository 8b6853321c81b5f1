"""The tokenizer and the T5 network of the grapheme-to-phoneme model, and how they are saved."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from data import GRAPHEMES, PHONEMES
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
VOCABULARY = {token: i for i, token in enumerate((PAD, EOS, UNK, *GRAPHEMES, *PHONEMES))}
PAD_ID, EOS_ID = VOCABULARY[PAD], VOCABULARY[EOS]
MAX_NEW_TOKENS = 48

# The relative-position bucket that each attention head starts out looking at. With 32 buckets an
# encoder head has the distances 0, -1, -2, ... in buckets 0, 1, 2, ... and +1, +2, ... in 17, 18,
# ...; a decoder head has 0, -1, -2, ... in 0, 1, 2, ...
ENCODER_FOCUS = (1, 17, 0, 2)
DECODER_FOCUS = (0, 1, 2)


def build_tokenizer() -> Tokenizer:
    """One tokenizer for both sides: it splits words into letters and joins phonemes with spaces.

    Phonemes are upper case and letters are lower case, so one vocabulary holds both.
    """
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, EOS_ID)]
    )
    tokenizer.add_special_tokens([PAD, EOS, UNK])
    return tokenizer


def build_model(
    d_model: int, d_ff: int, heads: int, encoder_layers: int, decoder_layers: int, dropout: float
) -> T5ForConditionalGeneration:
    """A freshly initialised T5 with a 71-token vocabulary."""
    config = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=d_model,
        d_kv=d_model // heads,
        d_ff=d_ff,
        num_heads=heads,
        num_layers=encoder_layers,
        num_decoder_layers=decoder_layers,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=32,
        dropout_rate=dropout,
        feed_forward_proj="relu",
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=PAD_ID,
    )
    model = T5ForConditionalGeneration(config)
    initialise(model)
    return model


@torch.no_grad()
def initialise(model: T5ForConditionalGeneration) -> None:
    """Initial weights with which a small T5 trains quickly.

    T5 leaves out the 1/sqrt(d_kv) of the attention scores, so the query weights carry it. The
    projections that write to the residual stream start small. The relative-position biases start
    large and each first heads on one neighbour: letters and phonemes align by their order, and
    from small biases the network takes long to find that out.
    """
    config = model.config
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        fan_in = parameter.shape[1]
        if name.endswith("shared.weight"):
            nn.init.normal_(parameter, std=0.5)
        elif name.endswith("relative_attention_bias.weight"):
            nn.init.normal_(parameter, std=1.0)
            focus = DECODER_FOCUS if "decoder" in name else ENCODER_FOCUS
            for head, bucket in enumerate(focus[: config.num_heads]):
                parameter[bucket, head] += 3.0
        elif name.endswith("q.weight"):
            nn.init.normal_(parameter, std=(fan_in * config.d_kv) ** -0.5)
        elif name.endswith((".o.weight", ".wo.weight")):
            layers = config.num_decoder_layers if "decoder" in name else config.num_layers
            nn.init.normal_(parameter, std=(fan_in * 2 * layers) ** -0.5)
        else:
            nn.init.normal_(parameter, std=fan_in**-0.5)


def save_pretrained(model: T5ForConditionalGeneration, folder: Path) -> None:
    """Write fp16 weights, config.json, generation_config.json and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    half = T5ForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.half()
    half.generation_config = GenerationConfig(
        decoder_start_token_id=PAD_ID,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        num_beams=1,
    )
    half.save_pretrained(folder)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "unk_token": UNK,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 64,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
