"""Added and special tokens, and settings, of every kind of tokenizer file, against transformers.

The references are ``AutoTokenizer``'s; where that is wrong, SentencePiece.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.utils import logging

from seq2edge.export.tokenizers import find_tokenizer
from seq2edge.export.tokenizers.comparison import TEXTS
from seq2edge.runtime.text.tokenizer import ByteTokenizer, JsonTokenizer
from seq2edge.runtime.text.tokenizer import Tokenizer as RuntimeTokenizer

T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
#: In texts: alone, between words, glued to them, twice.
PLACES = ("{}", "the {} cat", "the{}cat", " {} ", "{}{}", "{}.")


def token(content: str, *, special: bool, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {"content": content, "special": special, **plain, **flags}


#: What a fine-tuning adds: its id after the vocabulary, special or not, and with what flags.
ADDED = [
    token("<ORG>", special=True),
    token("<NEW>", special=False),
    token("<L>", special=True, lstrip=True),
    token("<R>", special=False, rstrip=True),
]


def write(folder: Path, **contents: Any) -> None:
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def pieces(corpus: list[str], **options: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        minloglevel=2,
        **{"vocab_size": 150, "hard_vocab_limit": False, **options},
    )
    return model.getvalue()


def byte_level(folder: Path, corpus: list[str]) -> int:
    """vocab.json and merges.txt; the number of tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(corpus, trainer)
    made.model.save(str(folder))
    return int(made.get_vocab_size())


def wordpiece(folder: Path, corpus: list[str]) -> int:
    letters = sorted({letter for line in corpus for letter in line.lower() if letter != " "})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    lines = [*special, *letters, *(f"##{letter}" for letter in letters), "the", "cat"]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def t5(folder: Path, corpus: list[str]) -> int:
    """spiece.model; the number of tokens with 100 sentinels."""
    data = pieces(corpus, **T5_IDS)
    (folder / "spiece.model").write_bytes(data)
    return len(sentencepiece.SentencePieceProcessor(model_proto=data)) + 100


def fairseq(folder: Path, corpus: list[str], languages: int) -> int:
    data = pieces(corpus)
    (folder / "sentencepiece.bpe.model").write_bytes(data)
    return len(sentencepiece.SentencePieceProcessor(model_proto=data)) + 2 + languages


def m2m(folder: Path, corpus: list[str]) -> int:
    data = pieces(corpus, model_type="bpe")
    (folder / "sentencepiece.bpe.model").write_bytes(data)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    tokens = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens += [processor.id_to_piece(number) for number in range(3, len(processor))]
    write(folder, vocab={text: number for number, text in enumerate(tokens)})
    return len(tokens) + 108


def marian(folder: Path, corpus: list[str]) -> int:
    data = pieces(corpus)
    for name in ("source", "target"):
        (folder / f"{name}.spm").write_bytes(data)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    known = [processor.id_to_piece(number) for number in range(3, len(processor))]
    tokens = ["</s>", "<unk>", ">>fra<<", *known, "<pad>"]
    write(folder, vocab={text: number for number, text in enumerate(tokens)})
    return len(tokens)


def blenderbot_small(folder: Path, corpus: list[str]) -> int:
    made = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=200, end_of_word_suffix="</w>", show_progress=False)
    made.train_from_iterator([line.lower() for line in corpus], trainer)
    made.model.save(str(folder))
    found = sorted(json.loads((folder / "vocab.json").read_text()))
    names = [p.removesuffix("</w>") if p.endswith("</w>") else f"{p}@@" for p in found]
    tokens = dict.fromkeys(["__null__", "__start__", "__end__", "__unk__", "__newln__", *names])
    write(folder, vocab={text: number for number, text in enumerate(tokens)})
    return len(tokens)


