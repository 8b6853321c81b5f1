"""Models with each kind of tokenizer, and models with their references."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from seq2edge.export import export_checkpoint
from seq2edge.runtime import Seq2SeqModel

from .comparison import NEW_TOKENS, Subject, SubjectOf

_DEMO = Path(__file__).parents[3] / "examples" / "g2p" / "model"

ModelWith = Callable[[str, Callable[[], Tokenizer] | None], Seq2SeqModel]


@pytest.fixture(scope="module")
def model_with(
    byte_bundle: Path,
    variant_of: Callable[..., tuple[Path, Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ModelWith]:
    """A function from a name and a maker of a tokenizer to a random T5 with that tokenizer.

    Two names need no maker: "bytes" and "demo", the trained model. Each is made once.
    """
    loaded: dict[str, Seq2SeqModel] = {}

    def get(kind: str, make: Callable[[], Tokenizer] | None) -> Seq2SeqModel:
        if kind not in loaded:
            if kind == "demo":
                bundle = tmp_path_factory.mktemp("demo") / "bundle"
                export_checkpoint(_DEMO, bundle, validate=False)
            elif make is None:
                bundle = byte_bundle
            else:
                files = {"tokenizer.json": json.loads(make().to_str())}
                bundle = variant_of("t5-v1.1", files)[1]
            loaded[kind] = Seq2SeqModel.load(bundle, num_threads=1)
        return loaded[kind]

    yield get
    for model in loaded.values():
        model.close()


@pytest.fixture(scope="session")
def subject_of(
    variant_of: Callable[..., tuple[Path, Path]], reference_of: Callable[[Path], Any]
) -> Iterator[SubjectOf]:
    """``subject_of(shape, ends=(...), **generation)``: lively models; each is made once."""
    made: dict[str, Subject] = {}

    def get(shape: str, ends: Sequence[int], **generation: Any) -> Subject:
        key = repr((shape, tuple(ends), sorted(generation.items())))
        if key not in made:
            checkpoint, bundle = variant_of(shape, eos_token_id=list(ends), **generation)
            if not shape.startswith("t5"):
                _calm(checkpoint)
                bundle = bundle.with_name("calm")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # no tokenizer files
                    export_checkpoint(checkpoint, bundle, validate=False)
            model = Seq2SeqModel.load(bundle, num_threads=1)
            made[key] = Subject(model, reference_of(checkpoint), tuple(ends))
        return made[key]

    yield get
    for subject in made.values():
        subject.model.close()


def _calm(checkpoint: Path) -> None:
    """Let the token run weigh more than what was attended to.

    Where attention drowns it, a random BART says one token for ever, and nearly all beams tie.
    """
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if ".decoder." in name and name.endswith(("out_proj.weight", "fc2.weight")):
            tensors[name] = tensor * np.float32(0.1)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def ends_of(subject_of: SubjectOf) -> Callable[[str], list[int]]:
    """Tokens of a shape that, made end tokens, end about half of the hypotheses; best first."""
    known: dict[str, list[int]] = {}

    def get(shape: str) -> list[int]:
        if shape not in known:
            free = subject_of(shape, [1 if shape.startswith("t5") else 2])
            rows = [
                row.tokens
                for row in free.expected(
                    3, num_beams=8, num_return_sequences=8, max_new_tokens=NEW_TOKENS
                )
            ]
            config = free.reference.config
            special = {0, 1, 2, config.pad_token_id, config.decoder_start_token_id}
            share = {
                token: sum(token in row and row.index(token) >= 3 for row in rows) / len(rows)
                for token in {token for row in rows for token in row} - special
            }
            known[shape] = sorted(share, key=lambda token: (abs(share[token] - 0.5), token))
        return known[shape]

    return get
