"""A checkpoint's tokenizer.json, damaged tokenizer files, and no tokenizer at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from seq2edge.export import CheckpointError, ExportResult, export_checkpoint
from seq2edge.runtime import Bundle, InputError, Seq2SeqModel
from seq2edge.runtime.text.tokenizer import Tokenizer as RuntimeTokenizer

Editable = Callable[..., Path]
Export = Callable[..., ExportResult]
Refusal = Callable[..., str]

SPECIAL = ["<pad>", "</s>", "<unk>"]


def byte_level_bpe(corpus: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def unigram(corpus: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


@pytest.fixture(params=[byte_level_bpe, unigram], ids=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest, corpus: list[str]) -> Tokenizer:
    """A tokenizer that ends each text with ``</s>``."""
    made: Tokenizer = request.param(corpus)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", made.token_to_id("</s>"))]
    )
    return made


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    return folder


def test_tokenizer_json_gives_the_ids_and_texts_of_transformers(
    tokenizer: Tokenizer,
    files: Path,
    mixed_texts: list[str],
    bundle_tokenizer: Callable[[Path], RuntimeTokenizer],
) -> None:
    tokenizer.save(str(files / "tokenizer.json"))
    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(files / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    ours = bundle_tokenizer(files)
    expected = [reference(text)["input_ids"] for text in mixed_texts]
    assert [ours.encode(text) for text in mixed_texts] == expected
    assert [ours.decode(ids) for ids in expected] == [
        reference.decode(ids, skip_special_tokens=True) for ids in expected
    ]


def test_truncation_and_padding_in_the_file_are_switched_off(
    tokenizer: Tokenizer,
    files: Path,
    mixed_texts: list[str],
    bundle_tokenizer: Callable[[Path], RuntimeTokenizer],
    tmp_path: Path,
) -> None:
    expected = [tokenizer.encode(text).ids for text in mixed_texts]
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=30, pad_id=0, pad_token="<pad>")
    assert [tokenizer.encode(text).ids for text in mixed_texts] != expected
    tokenizer.save(str(files / "tokenizer.json"))
    ours = bundle_tokenizer(files)
    assert [ours.encode(text) for text in mixed_texts] == expected
    written = json.loads((tmp_path / "bundles" / files.name / "tokenizer.json").read_text())
    assert written["truncation"] is None
    assert written["padding"] is None


def test_text_goes_in_and_comes_out(corpus: list[str], editable: Editable, export: Export) -> None:
    checkpoint = editable("bart")
    made = byte_level_bpe(corpus)
    made.save(str(checkpoint / "tokenizer.json"))
    with Seq2SeqModel.load(export(checkpoint).path) as model:
        found = model.generate("the cat sat", max_new_tokens=8)[0]
        ids = model.generate_ids([made.encode("the cat sat").ids], max_new_tokens=8)[0]
    assert found.token_ids == ids.token_ids
    assert found.text == made.decode(ids.token_ids, skip_special_tokens=True)


def test_more_tokens_than_the_model_has_are_warned_about(
    corpus: list[str], editable: Editable, export: Export
) -> None:
    checkpoint = editable("t5")  # 384 tokens
    made = byte_level_bpe(corpus)
    made.add_tokens([f"<new_{number}>" for number in range(20)])
    made.save(str(checkpoint / "tokenizer.json"))
    with pytest.warns(UserWarning, match=rf"has {made.get_vocab_size()} tokens.*only 384"):
        export(checkpoint)


def damaged(corpus: list[str], kind: str) -> dict[str, bytes]:
    """Files of one kind of damage; RoBERTa's and SentencePiece's have tests of their own."""
    good = byte_level_bpe(corpus).to_str()
    return {
        "empty": {"tokenizer.json": b""},
        "not JSON": {"tokenizer.json": b"\x00\x01\x02"},
        "truncated": {"tokenizer.json": good.encode()[: len(good) // 2]},
        "a token twice": {
            "tokenizer.json": good.replace('"vocab":{', '"vocab":{"a":0,', 1).encode()
        },
        "another JSON": {"tokenizer.json": b'{"a": 1}'},
        "a model of no known type": {"tokenizer.json": good.replace('"BPE"', '"XYZ"').encode()},
        "broken settings": {"tokenizer.json": good.encode(), "tokenizer_config.json": b"{"},
        "settings no object": {"tokenizer.json": good.encode(), "tokenizer_config.json": b"[]"},
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "not JSON",
        "truncated",
        "another JSON",
        "a token twice",
        "a model of no known type",
        "broken settings",
        "settings no object",
    ],
)
def test_damaged_tokenizer_files_are_refused(
    kind: str, corpus: list[str], editable: Editable, refusal: Refusal
) -> None:
    checkpoint = editable("bart")
    for name, data in damaged(corpus, kind).items():
        (checkpoint / name).write_bytes(data)
    assert str(checkpoint) in refusal(checkpoint)


def test_without_tokenizer_files_the_bundle_takes_ids_and_says_so(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"no tokenizer files.*generate_ids"):
        export_checkpoint(checkpoint_of("bart"), tmp_path / "bundle", validate=False)
    assert Bundle.open(tmp_path / "bundle").manifest.tokenizer.kind == "none"
    with Seq2SeqModel.load(tmp_path / "bundle") as model:
        assert model.tokenizer is None
        with pytest.raises(InputError, match=r"has no tokenizer.*generate_ids"):
            model.generate("the cat")
        found = model.generate_ids([[5, 6, 7, 2]], max_new_tokens=4)[0]
    assert len(found.token_ids) == 4
    assert found.text is None


def test_an_id_that_no_vocabulary_has() -> None:
    """Fault: the library aborted the process when it wrote such a file."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    from seq2edge.export.tokenizers.serialized import serialized

    with pytest.raises(CheckpointError, match="gives 'b' the id 2147483648"):
        serialized(Tokenizer(WordLevel({"a": 0, "b": 2**31}, unk_token="a")))
    assert json.loads(serialized(Tokenizer(WordLevel({"a": 0}, unk_token="a"))))
