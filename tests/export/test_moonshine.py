"""Moonshine's graphs against transformers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.export import export_checkpoint
from seq2edge.export.errors import CheckpointError, ParityError
from seq2edge.export.families import moonshine as family
from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.bundle.reader import Bundle

from ..conftest import made_once
from ..moonshine_models import SHAPES, make_moonshine


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return made_once(tmp_path_factory.mktemp("moonshine"), make_moonshine)


def _export(folder: Path, bundle: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        return export_checkpoint(folder, bundle, **options)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_states_logits_and_tokens_are_those_of_transformers(
    folder_of: Callable[[str], Path], tmp_path: Path, shape: str
) -> None:
    result = _export(folder_of(shape), tmp_path / "bundle", validate=True)
    assert result.parity.ok and result.parity.exact == result.parity.inputs
    assert result.parity.features is None and result.parity.alignment is None
    speech = result.manifest.speech
    assert (speech.sampling_rate, speech.mel_bins, speech.hop_length) == (16000, None, 384)
    assert speech.window_frames is None and speech.no_timestamps is None
    assert not speech.languages and not speech.alignment_heads
    assert result.manifest.dimensions.max_source_length is None
    assert result.manifest.dimensions.max_target_length == 64
    assert {*result.manifest.graphs} == {"encoder", "decoder", "logsumexp"}


@pytest.mark.parametrize("samples", [895, 10_000, 16_000, 100_003])
def test_audio_of_any_length(
    folder_of: Callable[[str], Path], tmp_path: Path, samples: int
) -> None:
    import torch
    from transformers import MoonshineForConditionalGeneration

    folder = folder_of("tiny")
    _export(folder, tmp_path / "bundle", validate=False)
    backend = load_backend(Bundle.open(tmp_path / "bundle"), num_threads=1)
    model = MoonshineForConditionalGeneration.from_pretrained(folder).eval()
    audio = 0.1 * np.random.default_rng(0).standard_normal((2, samples), np.float32)
    with torch.no_grad():
        states = model.get_encoder()(torch.tensor(audio)).last_hidden_state
        keys = model.get_decoder().layers[1].encoder_attn.k_proj(states)
    ours = backend.encode({"audio": audio}).numpy("cross_key.1")
    wanted = keys.reshape(*keys.shape[:2], 4, 10).transpose(1, 2)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


@pytest.mark.parametrize(
    "wrong", ["_rope", "_stem"], ids=["another base of the frequencies", "another activation"]
)
def test_export_finds_what_is_wrong(
    folder_of: Callable[[str], Path],
    tmp_path: Path,
    wrong: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    from seq2edge.export.spec import Activation, ConvolutionStem

    right = family._stem(40)

    def stem(_: int) -> ConvolutionStem:
        first = replace(right.convolutions[0], activation=Activation.GELU)
        return replace(right, convolutions=(first, *right.convolutions[1:]))

    monkeypatch.setattr(family, wrong, {"_rope": lambda _: (500.0, 0.8), "_stem": stem}[wrong])
    with pytest.raises(ParityError, match="encoder: "):
        _export(folder_of("tiny"), tmp_path / "bundle", validate=True)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"encoder_num_key_value_heads": 2}, "encoder_num_key_value_heads 2"),
        ("config.json", {"attention_bias": True}, "attention_bias True"),
        ("config.json", {"rope_parameters": {"rope_type": "yarn"}}, "of type 'yarn'"),
        ("config.json", {"rope_parameters": {"partial_rotary_factor": 2}}, "within 0 and 1"),
        ("config.json", {"hidden_size": 42}, "no multiple of 4 attention heads"),
        ("preprocessor_config.json", {"do_normalize": True}, "normalized audio"),
    ],
)
def test_what_the_graphs_cannot_do_is_named(
    folder_of: Callable[[str], Path],
    tmp_path: Path,
    file: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for each in folder_of("tiny").iterdir():
        (folder / each.name).write_bytes(each.read_bytes())
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**values, **changes}))
    with pytest.raises(CheckpointError, match=message):
        _export(folder, tmp_path / "bundle", validate=False)