#: By class: its model_type, and how its files are made.
KINDS: dict[str, tuple[str, Callable[[Path, list[str]], int]]] = {
    "T5Tokenizer": ("t5", t5),
    "MBartTokenizer": ("mbart", lambda folder, corpus: fairseq(folder, corpus, 25)),
    "MBart50Tokenizer": ("mbart", lambda folder, corpus: fairseq(folder, corpus, 52)),
    "PLBartTokenizer": ("plbart", lambda folder, corpus: fairseq(folder, corpus, 3)),
    "M2M100Tokenizer": ("m2m_100", m2m),
    "MarianTokenizer": ("marian", marian),
    "BartTokenizer": ("bart", byte_level),
    "RobertaTokenizer": ("t5", byte_level),  # CodeT5
    "GPT2Tokenizer": ("gpt2", byte_level),
    "BertTokenizer": ("bert", wordpiece),
    "BlenderbotSmallTokenizer": ("blenderbot-small", blenderbot_small),
    "ByT5Tokenizer": ("t5", lambda *_: 384),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return folder


def make(kind: str, folder: Path, corpus: list[str], **settings: Any) -> int:
    """A folder of a class's files; the id of the first token that is added."""
    model_type, build = KINDS[kind]
    first = build(folder, corpus)
    write(
        folder,
        config={"model_type": model_type},
        tokenizer_config={"tokenizer_class": kind, **settings},
    )
    return first


def both(folder: Path) -> tuple[RuntimeTokenizer, Any]:
    """A bundle's tokenizer, and transformers'."""
    logging.set_verbosity_error()
    found = find_tokenizer(folder)
    assert found is not None
    info = found.info
    if found.data is None:
        ours: RuntimeTokenizer = ByteTokenizer(info.byte_offset, info.added_tokens)
    else:
        ours = JsonTokenizer(found.data, size=info.size, unknown=info.unknown)
    return ours, AutoTokenizer.from_pretrained(folder)


def in_places(tokens: list[str], kind: str = "") -> list[str]:
    """Where transformers keeps spaces at the ends of what is between tokens, there are none."""
    places = [place for place in PLACES if " " not in place or kind != "MBart50Tokenizer"]
    return [place.replace("{}", text) for text in tokens for place in places]


def assert_same(folder: Path, texts: list[str]) -> None:
    ours, reference = both(folder)
    assert {t: ours.encode(t) for t in texts} == {t: reference(t)["input_ids"] for t in texts}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_the_settings_add_have_their_ids_and_flags(
    kind: str, corpus: list[str], files: Path
) -> None:
    first = make(kind, files, corpus)
    settings = json.loads((files / "tokenizer_config.json").read_text())
    decoder = {str(first + number): entry for number, entry in enumerate(ADDED)}
    if kind in ("T5Tokenizer", "ByT5Tokenizer"):  # what they have is listed as well, or is lost
        count = 100 if kind == "T5Tokenizer" else 125
        names = [f"<extra_id_{number}>" for number in range(count)]
        own = names[::-1] if kind == "T5Tokenizer" else names
        for number, name in enumerate(own):
            decoder[str(first - count + number)] = token(name, special=True)
        for number, name in enumerate(["<pad>", "</s>", "<unk>"]):
            strips = {"lstrip": True, "rstrip": True} if kind == "ByT5Tokenizer" else {}
            decoder[str(number)] = token(name, special=True, **strips)
    write(files, tokenizer_config={**settings, "added_tokens_decoder": decoder})
    texts = in_places([entry["content"] for entry in ADDED], kind)
    ours, _ = both(files)
    assert [ours.token_id(entry["content"]) for entry in ADDED] == list(range(first, first + 4))
    assert_same(files, texts)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ByT5Tokenizer"])
def test_tokens_of_added_tokens_json_have_their_ids(
    kind: str, corpus: list[str], files: Path
) -> None:
    first = make(kind, files, corpus)
    added = {"<ORG>": first, "<NEW>": first + 1}
    special = {"additional_special_tokens": ["<ORG>"]}
    if kind == "T5Tokenizer":
        names = [f"<extra_id_{number}>" for number in range(100)]
        added |= {name: first - 1 - number for number, name in enumerate(names)}
        special = {"additional_special_tokens": [*names, "<ORG>"]}
    write(files, added_tokens=added, special_tokens_map=special)
    ours, reference = both(files)
    assert ours.token_id("<ORG>") == first
    for text, plain in (("<NEW>", "<NEW>"), ("<ORG>", "")):
        ids = ours.encode(text)
        if kind not in ("MBartTokenizer", "MBart50Tokenizer", "M2M100Tokenizer"):
            # Of those, transformers forgets which tokens are special.
            plain = reference.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == plain
        assert text in ours.decode(ids, skip_special_tokens=False).upper()
    assert_same(files, in_places(["<ORG>", "<NEW>"], kind))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("BartTokenizer", {"add_prefix_space": True}),
        ("BartTokenizer", {"eos_token": "<E>", "sep_token": "<E>", "cls_token": "<C>"}),
        ("BartTokenizer", {"extra_special_tokens": ["<Q>", "<P>"]}),
        ("GPT2Tokenizer", {"add_prefix_space": True, "bos_token": "<s>"}),
        ("GPT2Tokenizer", {"add_bos_token": True, "bos_token": "<s>"}),
        ("GPT2Tokenizer", {"add_eos_token": True, "eos_token": "</s>", "pad_token": "<P>"}),
        ("BertTokenizer", {"do_lower_case": False}),
        ("BertTokenizer", {"strip_accents": False}),
        ("BertTokenizer", {"cls_token": "[MASK]"}),
        ("T5Tokenizer", {"legacy": False}),
        ("T5Tokenizer", {"extra_ids": 3}),
        ("T5Tokenizer", {"eos_token": "<E>"}),
    ],
)
@pytest.mark.parametrize("saved", [False, True], ids=["files", "tokenizer.json"])
def test_settings_change_a_tokenizer_as_in_transformers(
    saved: bool, kind: str, settings: dict[str, Any], corpus: list[str], files: Path, tmp_path: Path
) -> None:
    """Of vocabulary files, and of a tokenizer.json that was saved before they were set."""
    make(kind, files, corpus, **({} if saved else settings))
    if saved:
        logging.set_verbosity_error()
        AutoTokenizer.from_pretrained(files).save_pretrained(tmp_path / "saved")
        shutil.copy(files / "config.json", tmp_path / "saved")
        files = tmp_path / "saved"
        before = json.loads((files / "tokenizer_config.json").read_text())
        write(files, tokenizer_config={**before, **settings})
        if settings == {"extra_ids": 3}:
            return  # transformers refuses what contradicts the file's sentinels
    named = [text for text in settings.values() if isinstance(text, str)]
    listed = settings.get("extra_special_tokens", [])
    assert_same(files, [*TEXTS, *in_places([*named, *listed, "<extra_id_1>"])])


