"""Bundles, and others of the same models whose weights are a little different."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference_bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Path:
    """A T5 with ByT5's tokenizer. Read only."""
    return _exported(checkpoint_of("t5"), tmp_path_factory.mktemp("reference"), noise=0.0)


@pytest.fixture(scope="session")
def variant_bundle(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Path:
    """The same model, weights up to 20 % off. Read only."""
    return _exported(checkpoint_of("t5"), tmp_path_factory.mktemp("variant"), noise=0.2)


@pytest.fixture(scope="session")
def speech_variant(tmp_path_factory: pytest.TempPathFactory, speaking_checkpoint: Path) -> Path:
    """The model of ``speaking_bundle``, weights up to 10 % off. Read only."""
    return _exported(speaking_checkpoint, tmp_path_factory.mktemp("speech-variant"), noise=0.1)


def _exported(checkpoint: Path, folder: Path, noise: float) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    from seq2edge.export import export_checkpoint

    copy = folder / "checkpoint"
    shutil.copytree(checkpoint, copy)
    if not (copy / "tokenizer.json").exists():
        (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    torch.manual_seed(0)
    tensors = {
        name: tensor * (1 + noise * (2 * torch.rand_like(tensor) - 1))
        for name, tensor in load_file(copy / "model.safetensors").items()
    }
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    export_checkpoint(copy, folder / "bundle", validate=False)
    return folder / "bundle"
