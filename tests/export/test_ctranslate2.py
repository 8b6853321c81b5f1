"""Folders of CTranslate2, made by its own converters, as checkpoints.

The references are the checkpoints that they were converted from, transformers on the tensors that
were read (export's comparison), and CTranslate2 itself.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.export import CheckpointError, ExportResult, export_checkpoint
from seq2edge.export.checkpoint import Checkpoint
from seq2edge.runtime import Bundle, Seq2SeqModel

from .. import real_weights
from .. import whisper_models as whisper
from ..conftest import UNTIED, export_unvalidated, made_once, make_model
from ..ctranslate2_folders import convert, convert_marian, convert_opennmt, plain_tokens, translate

Refusal = Callable[..., str]

#: Of tests/conftest.py: each with the other decisions that a family knows.
SHAPES = (
    "t5",
    "t5-v1.1",
    "t5-deep-decoder",
    "umt5",
    "bart",
    "bart-scaled",
    "mbart",
    "pegasus-scaled",
    "marian",
    "m2m100",
    "m2m100-unscaled",
)
STORED = ("float16", "bfloat16", "int16", "int8", "int8_float16")
#: The largest error of a stored weight, as a part of the largest of its row; for int16 of its
#: tensor, and query, key and value are one tensor there.
PRECISION = {"float16": 2**-11, "bfloat16": 2**-8, "int16": 2**-7, "int8": 1 / 250}
LANGUAGE = 7


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a shape to its checkpoint, without what a converter leaves out."""

    def make(shape: str, path: Path) -> None:
        model = make_model(shape)
        if shape == "marian":  # the bias of the pad token, which is never generated
            model.final_logits_bias[0, -1] = 0
        if shape == "mbart":  # a language starts outputs, which a folder does not say
            model.config.decoder_start_token_id = LANGUAGE
        model.save_pretrained(path)

    return made_once(tmp_path_factory.mktemp("checkpoints"), make)


@pytest.fixture(scope="module")
def folder_of(
    tmp_path_factory: pytest.TempPathFactory, saved: Callable[[str], Path]
) -> Callable[[str], Path]:
    """A function from ``SHAPE:QUANTIZATION`` to the folder that CTranslate2 makes of it."""

    def make(name: str, path: Path) -> None:
        shape, _, quantization = name.partition(":")
        convert(saved(shape), path, quantization or "float32", untied=shape in UNTIED)
        if shape == "mbart":
            _edit_config(path, decoder_start_token=f"t{LANGUAGE}")

    return made_once(tmp_path_factory.mktemp("ctranslate2"), make)


def _edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _sources(tokens: int) -> list[list[int]]:
    found = np.random.default_rng(3).integers(8, tokens - 8, (4, 7))
    return [[int(number) for number in row] for row in found]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bundle_is_that_of_the_checkpoint(
    shape: str,
    folder_of: Callable[[str], Path],
    saved: Callable[[str], Path],
    export: Callable[..., ExportResult],
) -> None:
    """Graphs and weights byte for byte, and the same as PyTorch with the tensors that were read."""
    ours = export(folder_of(shape), "ctranslate2", validate=True)
    theirs = export(saved(shape), "transformers")
    graphs = ("encoder.onnx", "decoder.onnx", "weights.bin")
    assert {name: ours.manifest.files[name] for name in graphs} == {
        name: theirs.manifest.files[name] for name in graphs
    }
    assert ours.manifest.family == theirs.manifest.family
    assert ours.manifest.dimensions == theirs.manifest.dimensions
    assert ours.manifest.special_tokens.eos == theirs.manifest.special_tokens.eos
    assert ours.parity is not None