@pytest.mark.parametrize("kind", ["T5Tokenizer", "BertTokenizer", "PLBartTokenizer"])
@pytest.mark.parametrize("cleans", [True, False])
def test_spaces_before_punctuation_are_cleaned_up_where_the_settings_say_so(
    cleans: bool, kind: str, corpus: list[str], files: Path
) -> None:
    make(kind, files, corpus, clean_up_tokenization_spaces=cleans)
    ours, reference = both(files)
    for text in ("the cat , the dog . did n't", "it 's a mat !", "a ' b"):
        ids = reference(text)["input_ids"]
        assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_byte_level_texts_are_not_cleaned_up(corpus: list[str], files: Path) -> None:
    """transformers 5 ignores the setting there, unless another one insists."""
    make("BartTokenizer", files, corpus, clean_up_tokenization_spaces=True)
    ours, reference = both(files)
    ids = reference("the cat , did n't")["input_ids"]
    assert (
        ours.decode(ids) == reference.decode(ids, skip_special_tokens=True) == "the cat , did n't"
    )


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("kind", ["T5Tokenizer", "MBart50Tokenizer", "PLBartTokenizer"])
def test_bytes_stand_for_characters_without_a_piece_as_in_sentencepiece(
    kind: str, model_type: str, corpus: list[str], files: Path
) -> None:
    """transformers gives unknown tokens for them."""
    if (kind, model_type) == ("T5Tokenizer", "bpe"):
        pytest.skip("T5's models are unigram")
    ids = T5_IDS if kind == "T5Tokenizer" else {}
    data = pieces(corpus, byte_fallback=True, vocab_size=440, model_type=model_type, **ids)
    name = "spiece.model" if kind == "T5Tokenizer" else "sentencepiece.bpe.model"
    (files / name).write_bytes(data)
    write(
        files,
        config={"model_type": KINDS[kind][0]},
        tokenizer_config={"tokenizer_class": kind, "clean_up_tokenization_spaces": False},
    )
    ours, _ = both(files)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    shift = 0 if kind == "T5Tokenizer" else 1
    texts = [text for text in TEXTS if "<s>" not in text]
    assert any("<0x" in piece for text in texts for piece in processor.encode(text, out_type=str))
    for text in texts:
        expected = [number + shift for number in processor.encode(text)]
        found = ours.encode(text, special_tokens=False)
        assert found == expected
        assert ours.decode(found) == processor.decode(processor.encode(text)).strip(" ")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_symbols_that_the_user_of_sentencepiece_defined_are_cut_out_whole(
    model_type: str, corpus: list[str], files: Path
) -> None:
    data = pieces(corpus, user_defined_symbols=["<sep>", "::"], model_type=model_type)
    (files / "sentencepiece.bpe.model").write_bytes(data)
    write(
        files,
        config={"model_type": "mbart"},
        tokenizer_config={"tokenizer_class": "MBart50Tokenizer"},
    )
    ours, _ = both(files)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in ("the<sep>cat", "the <sep> cat::x", "::", "<sep><sep> a", "<se p>"):
        expected = [3 if n == 0 else n + 1 for n in processor.encode(text)]
        assert ours.encode(text, special_tokens=False) == expected


def test_a_tokenizer_of_bytes_without_sentinels_has_none(corpus: list[str], files: Path) -> None:
    make("ByT5Tokenizer", files, corpus, extra_ids=0)
    assert_same(files, in_places(["<extra_id_0>", "</s>"]))
    ours, reference = both(files)
    ids = [100, 0, 101, 1]
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == reference.decode(
            ids, skip_special_tokens=skip
        )
