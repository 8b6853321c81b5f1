"""Whisper's graphs against transformers: features, states, logits, times of words."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.export import export_checkpoint, speech_parity
from seq2edge.export.errors import ParityError
from seq2edge.export.graph import log_mel, stem
from seq2edge.export.parity import FEATURES
from seq2edge.runtime.backends import Backend, Step, load_backend, slot_backend
from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import BackendError, Seq2EdgeError
from tests import whisper_models as whisper
from tests.conftest import export_unvalidated, made_once

Audio = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """From a shape's name to its checkpoint, and ``.bundle`` beside it."""

    def make(shape: str, path: Path) -> None:
        whisper.make_whisper(shape, path)
        export_unvalidated(path, path.with_suffix(".bundle"))

    return made_once(tmp_path_factory.mktemp("whisper"), make)


def _load(folder: Path) -> tuple[Manifest, Backend]:
    bundle = Bundle.open(folder.with_suffix(".bundle"))
    return bundle.manifest, load_backend(bundle, num_threads=1)


def _audio(samples: int, seed: int = 0) -> Audio:
    """Tones that come and go, in noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(samples) / 16000
    tones = np.sin(2 * np.pi * 440 * time) * np.sin(2 * np.pi * 3 * time) * 0.3
    noise = 0.01 * generator.standard_normal(samples)
    sound: Audio = (tones + noise).astype(np.float32)
    return sound


@pytest.mark.parametrize("samples", [480_000, 16_000, 201, 777, 16_001, 47_999, 1_000_000])
@pytest.mark.parametrize("shape", ["tiny", "turbo"])
def test_features_are_those_of_transformers(
    folder_of: Callable[[str], Path], shape: str, samples: int
) -> None:
    from transformers import WhisperFeatureExtractor

    folder = folder_of(shape)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    audio = _audio(samples)
    wanted = extractor(
        audio, sampling_rate=16000, padding=False, truncation=False, return_tensors="np"
    ).input_features
    _, backend = _load(folder)
    outputs = backend.run_graph("features", {"audio": audio[None]})
    assert outputs["input_features"].shape == (1, extractor.feature_size, samples // 160)
    np.testing.assert_allclose(outputs["input_features"], wanted, atol=1e-4)
    unclamped = outputs["log_mel"]
    np.testing.assert_array_equal(
        np.maximum(unclamped, unclamped.max() - np.float32(2)), outputs["input_features"]
    )


def test_features_of_a_batch_are_each_clamped_by_their_own_loudest(
    folder_of: Callable[[str], Path],
) -> None:
    _, backend = _load(folder_of("tiny"))
    batch = np.stack([_audio(20_000), 0.001 * _audio(20_000, seed=1), np.zeros(20_000, np.float32)])
    together = backend.run_graph("features", {"audio": batch})["input_features"]
    for row, audio in zip(together, batch, strict=True):
        alone = backend.run_graph("features", {"audio": audio[None]})["input_features"][0]
        np.testing.assert_allclose(row, alone, atol=1e-6)


@pytest.mark.parametrize("shape", ["tiny", "turbo"])
def test_export_compares_with_transformers(
    tmp_path: Path, folder_of: Callable[[str], Path], shape: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        parity = export_checkpoint(folder_of(shape), tmp_path / "bundle", validate=True).parity
    assert parity is not None and parity.ok
    assert parity.features is not None and parity.features < FEATURES
    assert parity.encoder is not None and parity.alignment is not None
    assert "features max error" in parity.summary() and "alignment max error" in parity.summary()
    assert parity.exact == parity.inputs


def test_a_large_encoder_is_compared_on_a_shorter_window(
    tmp_path: Path, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from seq2edge.export import speech_reference

    lengths = []

    def shorten(model: Any, positions: int) -> None:
        lengths.append(positions)
        own(model, positions)

    own = speech_reference._shorten
    monkeypatch.setattr(speech_parity, "LARGE", 0)
    monkeypatch.setattr(speech_reference, "_shorten", shorten)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        parity = export_checkpoint(folder_of("tiny"), tmp_path / "bundle", validate=True).parity
    assert parity is not None and parity.ok and parity.alignment is not None
    assert lengths == [300]


@pytest.mark.parametrize("part", ["encoder", "features"])
def test_export_finds_what_is_wrong(
    tmp_path: Path, folder_of: Callable[[str], Path], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another function after the convolutions, another scale of mels."""
    if part == "encoder":
        monkeypatch.setattr(stem, "activate", lambda op, _, x: op.Relu(x))
    else:
        monkeypatch.setattr(log_mel, "_LOG_STEP", 0.07)
    with warnings.catch_warnings(), pytest.raises(ParityError, match=f"{part}: "):
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(folder_of("tiny"), tmp_path / "bundle", validate=True)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("shape", list(whisper.SHAPES))
def test_logits_and_times_are_those_of_transformers(
    folder_of: Callable[[str], Path], shape: str
) -> None:
    import torch
    from transformers import WhisperForConditionalGeneration

    folder = folder_of(shape)
    manifest, backend = _load(folder)
    model = WhisperForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    assert manifest.speech is not None
    generator = np.random.default_rng(1)
    features = generator.standard_normal((2, manifest.speech.mel_bins or 0, 3000), np.float32)
    ids = generator.integers(0, whisper.WORDS, (2, 9))
    with torch.no_grad():
        wanted = model(
            torch.tensor(features), decoder_input_ids=torch.tensor(ids), output_attentions=True
        )
    encoded = backend.encode({"input_features": features})
    assert encoded.batch_size == 2
    step = _teacher_forced(manifest, backend, encoded, ids)
    np.testing.assert_allclose(step.logits, wanted.logits, atol=2e-4)
    outputs = backend.run_graph("alignment", {"input_ids": ids}, encoded)
    heads = [wanted.cross_attentions[i][:, j] for i, j in manifest.speech.alignment_heads]
    np.testing.assert_allclose(outputs["alignment_weights"], torch.stack(heads, 1), atol=1e-5)
    logprobs = torch.log_softmax(wanted.logits, -1)[:, :-1]
    following = logprobs.gather(2, torch.tensor(ids)[:, 1:, None])[..., 0]
    np.testing.assert_allclose(outputs["logprobs"][:, :-1], following, atol=2e-4)
    assert not outputs["logprobs"][:, -1].any()