@pytest.mark.parametrize("quantization", STORED)
@pytest.mark.parametrize("shape", ["t5", "marian", "bart"])
def test_stored_weights_are_read_within_their_precision(
    shape: str,
    quantization: str,
    folder_of: Callable[[str], Path],
    saved: Callable[[str], Path],
) -> None:
    with Checkpoint(folder_of(f"{shape}:{quantization}")) as ours, Checkpoint(saved(shape)) as own:
        compared = 0
        for name in own.names - {"final_logits_bias"}:
            exact, read = own.load(name), ours.load(name)
            if exact.ndim == 2 and name.endswith("positions.weight"):
                exact, read = exact[2:], read[2:]  # rows of BART's that nothing reads
            axis = None if quantization == "int16" else -1
            largest = np.abs(exact).max(axis, keepdims=True)
            kind = quantization.partition("_")[0]
            assert (np.abs(read - exact) <= largest * PRECISION[kind] + 1e-30).all(), name
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("quantization", ["float32", "int8", "int16"])
@pytest.mark.parametrize("shape", ["t5-v1.1", "umt5", "bart-scaled", "marian", "m2m100", "mbart"])
def test_the_same_tokens_as_ctranslate2(
    shape: str,
    quantization: str,
    folder_of: Callable[[str], Path],
    export: Callable[..., ExportResult],
) -> None:
    folder, length = folder_of(f"{shape}:{quantization}"), 12
    tokens = json.loads((folder / "shared_vocabulary.json").read_text())
    sources = _sources(len(tokens))
    expected = translate(folder, [[tokens[i] for i in ids] for ids in sources], length)
    bundle = export(folder).path
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        end = model.manifest.special_tokens.eos
        mask = np.ones_like(sources)
        found = model.generate_ids(sources, mask, max_new_tokens=length, forced_eos_token_id=None)
    ids = [[i for i in result.token_ids if i not in end] for result in found]
    assert [[tokens[i] for i in row] for row in ids] == expected


@pytest.mark.parametrize("quantization", ["float32", "int8"])
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_a_model_of_opennmt_gives_the_same_tokens(
    separate: bool, quantization: str, tmp_path: Path, export: Callable[..., ExportResult]
) -> None:
    """What Argos Translate's packages hold; transformers has no class of it but for its parts."""
    sources = ["<unk>", "<blank>", "<s>", "</s>", *(f"s{number}" for number in range(90))]
    outputs = ["<unk>", "<blank>", "<s>", "</s>", *(f"o{number}" for number in range(70))]
    folder = convert_opennmt(
        tmp_path / "model",
        sources,
        outputs if separate else None,
        quantization,
        query_bias=not separate,
    )
    result = export(folder, validate=True)
    assert (result.manifest.family, result.parity is not None) == ("opennmt", True)
    ids = _sources(len(sources))
    expected = translate(folder, [[sources[i] for i in row] for row in ids], 12)
    with Seq2SeqModel.load(result.path, num_threads=1) as model:
        found = model.generate_ids(ids, max_new_tokens=12)
    names = outputs if separate else sources
    assert [[names[i] for i in r.token_ids if i != 3] for r in found] == expected


@pytest.mark.parametrize(
    ("outputs", "pre_norm", "family"),
    [(None, False, "marian"), (70, False, "marian"), (120, False, "marian"), (70, True, "opennmt")],
)
def test_marians_own_models_give_the_same_tokens(
    outputs: int | None,
    pre_norm: bool,
    family: str,
    tmp_path: Path,
    export: Callable[..., ExportResult],
) -> None:
    """They start with zeros, for which transformers has a token that CTranslate2 does not."""
    sources = ["</s>", "<unk>", *(f"s{number}" for number in range(90))]
    names = ["</s>", "<unk>", *(f"o{n}" for n in range(outputs))] if outputs else sources
    folder = convert_marian(tmp_path / "model", sources, outputs and names, pre_norm=pre_norm)
    result = export(folder, validate=True)
    assert (result.manifest.family, result.parity is not None) == (family, True)
    assert result.manifest.special_tokens.decoder_start == len(names)
    ids = [[*row, 0] for row in _sources(len(sources))]
    expected = translate(folder, [[sources[i] for i in row[:-1]] for row in ids], 12)
    with Seq2SeqModel.load(result.path, num_threads=1) as model:
        found = model.generate_ids(ids, max_new_tokens=12, forced_eos_token_id=None)
    assert [[names[i] for i in row.token_ids if i] for row in found] == expected


