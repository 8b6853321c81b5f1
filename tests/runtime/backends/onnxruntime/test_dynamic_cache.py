"""Graphs whose cache grows give the tokens of transformers, and all that decoding can do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from seq2edge.runtime import (
    BackendError,
    BundleError,
    ContinuousBatch,
    InputError,
    Seq2SeqModel,
)
from seq2edge.runtime.backends import load_backend, slot_backend
from seq2edge.runtime.backends.onnxruntime.dynamic_cache import OrtConcatBackend
from seq2edge.runtime.bundle.reader import Bundle

from ....optimum_folders import LAYOUTS, make_marian, write_optimum_folder
from ...test_imports import BLOCKER

SHAPES = ("t5-v1.1", "bart-scaled", "marian")
NEW_TOKENS = 16
#: Makes a T5 with random weights end its sequences, each at another step.
END = 15.0


@pytest.fixture(scope="session")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[str], Path]
) -> Callable[[str], Path]:
    """As ``checkpoint_of``, which has no Marian."""
    marian = tmp_path_factory.mktemp("marian") / "checkpoint"

    def get(shape: str) -> Path:
        if shape != "marian":
            return checkpoint_of(shape)
        if not marian.exists():
            make_marian().save_pretrained(marian)
        return marian

    return get


@pytest.fixture(scope="session")
def folder_of(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]
) -> Callable[[str, str], Path]:
    """A function from shape and layout to what optimum would write. Read only."""
    root = tmp_path_factory.mktemp("optimum")

    def get(shape: str, layout: str) -> Path:
        path = root / f"{shape}-{layout}"
        if not path.exists():
            write_optimum_folder(checkpoint(shape), path, layout)
        return path

    return get


def sources(pad: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten of mixed lengths, padded on the right."""
    generator = np.random.default_rng(11)
    lengths = np.array([1, 2, 3, 17, 8, 13, 4, 6, 7, 11])
    ids = generator.integers(60, 380, (10, 18))
    ids[np.arange(10), lengths] = end
    mask = np.arange(18) <= lengths[:, None]
    return np.where(mask, ids, pad), mask.astype(np.int64)