def _teacher_forced(
    manifest: Manifest, backend: Backend, encoded: Any, ids: NDArray[np.int64]
) -> Step:
    batch, count = ids.shape
    step = Step.allocate(batch, count, count, vocab_size=manifest.dimensions.vocab_size)
    step.input_ids[:] = ids
    step.position_ids[:] = np.arange(count)
    step.attention_mask[:] = np.tri(count, dtype=np.bool_)
    slot_backend(backend).new_cache(encoded, count).forward(step)
    return step


def test_a_shorter_window_is_the_encoder_on_its_own_frames(
    folder_of: Callable[[str], Path],
) -> None:
    manifest, backend = _load(folder_of("tiny"))
    features = np.random.default_rng(2).standard_normal((1, 80, 500), np.float32)
    assert backend.encode({"input_features": features}).numpy("cross_key.0").shape[2] == 250
    assert manifest.dimensions.max_source_length == 1500


def test_the_manifest_says_tokens_languages_and_heads(folder_of: Callable[[str], Path]) -> None:
    manifest, _ = _load(folder_of("tiny"))
    speech = manifest.speech
    assert speech is not None
    assert speech.languages == {"en": whisper.WORDS + 2, "de": whisper.WORDS + 3}
    assert speech.tasks == whisper.TASKS
    assert speech.no_timestamps == whisper.NO_TIMESTAMPS
    assert speech.timestamp_begin == whisper.NO_TIMESTAMPS + 1
    assert (speech.no_speech, speech.previous_text) == (whisper.NO_SPEECH, whisper.PREVIOUS)
    assert speech.max_initial_timestamp_index == 50
    assert speech.alignment_heads == ((0, 1), (1, 0), (1, 3))
    assert speech.window_seconds == 30
    assert manifest.generation["suppress_tokens"] == [1, 2, whisper.START]
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


def test_an_english_only_model_names_no_language(folder_of: Callable[[str], Path]) -> None:
    speech = _load(folder_of("english"))[0].speech
    assert speech is not None and not speech.languages and not speech.tasks


def test_without_alignment_heads_those_of_the_upper_half_are_taken(
    folder_of: Callable[[str], Path],
) -> None:
    speech = _load(folder_of("wide-ffn"))[0].speech
    assert speech is not None
    assert speech.alignment_heads == tuple((i, j) for i in (1, 2) for j in range(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alignment_heads": [[5, 0]]}, "none of the decoder's 2 layers"),
        ({"alignment_heads": [7]}, "pairs of layer and head"),
        ({"no_timestamps_token_id": None}, "which token is <.notimestamps.>"),
        ({"lang_to_id": {"<|en|>": 10**6}}, "outside the vocabulary"),
        ({"lang_to_id": {"<|en|>": "x"}}, "must be a token id"),
        ({"lang_to_id": {}}, "several languages"),
    ],
)
def test_what_the_files_lack_is_named(
    tmp_path: Path, folder_of: Callable[[str], Path], changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in folder_of("tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    file = folder / "generation_config.json"
    settings = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: v for name, v in settings.items() if v is not None}))
    with warnings.catch_warnings(), pytest.raises(Seq2EdgeError, match=message):
        warnings.simplefilter("ignore")
        export_checkpoint(folder, tmp_path / "bundle", validate=False)
    assert not (tmp_path / "bundle").exists()


def test_a_graph_that_is_not_there_or_lacks_an_input_is_named(
    folder_of: Callable[[str], Path],
) -> None:
    _, backend = _load(folder_of("tiny"))
    with pytest.raises(BackendError, match="no graph 'pitch'"):
        backend.run_graph("pitch", {})
    with pytest.raises(BackendError, match="needs the input audio"):
        backend.run_graph("features", {})
    with pytest.raises(BackendError, match="needs the input cross_key"):
        backend.run_graph("alignment", {"input_ids": np.zeros((1, 3), np.int64)})
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run_graph("features", {"audio": _audio(1000)[None]})


def test_tokens_are_read_from_the_tokenizer_where_the_config_is_silent(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in folder_of("tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    whisper.write_tokenizer(folder)
    ends = {"eos_token_id": whisper.EOS, "decoder_start_token_id": whisper.START}
    (folder / "generation_config.json").write_text(json.dumps({"is_multilingual": True, **ends}))
    found = export_checkpoint(folder, tmp_path / "bundle", validate=False).manifest.speech
    assert found is not None
    wanted = _load(folder_of("tiny"))[0].speech
    assert wanted is not None and wanted.tasks == found.tasks
    upper = tuple((1, head) for head in range(4))
    assert found == replace(wanted, max_initial_timestamp_index=None, alignment_heads=upper)
    (folder / "generation_config.json").unlink()
    found = export_checkpoint(folder, tmp_path / "english", validate=False).manifest.speech
    assert found is not None and not found.languages  # so small a vocabulary is English
    assert found.no_timestamps == whisper.NO_TIMESTAMPS
