"""Export compares texts with the checkpoint's own tokenizer: what is refused, named and said."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers.utils import logging

from seq2edge.export import ExportResult, ParityError, export_checkpoint
from seq2edge.export.tokenizers import TokenizerFile, find_tokenizer
from seq2edge.export.tokenizers.comparison import TEXTS, compare_texts

Editable = Callable[..., Path]
Export = Callable[..., ExportResult]

T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.set_verbosity_error()


def with_pieces(folder: Path, corpus: list[str], kind: str, **options: Any) -> Path:
    """A folder with SentencePiece files of a class."""
    name = "spiece" if kind == "T5Tokenizer" else "sentencepiece.bpe"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        minloglevel=2,
        **{"vocab_size": 150, "hard_vocab_limit": False, **options},
    )
    (folder / f"{name}.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    return folder


def with_byte_level(folder: Path, corpus: list[str], **settings: Any) -> Path:
    """A folder with a tokenizer.json that lowers letters, which no class of transformers does."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(corpus, trainer)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def found_in(folder: Path) -> TokenizerFile:
    found = find_tokenizer(folder)
    assert found is not None
    return found


def test_the_result_and_the_manifest_say_how_the_tokenizer_was_made(
    corpus: list[str], editable: Editable, export: Export
) -> None:
    checkpoint = with_pieces(editable("t5"), corpus, "T5Tokenizer", **T5_IDS)
    result = export(checkpoint, validate=None)
    assert result.texts is not None
    assert result.texts.texts == len(TEXTS) + 5 * 103  # 100 sentinels, <pad>, </s> and <unk>
    assert result.texts.named == ()
    assert result.texts.summary() == f"tokens identical on {result.texts.texts} of 541 texts"
    assert result.manifest.tokenizer.origin == "spiece.model, by transformers' T5Tokenizer"


def test_without_validation_nothing_is_compared(
    corpus: list[str], editable: Editable, export: Export
) -> None:
    checkpoint = with_byte_level(editable("bart"), corpus, tokenizer_class="BartTokenizer")
    assert export(checkpoint).texts is None


def test_tokens_that_differ_are_refused_with_both_lists(
    corpus: list[str], editable: Editable
) -> None:
    """As if an added token had been lost."""
    folder = editable("t5")
    with_pieces(folder, corpus, "T5Tokenizer", **T5_IDS)
    found = found_in(folder)
    assert found.data is not None
    made = json.loads(found.data)
    made["added_tokens"] = [t for t in made["added_tokens"] if t["content"] != "<extra_id_7>"]
    made["model"]["vocab"] = [
        [f"{token}!" if token == "<extra_id_7>" else token, score]
        for token, score in made["model"]["vocab"]
    ]
    lost = replace(found, data=json.dumps(made).encode())
    with pytest.raises(ParityError, match=r"'<extra_id_7>': \[.*and by transformers \[") as caught:
        compare_texts(lost)
    assert "and 1 more" in str(caught.value)
    assert "--no-validate" in str(caught.value)


def test_an_export_that_is_refused_leaves_nothing(
    corpus: list[str], editable: Editable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = with_pieces(editable("t5"), corpus, "T5Tokenizer", **T5_IDS)
    other = with_pieces(editable("t5", "other"), corpus[:20], "T5Tokenizer", **T5_IDS)
    monkeypatch.setattr(
        "seq2edge.export.pipeline.find_tokenizers",
        lambda folder, _config: replace(found_in(other), folder=folder),
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(ParityError, match="reads texts otherwise than the checkpoint's own"):
        export_checkpoint(checkpoint, tmp_path / "out" / "bundle", validate=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_where_sentencepiece_is_right_the_difference_is_named(
    corpus: list[str], editable: Editable
) -> None:
    """transformers 5's mBART normalizes nothing."""
    folder = with_pieces(editable("mbart"), corpus, "MBartTokenizer")
    with pytest.warns(UserWarning, match=r"as SentencePiece cuts texts.*\\ufb01") as caught:
        result = compare_texts(found_in(folder))
    assert len(caught) == 1
    assert result is not None
    assert 0 < len(result.named) < 12
    assert all("and by transformers" in line for line in result.named)


def test_a_tokenizer_json_of_another_form_than_its_class_is_kept_and_named(
    corpus: list[str], editable: Editable
) -> None:
    folder = with_byte_level(editable("bart"), corpus, tokenizer_class="BartTokenizer")
    found = found_in(folder)
    assert found.info.origin.startswith("tokenizer.json")
    with pytest.warns(UserWarning, match="the THE The"):
        result = compare_texts(found)
    assert result is not None
    assert result.named


def test_a_generic_class_takes_the_file_as_it_is(corpus: list[str], editable: Editable) -> None:
    folder = with_byte_level(editable("bart"), corpus, tokenizer_class="PreTrainedTokenizerFast")
    result = compare_texts(found_in(folder))
    assert result is not None
    assert result.named == ()


def test_a_tokenizer_that_transformers_cannot_load_is_not_compared_with_a_word(
    corpus: list[str], editable: Editable
) -> None:
    folder = with_byte_level(editable("t5"), corpus)  # T5's class is of another model
    with pytest.warns(UserWarning, match="transformers cannot load the tokenizer of"):
        assert compare_texts(found_in(folder)) is None


_LOADED = """
import sys
from seq2edge.export import export_checkpoint
export_checkpoint(sys.argv[1], sys.argv[2], validate=False)
print(*sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_files_are_converted_without_torch_and_a_tokenizer_json_without_transformers(
    corpus: list[str], editable: Editable, tmp_path: Path
) -> None:
    checkpoint = with_pieces(editable("t5"), corpus, "T5Tokenizer", **T5_IDS)
    demo = Path(__file__).parents[2] / "examples" / "g2p" / "model"
    for source, loaded in ((checkpoint, "transformers"), (demo, "")):
        done = subprocess.run(
            [sys.executable, "-c", _LOADED, str(source), str(tmp_path / f"{source.name}.bundle")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == loaded
