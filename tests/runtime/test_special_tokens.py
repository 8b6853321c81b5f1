"""Texts with their special tokens in them, token ids back to texts, and texts that are long."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from seq2edge.export import export_checkpoint
from seq2edge.runtime import InputError, Seq2SeqModel

#: What a model of relations writes, by Huguet Cabot and Navigli 2021 (REBEL).
MARKED = "<triplet> the house <subj> small <obj> is a</s>"


@pytest.fixture(scope="module")
def pair(checkpoint_of: Callable[[str], Path], tmp_path_factory: Any) -> tuple[Any, Path]:
    """transformers' tokenizer of a BART with marks for relations, and a bundle of it."""
    import shutil

    folder = tmp_path_factory.mktemp("marked")
    checkpoint = Path(shutil.copytree(checkpoint_of("bart"), folder / "checkpoint"))
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the house is small"] * 9, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(["<obj>", "<subj>", "<triplet>"])
    made.save(str(checkpoint / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": 12,
    }
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    export_checkpoint(checkpoint, folder / "bundle", validate=False)
    return AutoTokenizer.from_pretrained(checkpoint), folder / "bundle"


@pytest.fixture
def model(pair: tuple[Any, Path]) -> Iterator[Seq2SeqModel]:
    with Seq2SeqModel.load(pair[1]) as model:
        yield model


def writes(ids: list[int]) -> Callable[[int, Any], list[int]]:
    """``prefix_allowed_tokens`` that has a model write ``ids``."""
    return lambda _, tokens: [ids[min(len(tokens), len(ids)) - 1]]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_outputs_keep_their_special_tokens_where_asked(
    skip: bool, beams: int, model: Seq2SeqModel, pair: tuple[Any, Path]
) -> None:
    reference = pair[0]
    ids = reference(MARKED, add_special_tokens=False)["input_ids"]
    config = replace(
        model.generation_config, prefix_allowed_tokens=writes(ids), num_beams=beams,
        max_new_tokens=40,
    )  # fmt: skip
    found = model.generate("the house", config, skip_special_tokens=skip)[0]
    assert found.token_ids == ids
    assert found.text == reference.decode(ids, skip_special_tokens=skip)
    assert ("<subj>" in (found.text or "")) is not skip
    source = [reference("the house")["input_ids"]]
    assert model.generate_ids(source, None, config, skip_special_tokens=skip)[0] == found
    stream = model.stream("the house", config, skip_special_tokens=skip)
    assert "".join(stream) == found.text
    assert stream.result == found


@pytest.mark.parametrize("skip", [True, False])
def test_token_ids_are_decoded_as_by_transformers(
    skip: bool, model: Seq2SeqModel, pair: tuple[Any, Path]
) -> None:
    reference = pair[0]
    rows = [reference(text)["input_ids"] for text in (MARKED, "a house", "é <obj>")]
    expected = [reference.decode(row, skip_special_tokens=skip) for row in rows]
    assert model.batch_decode(rows, skip_special_tokens=skip) == expected
    assert [model.decode(row, skip_special_tokens=skip) for row in rows] == expected
    padded = np.full((3, max(map(len, rows))), reference.pad_token_id)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    assert model.batch_decode(padded) == reference.batch_decode(padded, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[1, 400]], r"0\.\.399"),
        ([[1, -100]], r"0\.\.399"),
        ([[0.5]], "integers"),
        ([3, 4], "integers of shape"),
        ([[[3]]], "integers of shape"),
        ([["a"]], "integers"),
    ],
)
def test_what_are_no_tokens_of_the_model_is_not_decoded(
    rows: Any, reason: str, model: Seq2SeqModel
) -> None:
    with pytest.raises(InputError, match=reason):
        model.batch_decode(rows)


def test_a_bundle_without_a_tokenizer_decodes_nothing(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="no tokenizer files"):
        export_checkpoint(checkpoint_of("bart"), tmp_path / "bundle", validate=False)
    with (
        Seq2SeqModel.load(tmp_path / "bundle") as bare,
        pytest.raises(InputError, match="has no tokenizer"),
    ):
        bare.batch_decode([[3]])


def test_a_text_longer_than_the_tokenizer_is_for_is_named_once(
    model: Seq2SeqModel, pair: tuple[Any, Path]
) -> None:
    long = "the house is small " * 6
    count = len(pair[0](long)["input_ids"])
    with pytest.warns(UserWarning, match=rf"text 2 has {count} tokens.*at most 12") as caught:
        model.generate(["the house", long], max_new_tokens=1)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(["the house", long], max_new_tokens=1)