def test_whisper_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    own = whisper.make_whisper("wide-ffn", tmp_path / "own")
    convert(own, tmp_path / "ctranslate2", tokens=_whisper_tokens())
    for name in ("own", "ctranslate2"):
        export_unvalidated(tmp_path / name, tmp_path / f"{name}.bundle")
    assert _files(tmp_path / "ctranslate2.bundle") == _files(tmp_path / "own.bundle")


@pytest.mark.parametrize("quantization", ["int8", "float16"])
def test_whispers_stored_weights_are_read_within_their_precision(
    quantization: str, tmp_path: Path
) -> None:
    """Its convolutions too, whose scales are of [mels, times] a row."""
    checkpoint = whisper.make_whisper("turbo", tmp_path / "own")
    folder = convert(checkpoint, tmp_path / "model", quantization, tokens=_whisper_tokens())
    with Checkpoint(folder) as ours, Checkpoint(checkpoint) as own:
        assert own.names <= {*ours.names, "proj_out.weight"}
        for name in own.names & ours.names:
            exact, read = (c.load(name).reshape(c.shape(name)[0], -1) for c in (own, ours))
            largest = np.abs(exact).max(-1, keepdims=True)
            assert (np.abs(read - exact) <= largest * PRECISION[quantization] + 1e-30).all(), name
        assert ours.shape("model.encoder.conv1.weight")[1] == 128


def _whisper_tokens() -> list[str]:
    special = ["<|endoftext|>", "<|startoftranscript|>", *whisper.LANGUAGES]
    special += [f"<|{task}|>" for task in whisper.TASKS]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    return [*(f"t{number}" for number in range(whisper.WORDS)), *special]


def _files(bundle: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.iterdir()}


def test_faster_whispers_folder_gives_the_checkpoints_bundle(tmp_path: Path) -> None:
    """Every file, with the manifest: tiny.en as faster-whisper ships it (float16)."""
    for name, folder in (
        ("ctranslate2", real_weights.ctranslate2_folder("tiny.en")),
        ("own", real_weights.hugging_face_folder("tiny.en")),
    ):
        export_checkpoint(folder, tmp_path / f"{name}.bundle", validate=False)
    assert _files(tmp_path / "ctranslate2.bundle") == _files(tmp_path / "own.bundle")
    speech = Bundle.open(tmp_path / "ctranslate2.bundle").manifest.speech
    assert speech is not None and (speech.languages, speech.alignment_heads[0]) == ({}, (1, 0))


def test_a_multilingual_folder_is_read_as_the_checkpoint() -> None:
    with (
        Checkpoint(real_weights.ctranslate2_folder("base")) as ours,
        Checkpoint(real_weights.hugging_face_folder("base")) as own,
    ):
        assert ours.names == own.names
        assert all(np.array_equal(ours.load(name), own.load(name)) for name in own.names)
        version = {"transformers_version": own.generation_config["transformers_version"]}
        assert {**ours.generation_config, **version} == own.generation_config
        assert ours.config.items() <= {**own.config, **ours.config}.items()
        for key in ours.config.keys() & own.config.keys():
            assert ours.config[key] == own.config[key]


def test_the_file_itself_and_its_folder_are_the_same(
    folder_of: Callable[[str], Path], export: Callable[..., ExportResult]
) -> None:
    folder = folder_of("t5")
    by_file = export(folder / "model.bin", "file")
    assert by_file.manifest.files == export(folder, "folder").manifest.files


