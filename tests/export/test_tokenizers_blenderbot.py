"""vocab.json and merges.txt of Blenderbot and Blenderbot-small against transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BlenderbotSmallTokenizer, BlenderbotTokenizer

from seq2edge.runtime.text.tokenizer import Tokenizer as RuntimeTokenizer

Load = Callable[[Path], RuntimeTokenizer]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    return folder


def write_class(folder: Path, name: str) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))


def test_blenderbots_files_give_the_ids_and_texts_of_transformers(
    corpus: list[str], files: Path, mixed_texts: list[str], bundle_tokenizer: Load
) -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=370,
        special_tokens=["<pad>", "<s>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(corpus, trainer)
    made.model.save(str(files))
    write_class(files, "BlenderbotTokenizer")
    reference, ours = BlenderbotTokenizer.from_pretrained(files), bundle_tokenizer(files)
    texts = [*mixed_texts, *(f"{text}</s> <s>{text[:4]}" for text in mixed_texts[:20])]
    # transformers 5 forgets the </s> that its documentation shows and version 4 puts.
    expected = [[*reference(text, add_special_tokens=False)["input_ids"], 2] for text in texts]
    assert [ours.encode(text) for text in texts] == expected
    assert [ours.decode(ids) for ids in expected] == [
        reference.decode(ids, skip_special_tokens=True) for ids in expected
    ]


def small_files(folder: Path, corpus: list[str]) -> None:
    """A vocabulary that lacks some pieces of the merges, as the published one does."""
    made = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=150, end_of_word_suffix="</w>", show_progress=False)
    made.train_from_iterator(corpus, trainer)
    made.model.save(str(folder))
    file = folder / "vocab.json"
    pieces = sorted(json.loads(file.read_text()))
    names = [p.removesuffix("</w>") if p.endswith("</w>") else f"{p}@@" for p in pieces]
    kept = [name for number, name in enumerate(names) if number % 9]
    tokens = ["__null__", "__start__", "__end__", "__unk__", "__newln__", *kept]
    file.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    write_class(folder, "BlenderbotSmallTokenizer")


def test_blenderbot_smalls_files_give_the_ids_and_texts_of_transformers(
    corpus: list[str], files: Path, mixed_texts: list[str], bundle_tokenizer: Load
) -> None:
    small_files(files, corpus)
    reference, ours = BlenderbotSmallTokenizer.from_pretrained(files), bundle_tokenizer(files)
    texts = [
        *mixed_texts,
        *corpus[:20],
        "It's (a) test. Is it?!..",
        "yes\n\nno'\n x\n(",
        "hello__end__ __start__ the dog",
        "a,b",
    ]
    expected = [reference(text)["input_ids"] for text in texts]
    assert [ours.encode(text) for text in texts] == expected
    # transformers leaves the mark of a word that stops in the middle.
    assert [ours.decode(ids) for ids in expected] == [
        reference.decode(ids, skip_special_tokens=True).removesuffix("@@") for ids in expected
    ]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("merges.txt", "#version\na b c\n", "is no pair"),
        ("vocab.json", '{"a": 0}', "lacks __unk__"),
        ("vocab.json", '{"a": "b", "__unk__": 1}', "does not map tokens to ids"),
    ],
)
def test_damaged_files_of_blenderbot_small_are_refused(
    name: str,
    data: str,
    reason: str,
    corpus: list[str],
    editable: Callable[..., Path],
    refusal: Callable[..., str],
) -> None:
    checkpoint = editable("blenderbot-small")
    small_files(checkpoint, corpus)
    (checkpoint / name).write_text(data)
    assert reason in refusal(checkpoint)
