"""vocab.json and merges.txt (BART, CodeT5) against transformers' RobertaTokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import RobertaTokenizer

from seq2edge.runtime.text.tokenizer import Tokenizer as RuntimeTokenizer

Load = Callable[[Path], RuntimeTokenizer]

SENTINELS = [f"<extra_id_{number}>" for number in range(19, -1, -1)]  # CodeT5's order


def token(content: str, **flags: bool) -> dict[str, Any]:
    """A special token as transformers 4 writes it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {"content": content, **plain, **flags}


#: As in the special_tokens_map.json of BART, RoBERTa and CodeT5.
SPECIAL: dict[str, Any] = {
    "bos_token": token("<s>"),
    "eos_token": token("</s>"),
    "unk_token": token("<unk>"),
    "sep_token": token("</s>"),
    "pad_token": token("<pad>"),
    "cls_token": token("<s>"),
    "mask_token": token("<mask>", lstrip=True),
}


@pytest.fixture
def files(corpus: list[str], tmp_path: Path) -> Path:
    """vocab.json, merges.txt and special_tokens_map.json."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=370,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.model.save(str(folder))
    write(folder, special_tokens_map=SPECIAL)
    return folder


def write(folder: Path, **contents: dict[str, Any]) -> None:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def vocabulary_size(folder: Path) -> int:
    return len(json.loads((folder / "vocab.json").read_text()))


def with_specials(texts: list[str], *tokens: str) -> list[str]:
    """The texts, and between their words special tokens with and without spaces around."""
    parts = [f"{text}{tokens[i % len(tokens)]} {text[:4]}" for i, text in enumerate(texts)]
    return [*texts, *parts, *(f"a  {t}  b{t}{t}\n{t}c" for t in tokens)]


def assert_same(ours: RuntimeTokenizer, reference: RobertaTokenizer, texts: list[str]) -> None:
    expected = [reference(text)["input_ids"] for text in texts]
    assert [ours.encode(text) for text in texts] == expected
    assert [ours.decode(ids) for ids in expected] == [
        reference.decode(ids, skip_special_tokens=True) for ids in expected
    ]


@pytest.mark.parametrize("prefix", [False, True])
def test_barts_files_give_the_ids_and_texts_of_transformers(
    prefix: bool, files: Path, mixed_texts: list[str], bundle_tokenizer: Load
) -> None:
    write(files, tokenizer_config={"add_prefix_space": prefix})
    texts = with_specials(mixed_texts, "<s>", "</s>", "<pad>", "<unk>", "<mask>")
    assert_same(bundle_tokenizer(files), RobertaTokenizer.from_pretrained(files), texts)


def test_the_two_files_alone_give_the_ids_of_transformers(
    files: Path, mixed_texts: list[str], bundle_tokenizer: Load
) -> None:
    (files / "special_tokens_map.json").unlink()
    texts = with_specials(mixed_texts, "<s>", "</s>", "<pad>", "<unk>")
    assert_same(bundle_tokenizer(files), RobertaTokenizer.from_pretrained(files), texts)


@pytest.mark.parametrize("listed", [SENTINELS, SENTINELS[::-1]], ids=["by id", "by number"])
def test_codet5s_sentinels_have_the_ids_of_added_tokens_json(
    listed: list[str], files: Path, mixed_texts: list[str], bundle_tokenizer: Load
) -> None:
    """The ids are those of added_tokens.json, in whatever order the names are listed."""
    first = vocabulary_size(files)
    added = {name: first + number for number, name in enumerate(SENTINELS)}
    write(
        files,
        added_tokens=added,
        tokenizer_config={
            "tokenizer_class": "RobertaTokenizer",
            "additional_special_tokens": listed,
        },
    )
    ours, reference = bundle_tokenizer(files), RobertaTokenizer.from_pretrained(files)
    found = {name: ours.encode(name)[1] for name in added}
    assert found == added
    assert_same(ours, reference, with_specials(mixed_texts, "<mask>", "</s>", *SENTINELS))


def test_sentinels_that_only_the_settings_name_come_after_the_vocabulary(
    files: Path, mixed_texts: list[str], bundle_tokenizer: Load
) -> None:
    write(files, tokenizer_config={"additional_special_tokens": SENTINELS})
    ours, reference = bundle_tokenizer(files), RobertaTokenizer.from_pretrained(files)
    assert ours.encode(SENTINELS[0])[1] == vocabulary_size(files)
    assert_same(ours, reference, with_specials(mixed_texts, *SENTINELS))


def test_added_words_that_are_not_special_are_decoded(
    files: Path, mixed_texts: list[str], bundle_tokenizer: Load
) -> None:
    first = vocabulary_size(files)
    write(files, added_tokens={"def_function": first, "cat": first + 1})
    ours, reference = bundle_tokenizer(files), RobertaTokenizer.from_pretrained(files)
    assert ours.decode(ours.encode("a def_function b")) == "a def_function b"
    assert_same(ours, reference, with_specials(mixed_texts, "def_function", "cat"))


def test_additional_special_tokens_of_null_are_none(
    files: Path, mixed_texts: list[str], bundle_tokenizer: Load
) -> None:
    """transformers 4 wrote null for what was not set."""
    write(files, tokenizer_config={"additional_special_tokens": None})
    assert_same(bundle_tokenizer(files), RobertaTokenizer.from_pretrained(files), mixed_texts)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("vocab.json", b"{"),
        ("vocab.json", b"[1]"),
        ("vocab.json", b'{"a": 0}'),
        ("merges.txt", b"#version: 0.2\nno-pair\n"),
        ("merges.txt", b"#version: 0.2\nqq zz\n"),
        ("merges.txt", b"\xff\xfe"),
        ("special_tokens_map.json", b"{"),
        ("added_tokens.json", b"[]"),
        ("added_tokens.json", b'{"x": "y", "z": 1}'),
    ],
)
def test_damaged_files_are_refused(
    name: str,
    data: bytes,
    files: Path,
    checkpoint_of: Callable[[str], Path],
    refusal: Callable[..., str],
) -> None:
    for file in checkpoint_of("bart").iterdir():
        (files / file.name).symlink_to(file)
    (files / name).write_bytes(data)
    assert str(files) in refusal(files)