def test_weights_of_transformers_in_the_same_folder_come_first(
    folder_of: Callable[[str], Path], saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved("t5"), tmp_path / "both"))
    shutil.copy(folder_of("bart") / "model.bin", folder)
    with Checkpoint(folder) as both, Checkpoint(saved("t5")) as own:
        assert both.names == own.names


def _gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 1
    GPT2LMHeadModel(config).save_pretrained(folder / "own")
    return convert(folder / "own", folder / "gpt2", tokens=plain_tokens(config))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon 0.001"),
        ({"layer_norm_epsilon": []}, "layer_norm_epsilon []"),
        ({"quantization_type": 1}, "AWQ"),
        ({"decoder_start_token": None}, "decoder_start_token is null"),
        ({"eos_token": "<end>"}, "eos_token '<end>' is not in the vocabulary"),
    ],
)
def test_what_config_json_says_and_no_family_has_is_refused(
    values: dict[str, object],
    message: str,
    saved: Callable[[str], Path],
    tmp_path: Path,
    refusal: Refusal,
) -> None:
    folder = convert(saved("bart-scaled"), tmp_path / "model")
    _edit_config(folder, **values)
    assert message in refusal(folder)


def test_other_kinds_are_refused_by_name(tmp_path: Path, refusal: Refusal) -> None:
    assert "TransformerDecoderSpec" in refusal(_gpt2(tmp_path))
    tokens = ["<unk>", "<blank>", "<s>", "</s>", *(f"t{number}" for number in range(20))]
    shaw = convert_opennmt(tmp_path / "relative", tokens, max_relative_positions=4)
    assert "relative positions of Shaw et al. 2018" in refusal(shaw)


def test_vocabularies_must_be_there_and_fit(
    saved: Callable[[str], Path], tmp_path: Path, refusal: Refusal
) -> None:
    folder = convert(saved("bart-scaled"), tmp_path / "model")
    file = folder / "shared_vocabulary.json"
    tokens = json.loads(file.read_text())
    file.write_text(json.dumps(tokens[:-1]))
    assert f"has {len(tokens) - 1} tokens, and the model {len(tokens)}" in refusal(folder)
    file.write_text('{"a": 1}')
    assert "is no list of tokens" in refusal(folder)
    file.unlink()
    assert "has no shared_vocabulary.json (or .txt)" in refusal(folder)
    (folder / "config.json").rename(folder / "config.bak")
    assert "has no config.json, which says the model's tokens" in refusal(folder)
    (folder / "config.bak").rename(folder / "config.json")
    # Older folders have lines.
    (folder / "shared_vocabulary.txt").write_text("\n".join(tokens) + "\n")
    with Checkpoint(folder) as checkpoint:
        assert checkpoint.config["eos_token_id"] == tokens.index("</s>")


def test_a_packed_package_says_to_unpack_it(tmp_path: Path, refusal: Refusal) -> None:
    package = tmp_path / "translate-en_es-1_0.argosmodel"
    package.write_bytes(b"PK\3\4")
    assert "unpack it and give its folder" in refusal(package)


def test_no_tokenizer_is_said_and_nothing_else(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        export_checkpoint(folder_of("m2m100"), tmp_path / "bundle")
    assert ["no tokenizer files" in str(warning.message) for warning in told] == [True]


def test_a_hole_in_the_layers_is_refused(
    saved: Callable[[str], Path], tmp_path: Path, refusal: Refusal
) -> None:
    folder = convert(saved("bart-scaled"), tmp_path / "model")
    data = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(data.replace(b"encoder/layer_0/", b"encoder/layer_7/"))
    assert "layers [1, 7] of its encoder" in refusal(folder)


def test_errors_name_the_class(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="binary version 9"):
        data = bytearray((folder_of("t5") / "model.bin").read_bytes())
        data[0] = 9
        (tmp_path / "model.bin").write_bytes(data)
        Checkpoint(tmp_path)
