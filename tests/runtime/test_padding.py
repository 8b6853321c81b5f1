"""Which tokens of a source count when a call gives no mask.

Padding does not, where it can be told from text: transformers 5 leaves that to the caller,
version 4 did it too. Else all tokens do.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from seq2edge.export import export_checkpoint
from seq2edge.runtime import Seq2SeqModel

#: Special tokens of generation_config.json, and of config.json where those differ.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pad": ({"pad_token_id": 1}, {}),
    "pad is the end": ({"pad_token_id": 2}, {}),
    "pad is the bos token": ({"pad_token_id": 0, "bos_token_id": 0}, {}),
    "pad is one of the ends": ({"pad_token_id": 9, "eos_token_id": [2, 9]}, {}),
    "pad is null": ({"pad_token_id": None}, {"pad_token_id": None}),
    "no pad, several ends": ({"eos_token_id": [9, 2]}, {"pad_token_id": None}),
    "pad in config.json only": ({}, {"pad_token_id": 1}),
}
PADDED = ("pad", "pad in config.json only")


@pytest.fixture(scope="module")
def pair_of(
    checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Any, Path]]:
    def get(case: str) -> tuple[Any, Path]:
        generation, config = CASES[case]
        folder = tmp_path_factory.mktemp("pad")
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir()
        for file in checkpoint_of("bart").iterdir():
            if file.suffix != ".json":
                (checkpoint / file.name).symlink_to(file)
        own = json.loads((checkpoint_of("bart") / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps({**own, **config}))
        (checkpoint / "generation_config.json").write_text(
            json.dumps(
                {"eos_token_id": 2, "decoder_start_token_id": 2, "max_length": 14} | generation
            )
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no tokenizer files
            export_checkpoint(checkpoint, folder / "bundle", validate=False)
        model = transformers.BartForConditionalGeneration.from_pretrained(checkpoint)
        return model.eval(), folder / "bundle"

    return get


@pytest.mark.parametrize("case", CASES)
def test_without_a_mask_all_counts_but_what_can_only_be_padding(
    case: str, pair_of: Callable[[str], tuple[Any, Path]]
) -> None:
    reference, bundle = pair_of(case)
    ids = np.random.default_rng(3).integers(10, 390, (3, 8))
    ids[:, 0], ids[:, -1] = 0, 2
    ids[1, 5:] = 2, 1, 1
    ids[2, 3] = 9  # within the text
    mask = (ids != 1 if case in PADDED else np.ones_like(ids)).astype(np.int64)
    with torch.inference_mode():
        expected = reference.generate(torch.tensor(ids), attention_mask=torch.tensor(mask)).tolist()
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        ends = model.manifest.special_tokens.eos
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = model.generate_ids(ids)
        masked = model.generate_ids(ids, np.ones_like(ids))
        alone = [model.generate_ids(row[None])[0] for row in ids]  # no warning is an error here
    assert [row.token_ids for row in found] == [_cut(row, ends) for row in expected]
    assert [row.token_ids for row in alone] == [row.token_ids for row in found]
    said = [str(w.message) for w in caught if "attention_mask" in str(w.message)]
    if case in PADDED:
        assert not said
        assert [row.token_ids for row in masked] != [row.token_ids for row in found]
    else:
        assert len(said) == 1
        assert [row.token_ids for row in masked] == [row.token_ids for row in found]


def _cut(row: list[int], ends: tuple[int, ...]) -> list[int]:
    last = next((i for i, token in enumerate(row) if i and token in ends), len(row))
    return row[1 : last + 1]


def test_the_start_token_is_found_as_transformers_finds_it(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """generation_config.json's bos token goes before config.json's decoder start token."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in checkpoint_of("bart").iterdir():
        (checkpoint / file.name).symlink_to(file)
    (checkpoint / "generation_config.json").unlink()
    (checkpoint / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "max_length": 9})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(checkpoint, tmp_path / "bundle", validate=False)
    reference = transformers.BartForConditionalGeneration.from_pretrained(checkpoint).eval()
    ids = [[0, 7, 8, 9, 2]]
    expected = reference.generate(torch.tensor(ids)).tolist()[0]
    with Seq2SeqModel.load(tmp_path / "bundle", num_threads=1) as model:
        assert model.manifest.special_tokens.decoder_start == expected[0] == 0
        assert model.generate_ids(ids)[0].token_ids == expected[1:]