def batch_of(model: Seq2SeqModel) -> tuple[np.ndarray, np.ndarray]:
    special = model.manifest.special_tokens
    return sources(special.pad, special.eos[0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_are_those_of_transformers(
    shape: str,
    layout: str,
    folder_of: Callable[[str, str], Path],
    checkpoint: Callable[[str], Path],
    reference_of: Callable[[Path], Any],
) -> None:
    reference = reference_of(checkpoint(shape))
    with Seq2SeqModel.load(folder_of(shape, layout)) as model:
        ids, mask = batch_of(model)
        for beams in (1, 4):
            options = replace(model.generation_config, num_beams=beams, max_new_tokens=NEW_TOKENS)
            found = [row.token_ids for row in model.generate_ids(ids, mask, options)]
            with torch.inference_mode():
                out = reference.generate(
                    torch.from_numpy(ids),
                    attention_mask=torch.from_numpy(mask),
                    num_beams=beams,
                    do_sample=False,
                    max_new_tokens=NEW_TOKENS,
                )
            end = model.manifest.special_tokens.eos[0]
            assert found == [_cut(row, end) for row in out[:, 1:].tolist()]
            assert len({tuple(row) for row in found}) > 2


def _cut(row: list[int], end: int) -> list[int]:
    return row[: row.index(end) + 1] if end in row else row


#: What every engine does; the results are those of a bundle with slots.
OPTIONS: dict[str, dict[str, Any]] = {
    "samples": {"do_sample": True, "num_return_sequences": 3, "seed": 5, "temperature": 1.5},
    "one sample": {"do_sample": True, "seed": 5, "top_k": 20},
    "scores": {"return_scores": True, "repetition_penalty": 1.4},
    "prefix": {"decoder_prefix": (9, 8, 7), "no_repeat_ngram_size": 2},
    "beams with a prefix": {"decoder_prefix": (9, 8), "num_beams": 3, "num_return_sequences": 2},
    "wide beams": {"num_beams": 8, "early_stopping": True, "length_penalty": 0.5},
    "allowed tokens": {"num_beams": 2, "prefix_allowed_tokens": lambda _, row: [len(row) + 5, 60]},
    "forced BOS": {"forced_bos_token_id": 12},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPTIONS)
def test_options_do_what_they_do_with_slots(
    name: str,
    layout: str,
    folder_of: Callable[[str, str], Path],
    bundle_of: Callable[[str], Path],
) -> None:
    found = []
    for path in (bundle_of("bart-scaled"), folder_of("bart-scaled", layout)):
        with Seq2SeqModel.load(path) as model:
            options = replace(model.generation_config, max_new_tokens=NEW_TOKENS, **OPTIONS[name])
            found.append(model.generate_ids(*batch_of(model), options))
    slots, rows = found
    assert [r.token_ids for r in rows] == [r.token_ids for r in slots]
    assert [r.finish_reason for r in rows] == [r.finish_reason for r in slots]
    for ours, theirs in zip(rows, slots, strict=True):
        assert ours.score == (
            None if theirs.score is None else pytest.approx(theirs.score, abs=1e-3)
        )


@pytest.mark.parametrize("beams", [1, 3])
def test_a_source_does_not_depend_on_its_batch(
    beams: int, folder_of: Callable[[str, str], Path]
) -> None:
    """Sources end at different steps, and leave the batch."""
    with Seq2SeqModel.load(folder_of("t5-v1.1", "merged")) as model:
        ids, mask = batch_of(model)
        options = replace(model.generation_config, num_beams=beams, max_new_tokens=30)
        options = replace(options, sequence_bias={1: END})
        together = model.generate_ids(ids, mask, options)
        alone = [
            row
            for i, m in zip(ids, mask, strict=True)
            for row in model.generate_ids(i[None], m[None], options)
        ]
    assert [row.token_ids for row in together] == [row.token_ids for row in alone]
    assert len({len(row.token_ids) for row in together}) > 4


@pytest.fixture(scope="session")
def byte_folder(
    folder_of: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A T5 with ByT5's tokenizer. Read only."""
    path = tmp_path_factory.mktemp("bytes") / "folder"
    shutil.copytree(folder_of("t5-v1.1", "merged"), path)
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    return path


def test_streams_pieces_of_the_text(byte_folder: Path) -> None:
    with Seq2SeqModel.load(byte_folder) as model:
        stream = model.stream("hello there", max_new_tokens=20)
        pieces = list(stream)
        whole = model.generate("hello there", max_new_tokens=20)[0]
    assert stream.result == whole
    assert "".join(pieces) == whole.text


def test_runs_where_no_training_or_export_package_can_be_imported(byte_folder: Path) -> None:
    code = BLOCKER + (
        "from seq2edge.runtime import Seq2SeqModel\n"
        "with Seq2SeqModel.load(sys.argv[1]) as model:\n"
        "    print(model.generate('one text', max_new_tokens=9)[0].token_ids)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(byte_folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with Seq2SeqModel.load(byte_folder) as model:
        assert json.loads(done.stdout) == model.generate("one text", max_new_tokens=9)[0].token_ids


def test_two_calls_at_once_have_caches_of_their_own(byte_folder: Path) -> None:
    with Seq2SeqModel.load(byte_folder) as model:
        texts = ["one text", "another"]
        expected = [model.generate(text, max_new_tokens=12)[0].token_ids for text in texts]
        streams = [model.stream(text, max_new_tokens=12) for text in texts]
        for pair in zip(*streams, strict=False):
            assert all(isinstance(piece, str) for piece in pair)
        for stream in streams:
            list(stream)
        results = [stream.result for stream in streams]
    assert [row.token_ids for row in results if row is not None] == expected


def test_what_a_growing_cache_cannot_do_is_refused(folder_of: Callable[[str, str], Path]) -> None:
    folder = folder_of("bart-scaled", "split")
    with Seq2SeqModel.load(folder) as model:
        ids, mask = batch_of(model)
        options = replace(model.generation_config, prompt_lookup_num_tokens=4, num_beams=1)
        with pytest.raises(InputError, match="cannot give a row of a running batch to another"):
            ContinuousBatch(model)
        with pytest.raises(InputError, match="num_workers=2: OrtConcatBackend has no workers"):
            Seq2SeqModel.load(folder, num_workers=2)
        with pytest.raises(InputError, match="prompt_lookup_num_tokens needs a decoder whose"):
            model.generate_ids(ids, mask, options)
    for keywords in (
        {"backend": "tensorrt"},
        {"backend": "onnxruntime-tensorrt"},
        {"device": "cuda"},
    ):
        with pytest.raises(BundleError, match=r"cache that grows, and the (engine|device) "):
            Seq2SeqModel.load(folder, **keywords)
    backend = load_backend(Bundle.open(folder), num_threads=1)
    with pytest.raises(InputError, match="a roofline needs a decoder whose cache has slots"):
        slot_backend(backend, "a roofline")
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.encode({"input_ids": ids, "attention_mask": mask.astype(bool)})


def _copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "folder"))


def test_graphs_with_other_inputs_are_refused(
    folder_of: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = _copy(folder_of("bart-scaled", "split"), tmp_path)
    graph = onnx.load(folder / "encoder_model.onnx")
    for node in graph.graph.node:
        node.input[:] = ["pixels" if name == "input_ids" else name for name in node.input]
    graph.graph.input[0].name = "pixels"
    onnx.save(graph, folder / "encoder_model.onnx")
    with pytest.raises(BackendError, match=r"encoder_model\.onnx takes pixels, .* token ids"):
        OrtConcatBackend(Bundle.open(folder))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("decoder_with_past_model.onnx", r"has no cache; .*text2text-generation-with-past"),
        ("decoder_model.onnx", r"neither decoder_model_merged\.onnx nor decoder_model\.onnx"),
        ("encoder_model.onnx", "is not a seq2edge bundle"),
    ],
)
def test_incomplete_folders_are_refused(
    removed: str, message: str, folder_of: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = _copy(folder_of("bart-scaled", "split"), tmp_path)
    (folder / removed).unlink()
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": None}, "vocab_size must be a positive integer"),
        ({"eos_token_id": 9999}, r"special tokens \[9999\] lie outside"),
        (
            {"decoder_start_token_id": None, "bos_token_id": None},
            "decoder_start_token_id is set in",
        ),
    ],
)
def test_configs_that_say_too_little_are_refused(
    values: dict[str, Any],
    message: str,
    folder_of: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    folder = _copy(folder_of("bart-scaled", "merged"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    (folder / "generation_config.json").unlink()
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


def test_a_tokenizer_that_must_be_converted_says_so(
    folder_of: Callable[[str, str], Path], tmp_path: Path
) -> None:
    folder = _copy(folder_of("t5-v1.1", "merged"), tmp_path)
    (folder / "spiece.model").write_bytes(b"pieces")
    with pytest.raises(BundleError, match="run 'seq2edge import'"):
        Seq2SeqModel.load(folder)
