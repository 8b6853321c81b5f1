"""Texts through bundles of CTranslate2's folders.

The references are SentencePiece and CTranslate2, as the programs use them that ship such folders,
and the tokenizer that the checkpoint's own files give.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

from seq2edge.export import CheckpointError, ExportResult, export_checkpoint
from seq2edge.export.tokenizers import find_tokenizer
from seq2edge.runtime import Seq2SeqModel
from seq2edge.runtime.text.tokenizer import JsonTokenizer, Tokenizer

from ..conftest import make_model
from ..ctranslate2_folders import convert, convert_opennmt, translate
from .test_tokenizers_pieces import pieces_of, train

OPENNMT = ["<unk>", "<blank>", "<s>", "</s>"]
PREFIX = "__es__"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, corpus: list[str]) -> Path:
    """An unpacked package of Argos Translate, whose vocabulary lacks pieces, as real ones do."""
    folder = tmp_path_factory.mktemp("argos") / "translate-en_es-1_9"
    folder.mkdir()
    pieces = train(corpus, model_type="unigram")
    (folder / "sentencepiece.model").write_bytes(pieces)
    (folder / "metadata.json").write_text('{"from_code": "en", "to_code": "es"}')
    (folder / "stanza").mkdir()
    convert_opennmt(folder / "model", [*OPENNMT, *pieces_of(pieces)[1][3:-6], PREFIX])
    return folder


def _edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_package_of_argos_translate_answers_as_there(
    package: Path, corpus: list[str], mixed_texts: list[str]
) -> None:
    cut = sentencepiece.SentencePieceProcessor(model_file=str(package / "sentencepiece.model"))
    texts = [*corpus[:6], *(text for text in mixed_texts[:30] if cut.encode(text))]
    expected = translate(package / "model", cut.encode(texts, out_type=str), 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle = export_checkpoint(package, package.parent / "bundle", validate=False).path
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        assert model.tokenizer is not None
        vocabulary = json.loads((package / "model" / "shared_vocabulary.json").read_text())
        known = {token: number for number, token in enumerate(vocabulary)}
        for text in texts:
            pieces = cut.encode(text, out_type=str)
            assert model.tokenizer.encode(text) == [known.get(piece, 0) for piece in pieces]
        found = [model.generate(text, max_new_tokens=12)[0] for text in texts]
    special = {"<unk>", *OPENNMT, PREFIX}
    plain = [[token for token in row if token not in special] for row in expected]
    assert [result.text for result in found] == [cut.decode_pieces(row) for row in plain]


def test_the_first_token_that_a_package_names_is_forced(
    package: Path, corpus: list[str], tmp_path: Path
) -> None:
    target = tmp_path / "package"
    target.mkdir()
    for file in package.iterdir():
        (target / file.name).symlink_to(file)
    (target / "metadata.json").unlink()
    (target / "metadata.json").write_text(json.dumps({"target_prefix": PREFIX}))
    # The link's own folder above is another package: its files are what is read.
    (target / "model").unlink()
    (target / "model").mkdir()
    for file in (package / "model").iterdir():
        (target / "model" / file.name).symlink_to(file)
    cut = sentencepiece.SentencePieceProcessor(model_file=str(package / "sentencepiece.model"))
    sources = cut.encode(corpus[:4], out_type=str)
    expected = translate(target / "model", sources, 12, target_prefix=[[PREFIX]] * 4)
    bundle = export_checkpoint(target, tmp_path / "bundle", validate=False).path
    tokens = json.loads((package / "model" / "shared_vocabulary.json").read_text())
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        found = [model.generate(text, max_new_tokens=12)[0] for text in corpus[:4]]
    names = [[tokens[i] for i in result.token_ids if i != 3] for result in found]
    assert [row[:12] for row in expected] == names
    assert not any(PREFIX in result.text for result in found)
    _edit_json(target / "metadata.json", target_prefix="__fr__")
    with pytest.raises(CheckpointError, match="target_prefix '__fr__' is not in the vocabulary"):
        export_checkpoint(target, tmp_path / "other", validate=False)


def test_moses_scripts_are_named(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "package"
    (target / "model").mkdir(parents=True)
    for file in (package / "model").iterdir():
        (target / "model" / file.name).symlink_to(file)
    (target / "metadata.json").write_text("{}")
    (target / "bpe.model").write_text("#version: 0.2\n")
    with (
        pytest.warns(UserWarning, match=r"bpe\.model needs the scripts of Moses"),
        pytest.warns(UserWarning, match="no tokenizer files"),
    ):
        bundle = export_checkpoint(target, tmp_path / "bundle", validate=False)
    assert bundle.manifest.tokenizer.kind == "none"


def test_marian_reads_texts_as_the_checkpoint_does(
    tmp_path: Path, corpus: list[str], mixed_texts: list[str], export: Callable[..., ExportResult]
) -> None:
    """Its vocabulary, which CTranslate2 has instead of vocab.json, lacks the pad token."""
    own, folder = tmp_path / "own", tmp_path / "ctranslate2"
    model = make_model("marian")
    model.save_pretrained(own)
    source = train([line.split(" ", 3)[3] for line in corpus[:150]], vocab_size=120)
    target = train([line.upper() for line in corpus[150:]], vocab_size=120)
    known = sorted({*pieces_of(source)[1][3:-6], *pieces_of(target)[1][3:]})
    tokens = ["</s>", "<unk>", ">>fra<<", ">>deu<<", *known]
    tokens += [f"t{number}" for number in range(len(tokens), model.config.vocab_size - 1)]
    tokens.append("<pad>")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    config = json.loads((own / "config.json").read_text()) | {"eos_token_id": 0}
    (own / "config.json").write_text(json.dumps(config))
    (own / "vocab.json").write_text(json.dumps(vocabulary))
    convert(own, folder, tokens=tokens)
    for place in (own, folder):
        (place / "source.spm").write_bytes(source)
        (place / "target.spm").write_bytes(target)
    expected, found = (_tokenizers(export(place, place.name).path) for place in (own, folder))
    texts = [*mixed_texts, *corpus[:20], ">>fra<< the cat"]
    for theirs, ours in zip(expected, found, strict=True):
        assert [ours.encode(text) for text in texts] == [theirs.encode(text) for text in texts]
        rows = [theirs.encode(text) for text in texts]
        assert [ours.decode(row) for row in rows] == [theirs.decode(row) for row in rows]
    with Seq2SeqModel.load(tmp_path / "bundles" / "ctranslate2", num_threads=1) as loaded:
        assert loaded.generate("the cat sat", target_lang="fra", max_new_tokens=4)
        languages = loaded.manifest.tokenizer.languages
        assert languages is not None and languages.codes == {"fra": 2, "deu": 3}


def _tokenizers(bundle: Path) -> tuple[Tokenizer, Tokenizer]:
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        assert model.tokenizer is not None and model.target_tokenizer is not None
        return model.tokenizer, model.target_tokenizer


@pytest.mark.parametrize("kind", ["t5", "pegasus", "mbart", "bart"])
def test_the_files_of_a_checkpoint_are_read_beside_ctranslate2s_config(
    kind: str, tmp_path: Path, corpus: list[str], mixed_texts: list[str]
) -> None:
    """Its config.json does not say the model's kind, by which they are read."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} if kind != "mbart" else {}
    name = "sentencepiece.bpe.model" if kind == "mbart" else "spiece.model"
    if kind == "bart":
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "\u0120", *"abcdefghijklmnopqrstuvwxyz", "th"]
        (tmp_path / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(tokens)}))
        (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\n")
    else:
        (tmp_path / name).write_bytes(train(corpus, **ids))
    data = []
    for config in ({"model_type": kind}, {"unk_token": "<unk>", "add_source_eos": False}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        found = find_tokenizer(tmp_path, {"model_type": kind})
        assert found is not None
        data.append(found.data)
    assert data[0] == data[1]
    encode = JsonTokenizer(data[0] or b"").encode
    assert len({tuple(encode(text)) for text in mixed_texts}) > 20


def test_m2m100_and_nllb_are_told_apart_by_their_tokens(
    tmp_path: Path, corpus: list[str], mixed_texts: list[str]
) -> None:
    """M2M100's vocab.json is what CTranslate2 lists; NLLB's ids follow from its pieces."""
    pieces = train(corpus)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(pieces)
    config = {"model_type": "m2m_100"}
    nllb = find_tokenizer(tmp_path, config)
    assert nllb is not None and nllb.info.languages is not None
    assert "eng_Latn" in nllb.info.languages.codes
    plain = ["<s>", "<pad>", "</s>", "<unk>", *pieces_of(pieces)[1][3:]]
    languages = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    listed = [*plain, *languages, *(f"madeupword{number}" for number in range(8))]
    (tmp_path / "shared_vocabulary.json").write_text(json.dumps(listed))
    ours = find_tokenizer(tmp_path, config)
    (tmp_path / "vocab.json").write_text(json.dumps({t: n for n, t in enumerate(plain)}))
    (tmp_path / "shared_vocabulary.json").unlink()
    own = find_tokenizer(tmp_path, config)
    assert ours is not None and own is not None
    assert ours.data is not None and own.data is not None
    texts = [*mixed_texts, *corpus[:20]]
    encode, expected = (JsonTokenizer(found.data or b"").encode for found in (ours, own))
    assert [encode(text) for text in texts] == [expected(text) for text in texts]
    assert ours.info.languages == own.info.languages


def test_mbart_50_is_told_from_mbart_by_its_languages(tmp_path: Path, corpus: list[str]) -> None:
    (tmp_path / "sentencepiece.bpe.model").write_bytes(train(corpus))
    for languages, target in ((["en_XX"], "decoder_start"), (["en_XX", "gl_ES"], "forced_bos")):
        (tmp_path / "shared_vocabulary.json").write_text(json.dumps(["<s>", *languages]))
        found = find_tokenizer(tmp_path, {"model_type": "mbart"})
        assert found is not None and found.info.languages is not None
        assert found.info.languages.target == target


def test_a_tokenizer_with_other_ids_is_refused(
    package: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    from tokenizers import Tokenizer as Words
    from tokenizers import models

    folder = tmp_path / "model"
    folder.mkdir()
    for file in (package / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokens = json.loads((folder / "shared_vocabulary.json").read_text())
    right = {token: number for number, token in enumerate(tokens)}
    swapped = right | {tokens[9]: 10, tokens[10]: 9}
    for ids, is_right in ((right, True), (swapped, False)):
        Words(models.WordLevel(ids, "<unk>")).save(str(folder / "tokenizer.json"))
        if is_right:
            export_checkpoint(folder, tmp_path / "bundle", validate=False)
        else:
            assert f"{tokens[9]!r} is token 9 of the model's vocabulary" in refusal(folder)
