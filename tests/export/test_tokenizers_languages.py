"""Languages that fine-tuning added, in files as transformers saves them, against transformers."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from tokenizers import AddedToken
from transformers.utils import logging

from seq2edge.export import ExportResult
from seq2edge.runtime import InputError, Seq2SeqModel

Export = Callable[..., ExportResult]

#: By class: a shape, and a token that is to be added.
ADDED = [
    ("MBartTokenizer", "mbart", "qu_PE"),
    ("MBartTokenizer", "mbart", "quz"),
    ("MBart50Tokenizer", "mbart", "qu_PE"),
    ("MBart50Tokenizer", "mbart", "quz_PE"),
    ("NllbTokenizer", "m2m100", "tyv_Cyrl"),
    ("NllbTokenizer", "m2m100", "nav"),
    ("NllbTokenizer", "m2m100", "my-own language"),
    ("PLBartTokenizer", "plbart", "__kotlin__"),
    ("M2M100Tokenizer", "m2m100", "__quz__"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    logging.set_verbosity_error()
    made = tmp_path / "files"
    made.mkdir()
    return made


def write_pieces(folder: Path, kind: str, corpus: list[str]) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        minloglevel=2,
        vocab_size=110,
        hard_vocab_limit=False,
        model_type="bpe" if kind in ("NllbTokenizer", "M2M100Tokenizer") else "unigram",
    )
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    if kind == "M2M100Tokenizer":
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        tokens = ["<s>", "<pad>", "</s>", "<unk>"]
        tokens += [processor.id_to_piece(number) for number in range(3, len(processor))]
        ids = {text: number for number, text in enumerate(tokens)}
        (folder / "vocab.json").write_text(json.dumps(ids))


@contextmanager
def exported(
    shape: str, files: Path, editable: Callable[..., Path], export: Export
) -> Iterator[Seq2SeqModel]:
    """The model of a checkpoint of that shape with these tokenizer files."""
    checkpoint = editable(shape)
    for file in files.iterdir():
        (checkpoint / file.name).write_bytes(file.read_bytes())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the model only")
        path = export(checkpoint).path
    with Seq2SeqModel.load(path) as model:
        yield model


def sources(model: Seq2SeqModel, text: str, **languages: str) -> list[int]:
    return model.tokenize([text], replace(model.generation_config, **languages))[0]


@pytest.mark.parametrize(("kind", "shape", "code"), ADDED)
@pytest.mark.parametrize("saved", ["tokenizer.json", "files"])
def test_a_language_that_was_added_is_one_whatever_it_looks_like(
    saved: str,
    kind: str,
    shape: str,
    code: str,
    corpus: list[str],
    folder: Path,
    tmp_path: Path,
    editable: Callable[..., Path],
    export: Export,
) -> None:
    write_pieces(folder, kind, corpus)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    reference: Any = getattr(transformers, kind).from_pretrained(folder)
    reference.add_tokens([AddedToken(code, special=True, normalized=False)], special_tokens=True)
    number = reference.convert_tokens_to_ids(code)
    name = code.strip("_")
    if saved == "tokenizer.json":
        folder = tmp_path / "saved"
        reference.save_pretrained(folder)
    elif kind == "NllbTokenizer":
        # transformers 5 gives languages other ids than the checkpoints have: after them and <mask>.
        number = len(sentencepiece.SentencePieceProcessor(
            model_file=str(folder / "sentencepiece.bpe.model")
        )) + 1 + 202 + 1  # fmt: skip
        (folder / "added_tokens.json").write_text(json.dumps({code: number}))
        listed = {"additional_special_tokens": [code]}
        (folder / "special_tokens_map.json").write_text(json.dumps(listed))
    else:
        (folder / "added_tokens.json").write_text(json.dumps({code: number}))
        listed = {"additional_special_tokens": [code]}
        (folder / "special_tokens_map.json").write_text(json.dumps(listed))
    with exported(shape, folder, editable, export) as model:
        languages = model.manifest.tokenizer.languages
        assert languages is not None
        assert languages.codes[name] == number
        assert not {"<mask>", "<s>", "</s>", "<unk>", "<pad>"} & set(languages.codes)
        plain = model.tokenizer.encode("hello world", special_tokens=False)  # type: ignore[union-attr]
        found = sources(model, "hello world", source_lang=name)
        at_start = kind in ("MBart50Tokenizer", "NllbTokenizer", "M2M100Tokenizer")
        assert found == ([number, *plain, 2] if at_start else [*plain, 2, number])
        if kind in ("MBart50Tokenizer", "NllbTokenizer") and saved == "tokenizer.json":
            reference.src_lang = code
            assert found == reference("hello world")["input_ids"]


def nllb(corpus: list[str], folder: Path) -> None:
    write_pieces(folder, "NllbTokenizer", corpus)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NllbTokenizer"}))


def test_any_other_token_can_be_named(
    corpus: list[str], folder: Path, editable: Callable[..., Path], export: Export
) -> None:
    """As with ``convert_tokens_to_ids`` of transformers; marks are not offered."""
    nllb(corpus, folder)
    (folder / "added_tokens.json").write_text(json.dumps({"plain-word": 330}))
    with exported("m2m100", folder, editable, export) as model:
        languages, tokenizer = model.manifest.tokenizer.languages, model.tokenizer
        assert languages is not None and tokenizer is not None
        assert "plain-word" not in languages.codes  # not special
        for code in ("plain-word", "<mask>"):
            number = tokenizer.token_id(code)
            assert sources(model, "hello", source_lang=code, target_lang=code)[0] == number
        config = replace(model.generation_config, target_lang="plain-word", max_new_tokens=2)
        assert model.generate("hello", config)[0].token_ids[0] == 330


def test_a_piece_of_ordinary_words_is_taken_with_a_warning(
    corpus: list[str], folder: Path, editable: Callable[..., Path], export: Export
) -> None:
    nllb(corpus, folder)
    with exported("m2m100", folder, editable, export) as model:
        assert model.tokenizer is not None
        with pytest.warns(
            UserWarning, match=r"source_lang='▁the' is none of the model's 202.*piece"
        ):
            found = sources(model, "hello", source_lang="▁the")
        assert found[0] == model.tokenizer.token_id("▁the")


@pytest.mark.parametrize(("code", "nearest"), [("fr_Latn", "fra_Latn"), ("xx", "xho_Latn")])
def test_what_is_no_token_is_refused_with_the_nearest(
    code: str,
    nearest: str,
    corpus: list[str],
    folder: Path,
    editable: Callable[..., Path],
    export: Export,
) -> None:
    nllb(corpus, folder)
    with (
        exported("m2m100", folder, editable, export) as model,
        pytest.raises(InputError, match=f"'{code}' is none of the model's 202 .*") as caught,
    ):
        sources(model, "hello", source_lang=code)
    if code == "fr_Latn":
        assert nearest in str(caught.value)


@pytest.mark.parametrize("separate", [False, True])
def test_a_marian_language_that_was_added_is_one(
    separate: bool,
    corpus: list[str],
    folder: Path,
    editable: Callable[..., Path],
    export: Export,
) -> None:
    write_pieces(folder, "MarianTokenizer", corpus)
    model_file = (folder / "sentencepiece.bpe.model").rename(folder / "source.spm")
    (folder / "target.spm").write_bytes(model_file.read_bytes())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    known = [processor.id_to_piece(number) for number in range(3, len(processor))]
    ids = {t: n for n, t in enumerate(["</s>", "<unk>", ">>fra<<", *known, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "target_vocab.json").write_text(json.dumps(ids))
    (folder / "added_tokens.json").write_text(json.dumps({">>nav<<": len(ids)}))
    settings = {"tokenizer_class": "MarianTokenizer", "separate_vocabs": separate}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    reference = transformers.MarianTokenizer.from_pretrained(folder)
    with exported("marian", folder, editable, export) as model:
        for code in ("fra", "nav"):
            found = sources(model, "hello world", target_lang=code)
            assert found == reference(f">>{code}<< hello world")["input_ids"]
