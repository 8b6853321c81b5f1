"""OpenAI's weights on recordings: features, states, logits and attention are transformers'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.export import export_checkpoint
from seq2edge.export.checkpoint import Checkpoint
from seq2edge.export.families import find_family
from seq2edge.export.tokenizers import find_tokenizer, vocabulary
from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.backends import Step, load_backend, slot_backend
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.bundle.speech_info import SpeechInfo

from .. import real_weights

RATE = 16000
#: Of the largest value.
RELATIVE = 2e-4


def _window(name: str) -> NDArray[np.float32]:
    """The first 30 s, padded with silence."""
    audio = open_audio(real_weights.recording(name))
    sound = audio.read(0, min(audio.num_samples, 30 * RATE))
    return np.pad(sound, (0, 30 * RATE - len(sound)))


def _assert_close(ours: NDArray[Any], wanted: Any) -> None:
    limit = RELATIVE * float(np.abs(np.asarray(wanted)).max())
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("model", real_weights.MODELS)
def test_every_graph_computes_what_transformers_does(model: str, tmp_path: Path) -> None:
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder, audio = real_weights.hugging_face_folder(model), _window("beckett")
    export_checkpoint(folder, tmp_path / "bundle", validate=False)
    manifest = Bundle.open(tmp_path / "bundle").manifest
    backend = slot_backend(load_backend(Bundle.open(tmp_path / "bundle"), num_threads=None))
    assert manifest.speech is not None

    wanted = WhisperFeatureExtractor.from_pretrained(folder)(
        audio, sampling_rate=RATE, return_tensors="np"
    ).input_features
    features = backend.run_graph("features", {"audio": audio[None]})["input_features"]
    np.testing.assert_allclose(features, wanted, atol=1e-4)

    theirs = WhisperForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    encoded = backend.encode({"input_features": features})
    with torch.no_grad():
        spoken = {} if model.endswith(".en") else {"language": "en", "task": "transcribe"}
        ids = theirs.generate(torch.tensor(wanted), **spoken)
        # Without a start of its own since transformers 5.
        start = torch.full((1, 1), manifest.special_tokens.decoder_start)
        ids = torch.cat([start, ids], 1) if ids[0, 0] != start[0, 0] else ids
        states = theirs.get_encoder()(torch.tensor(wanted)).last_hidden_state
        outputs = theirs.get_decoder()(
            input_ids=ids, encoder_hidden_states=states, output_attentions=True, use_cache=False
        )
        logits = theirs.proj_out(outputs.last_hidden_state)
        keys = [
            layer.encoder_attn.k_proj(states).unflatten(2, (-1, 64)).transpose(1, 2)
            for layer in theirs.get_decoder().layers
        ]
    assert ids.shape[1] > 15
    for index, key in enumerate(keys):
        _assert_close(encoded.numpy(f"cross_key.{index}"), key)
    batch, count = ids.shape
    step = Step.allocate(batch, count, count, vocab_size=manifest.dimensions.vocab_size)
    step.input_ids[:] = ids
    step.position_ids[:] = np.arange(count)
    step.attention_mask[:] = np.tri(count, dtype=np.bool_)
    backend.new_cache(encoded, count).forward(step)
    assert step.logits is not None
    _assert_close(step.logits, logits)
    aligned = backend.run_graph("alignment", {"input_ids": ids.numpy()}, encoded)
    heads = [outputs.cross_attentions[i][:, j] for i, j in manifest.speech.alignment_heads]
    _assert_close(aligned["alignment_weights"], torch.stack(heads, 1))


def test_a_folder_without_generation_config_says_the_same_in_its_tokenizer(tmp_path: Path) -> None:
    folder = real_weights.hugging_face_folder("base")
    old = tmp_path / "old"
    old.mkdir()
    for file in folder.iterdir():
        if file.name != "generation_config.json":
            (old / file.name).symlink_to(file)
    with Checkpoint(folder) as new, Checkpoint(old) as without:
        found = [_speech(new), _speech(without)]
    assert len(found[0].languages) == 99
    # These no tokenizer says.
    unsaid = {"alignment_heads": (), "max_initial_timestamp_index": None}
    assert replace(found[1], **unsaid) == replace(found[0], **unsaid)


def _speech(checkpoint: Checkpoint) -> SpeechInfo:
    family, config = find_family(checkpoint.config)
    assert family.speech is not None
    tokens = vocabulary(find_tokenizer(checkpoint.directory))
    return family.speech(family.spec(config, checkpoint), checkpoint, tokens)
