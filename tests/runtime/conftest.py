"""Bundles with other generation defaults, with a tokenizer, and their PyTorch references."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Pair(NamedTuple):
    """A checkpoint and the bundle that was exported from it."""

    checkpoint: Path
    bundle: Path


@pytest.fixture(scope="session")
def variant_of(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Callable[..., Pair]:
    """``variant_of(shape, files={...}, **generation)``: a checkpoint with other files.

    ``files`` maps names to JSON values that are put beside the weights; the keywords become
    generation_config.json, over the start, pad and end tokens of the checkpoint's own.
    """
    from seq2edge.export import export_checkpoint

    def get(shape: str, files: dict[str, Any] | None = None, **generation: Any) -> Pair:
        folder = tmp_path_factory.mktemp(f"variant-{shape}")
        pair = Pair(folder / "checkpoint", folder / "bundle")
        shutil.copytree(checkpoint_of(shape), pair.checkpoint)
        defaults = pair.checkpoint / "generation_config.json"
        own = json.loads(defaults.read_text())
        tokens = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
        defaults.write_text(json.dumps({**{key: own[key] for key in tokens}, **generation}))
        for name, value in (files or {}).items():
            (pair.checkpoint / name).write_text(json.dumps(value))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no tokenizer files
            export_checkpoint(pair.checkpoint, pair.bundle, validate=False)
        return pair

    return get


@pytest.fixture(scope="session")
def byte_bundle(variant_of: Callable[..., Pair]) -> Path:
    """A T5 with ByT5's tokenizer, which needs no vocabulary file. Read only."""
    return variant_of("t5-v1.1", {"tokenizer_config.json": {"tokenizer_class": "ByT5Tokenizer"}})[1]


@pytest.fixture(scope="session")
def reference_of() -> Callable[[Path], Any]:
    """A function from a checkpoint folder to the model that transformers loads from it."""
    from transformers import AutoModelForSeq2SeqLM

    loaded: dict[Path, Any] = {}

    def get(checkpoint: Path) -> Any:
        if checkpoint not in loaded:
            loaded[checkpoint] = AutoModelForSeq2SeqLM.from_pretrained(
                checkpoint, attn_implementation="eager"
            ).eval()
        return loaded[checkpoint]

    return get


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """A function from a bundle to a copy of it that the test may damage."""

    def get(bundle: Path) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / "copy"))

    return get
