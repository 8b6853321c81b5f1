"""Runs a checkpoint's speech model in transformers, on the sounds of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, WhisperFeatureExtractor

from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.bundle.speech_info import SpeechInfo

from .checkpoint import Checkpoint
from .parity import until_end
from .rounding import greedy_ties, measure
from .speech_parity import (
    SpeechReference,
    compared_positions,
    decoder_prompt,
    make_speech_inputs,
    new_tokens,
)
from .transformers_reference import load_model


def run_speech(checkpoint: Checkpoint, manifest: Manifest) -> SpeechReference:
    """Load a checkpoint with transformers and run it.

    Raises:
        ParityError: transformers cannot load it.
    """
    speech = manifest.speech
    if speech is None:
        raise TypeError("the manifest is of a model that hears")
    model = load_model(checkpoint, AutoModelForSpeechSeq2Seq)
    inputs = make_speech_inputs(manifest, speech)
    arrays = _encoder_inputs(speech, inputs.audio)
    (values,) = (torch.tensor(array) for array in arrays.values())
    targets, heads = torch.tensor(inputs.decoder_ids), speech.alignment_heads
    if speech.mel_bins is not None:
        _shorten(model, values.shape[2] // speech.frames_per_position)
    with torch.no_grad():
        encoded = model.get_encoder()(values).last_hidden_state
        inputs = replace(inputs, positions=compared_positions(encoded.shape[1]))

        def run() -> Sequence[Tensor]:
            states = model.get_encoder()(values).last_hidden_state
            outputs = _decode(model, targets, states, output_attentions=bool(heads))
            logits = model.get_output_embeddings()(outputs.last_hidden_state)
            weights = [outputs.cross_attentions[layer][:, head] for layer, head in heads]
            return [states[:, inputs.positions], logits, *([torch.stack(weights)] if heads else [])]

        states, logits, *weights = measure(run, keep=1)
        prompt = decoder_prompt(manifest, speech)
        written, scores = _greedy(model, encoded, prompt, new_tokens(manifest, prompt))

        def score() -> Tensor:
            outputs = _decode(model, written[:, :-1], encoded)
            scored: Tensor = model.get_output_embeddings()(outputs.last_hidden_state)
            return scored[:, len(prompt) - 1 :]

        ties = greedy_ties(score, scores, logits)
    tokens = [
        until_end(row, manifest.special_tokens.eos) for row in written[:, len(prompt) :].tolist()
    ]
    return SpeechReference(
        inputs, arrays, states, logits, weights[0] if weights else None, prompt, tokens, ties
    )


def _encoder_inputs(speech: SpeechInfo, audio: NDArray[np.float32]) -> dict[str, Any]:
    """The encoder's inputs by name, as transformers' feature extractors make them."""
    if speech.mel_bins is None or speech.window_frames is None:
        return {"audio": audio}
    extractor: Any = WhisperFeatureExtractor(  # type: ignore[no-untyped-call]
        feature_size=speech.mel_bins,
        sampling_rate=speech.sampling_rate,
        hop_length=speech.hop_length,
    )
    made = extractor(
        list(audio),
        sampling_rate=speech.sampling_rate,
        padding=False,
        truncation=False,
        return_tensors="np",
    )
    return {"input_features": made.input_features}


def _shorten(model: Any, positions: int) -> None:
    """Let Whisper's encoder take a window of so many positions, the first ones that it has."""
    encoder = model.get_encoder()
    encoder.config.max_source_positions = positions
    table = torch.nn.Embedding(positions, encoder.embed_positions.embedding_dim)
    table.weight = torch.nn.Parameter(encoder.embed_positions.weight[:positions].detach())
    encoder.embed_positions = table


def _decode(model: Any, ids: Tensor, states: Tensor, **options: Any) -> Any:
    options = {"use_cache": False, **options}
    return model.get_decoder()(input_ids=ids, encoder_hidden_states=states, **options)


def _greedy(
    model: Any, states: Tensor, prompt: list[int], count: int
) -> tuple[Tensor, NDArray[np.float32]]:
    """The likeliest tokens: all of them [B, prompt + T], and their logits [B, T, V].

    By hand: ``generate`` of these models adds rules of its own.
    """
    written = torch.tensor([prompt] * len(states))
    # transformers 5.24 renamed it.
    named = signature(model.get_decoder().forward).parameters
    name = "cache" if "cache" in named else "past_key_values"
    new, cache, scores = written, None, []
    for _ in range(count):
        outputs = _decode(model, new, states, use_cache=True, **{name: cache})
        cache = outputs[name]
        scores.append(model.get_output_embeddings()(outputs.last_hidden_state[:, -1]))
        new = scores[-1].argmax(-1, keepdim=True)
        written = torch.cat([written, new], dim=1)
    return written, torch.stack(scores, dim=1).float().numpy()
