"""vocab.txt, GPT-2's vocab.json and merges.txt, and pairs with two tokenizers."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer

from seq2edge.cli import encode
from seq2edge.export import export_checkpoint
from seq2edge.export.tokenizers import find_tokenizer
from seq2edge.runtime import EncoderModel, InputError, Seq2SeqModel
from seq2edge.runtime.bundle.manifest import FORMAT_VERSION
from seq2edge.runtime.text.tokenizer import JsonTokenizer

PathOf = Callable[[str], Path]
TEXTS = [
    "Héllo, the WORLD!",
    "  a cat's  tail ",
    "naïve 東京 [MASK] x",
    "unseen: \u0416",
    "it isn't",
]
CORPUS = ["the cat sat on the mat", "hello world, a tail of cats", "naive it is not", "東京"] * 3


def tokens_of(folder: Path) -> JsonTokenizer:
    found = find_tokenizer(folder)
    assert found is not None
    assert found.data is not None
    return JsonTokenizer(found.data)


def write_wordpiece(folder: Path, **settings: object) -> Path:
    """A vocab.txt as Google's BERT has it."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"abcdefghijklmnopqrstuvwxyzéH,!':", "東", "京"]
    words = ["hello", "the", "world", "cat", "tail", "Hé", "na", "##ive", "##s"]
    lines = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", **settings})
    )
    return folder


def write_gpt2(folder: Path, **settings: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=309,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(CORPUS, trainer)
    trained.model.save(str(folder))
    known = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    known["<|endoftext|>"] = len(known)
    (folder / "vocab.json").write_text(json.dumps(known), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
    ],
)
def test_a_vocab_txt_gives_the_tokens_of_transformers(
    settings: dict[str, bool], tmp_path: Path
) -> None:
    folder = write_wordpiece(tmp_path, **settings)
    theirs, ours = BertTokenizer.from_pretrained(folder), tokens_of(folder)
    encoded = [theirs(text).input_ids for text in TEXTS]
    assert [ours.encode(text) for text in TEXTS] == encoded
    assert any(2 in row for row in encoded)  # one word is unknown
    for row in encoded:
        assert ours.decode(row) == theirs.decode(row, skip_special_tokens=True)


@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}])
@pytest.mark.parametrize("named", [True, False])
def test_gpt2_files_give_the_tokens_of_transformers(
    settings: dict[str, bool], named: bool, tmp_path: Path
) -> None:
    named_settings = {"tokenizer_class": "GPT2Tokenizer"} if named else {}
    folder = write_gpt2(tmp_path, **settings, **named_settings)
    theirs, ours = GPT2Tokenizer.from_pretrained(folder, **settings), tokens_of(folder)
    texts = [*TEXTS, "a<|endoftext|>b"]
    encoded = [theirs(text).input_ids for text in texts]
    assert [ours.encode(text) for text in texts] == encoded
    assert [ours.decode(row) for row in encoded] == [
        theirs.decode(row, skip_special_tokens=True) for row in encoded
    ]


def test_a_pair_reads_with_one_tokenizer_and_writes_with_the_other(
    pair_checkpoint_of: PathOf, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(pair_checkpoint_of("bert-gpt2-narrow"), folder)
    write_wordpiece(folder / "encoder")
    write_gpt2(folder / "decoder")
    result = export_checkpoint(folder, tmp_path / "bundle", validate=False)
    assert result.manifest.format_version == FORMAT_VERSION
    source = BertTokenizer.from_pretrained(folder / "encoder")
    target = AutoTokenizer.from_pretrained(folder / "decoder", tokenizer_type="gpt2")
    with Seq2SeqModel.load(result.path) as model:
        config = replace(model.generation_config, max_new_tokens=12)
        found = model.generate("the cat", config)[0]
        by_ids = model.generate_ids([source("the cat").input_ids], None, config)[0]
        pieces = list(model.stream("the cat", config))
    assert found.token_ids == by_ids.token_ids
    assert found.text == target.decode(found.token_ids, skip_special_tokens=True)
    assert "".join(pieces) == found.text


def test_one_tokenizer_for_two_vocabularies_is_not_taken(
    pair_checkpoint_of: PathOf, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(pair_checkpoint_of("bert-gpt2-narrow"), folder)
    write_wordpiece(folder)
    with pytest.warns(UserWarning, match="one tokenizer for two vocabularies"):
        result = export_checkpoint(folder, tmp_path / "bundle", validate=False)
    assert result.manifest.tokenizer.kind == "none"


def test_the_command_prints_a_vector_a_line(
    pair_checkpoint_of: PathOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pair_checkpoint_of("bert"), tmp_path / "checkpoint")
    write_wordpiece(tmp_path / "checkpoint")
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", validate=False)
    lines = tmp_path / "texts.txt"
    lines.write_text("the cat\nhello world\n")
    parser = argparse.ArgumentParser()
    encode.add_arguments(parser)
    arguments = [str(tmp_path / "bundle"), "--input", str(lines), "--pooling", "first"]
    assert encode.run(parser.parse_args(arguments)) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with EncoderModel.load(tmp_path / "bundle") as model:
        vectors = model.encode(["the cat", "hello world"], pooling="first")
        with pytest.raises(InputError, match="text 2 is empty"):
            model.encode(["a", " "])
        with pytest.raises(InputError, match="pooling must be"):
            model.encode(["a"], pooling="max")
    assert [row["source"] for row in found] == ["the cat", "hello world"]
    assert np.array_equal(np.array([row["vector"] for row in found], np.float32), vectors)


def test_texts_go_through_an_encoder_and_a_decoder_alone(
    pair_checkpoint_of: PathOf, tmp_path: Path
) -> None:
    for shape, write in (("bert", write_wordpiece), ("gpt2", write_gpt2)):
        shutil.copytree(pair_checkpoint_of(shape), tmp_path / shape)
        write(tmp_path / shape)
        export_checkpoint(tmp_path / shape, tmp_path / f"{shape}.bundle", validate=False)
    with EncoderModel.load(tmp_path / "bert.bundle") as encoder:
        tokens = BertTokenizer.from_pretrained(tmp_path / "bert")
        states = encoder.encode(["the cat", "a"], pooling=None)
        assert states.shape[:2] == (2, 4)
        assert not states[1, 3].any()
        alone = encoder.encode_ids([tokens("a").input_ids], pooling="mean")[0]
        assert abs(encoder.encode("a")[0] - alone).max() < 1e-5
    with Seq2SeqModel.load(tmp_path / "gpt2.bundle") as decoder:
        texts, config = ["the cat", "a", "hello world"], decoder.generation_config
        config = replace(config, max_new_tokens=10)
        found = decoder.generate(texts, config)
        assert [row.text for row in found] == [decoder.generate(t, config)[0].text for t in texts]
        assert "".join(decoder.stream("the cat", config)) == found[0].text
        assert not found[0].text.startswith("the cat")
