"""What becomes of each option of a checkpoint's generation_config.json: done, named, or idle."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from seq2edge.export import export_checkpoint
from seq2edge.runtime import GenerationConfig, Seq2SeqModel
from seq2edge.runtime.bundle.generation_options import (
    OPTIONS,
    Support,
    generation_defaults,
    names,
    warnings_about,
)
from seq2edge.runtime.bundle.optimum import read_optimum_folder
from seq2edge.runtime.errors import InputError

#: A value of each option that a bundle leaves out, which asks for something.
ASKING: dict[str, Any] = {
    "constraints": [[5, 6]],
    "diversity_penalty": 0.5,
    "dola_layers": "high",
    "force_words_ids": [[5]],
    "guidance_scale": 2.0,
    "is_assistant": True,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "token_healing": True,
    "watermarking_config": {"bias": 2.0},
}
TOKENS = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def nothing(_key: str) -> None:
    """config.json without options."""


def test_every_option_of_transformers_has_its_place() -> None:
    """A new one has to be put into the table, where it says what becomes of it."""
    attributes = set(vars(transformers.GenerationConfig()))
    old = {"_commit_hash"}  # files of older versions have it; it says nothing
    assert set(OPTIONS) - old == attributes


def test_an_option_is_implemented_exactly_if_ours_has_it() -> None:
    own = {spec.name for spec in fields(GenerationConfig)}
    speed = {"prompt_lookup_num_tokens", "max_matching_ngram_size", "num_assistant_tokens"}
    assert own & set(OPTIONS) - speed - {"decoder_start_token_id"} == names(Support.IMPLEMENTED)
    assert set(ASKING) == names(Support.UNSUPPORTED)


def test_the_rest_says_why_it_is_left_out() -> None:
    for support in (Support.UNSUPPORTED, Support.WITHOUT_EFFECT):
        assert all(OPTIONS[name].note for name in names(support))


def test_the_page_on_decoding_lists_them() -> None:
    page = (Path(__file__).parents[3] / "docs" / "decoding.md").read_text(encoding="utf-8")
    assert {name for name in OPTIONS if f"`{name}`" in page} >= names(Support.UNSUPPORTED)


@pytest.mark.parametrize("name", ASKING)
def test_what_a_bundle_leaves_out_is_named_with_its_value_and_effect(name: str) -> None:
    value = ASKING[name]
    (text,) = warnings_about({**TOKENS, name: value}, nothing)
    assert f"{name}={value!r} ({OPTIONS[name].note})" in text
    # In config.json alone, too.
    (text,) = warnings_about({}, {name: value}.get)
    assert f"{name}={value!r}" in text
    assert text.startswith("config.json")
    assert name not in generation_defaults({**TOKENS, name: value}, nothing)


def test_the_defaults_of_transformers_are_named_by_nobody() -> None:
    defaults = transformers.GenerationConfig()._get_default_generation_params()
    saved = transformers.GenerationConfig(**TOKENS).to_dict()
    assert warnings_about({**saved, **TOKENS, **defaults}, nothing) == []
    assert warnings_about({}, {**TOKENS, **defaults}.get) == []
    # Files of version 4 hold all of them.
    old = {"num_beam_groups": 1, "diversity_penalty": 0.0, "guidance_scale": 1, "low_memory": None}
    assert (
        warnings_about({**TOKENS, **old, "token_healing": False, "penalty_alpha": 0}, nothing) == []
    )


def test_an_option_that_nobody_knows_is_named() -> None:
    (text,) = warnings_about({**TOKENS, "beam_temperature": 2.5, "empty": None}, nothing)
    assert "beam_temperature=2.5" in text
    assert "empty" not in text
    assert warnings_about({}, {"n_heads": 3}.get) == []  # config.json is full of other things


def test_an_end_or_start_token_from_config_json_is_named() -> None:
    config = {"eos_token_id": 2, "decoder_start_token_id": 2, "bos_token_id": 0}.get
    (text,) = warnings_about({"max_length": 20}, config)
    assert "decoder_start_token_id and eos_token_id" in text
    (text,) = warnings_about({"max_length": 20, "bos_token_id": 0}, config)
    assert "lacks eos_token_id" in text
    assert warnings_about({}, config) == []


def test_options_of_single_tasks_are_named() -> None:
    tasks = {"summarization": {"num_beams": 4, "prefix": "summarize: "}, "translation_en_to_de": {}}
    (text,) = warnings_about(TOKENS, {"task_specific_params": tasks}.get)
    assert "summarization, translation_en_to_de" in text
    for empty in (None, {}):
        assert warnings_about(TOKENS, {"task_specific_params": empty}.get) == []


def test_an_export_warns_and_the_bundle_generates_without(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in checkpoint_of("t5").iterdir():
        (checkpoint / file.name).symlink_to(file)
    (checkpoint / "generation_config.json").unlink()
    (checkpoint / "generation_config.json").write_text(
        json.dumps({**TOKENS, "max_length": 9, "guidance_scale": 2.0, "new_option": 3})
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_checkpoint(checkpoint, tmp_path / "bundle", validate=False)
    text = "\n".join(str(warning.message) for warning in caught)
    assert "guidance_scale=2.0" in text
    assert "new_option=3" in text
    with Seq2SeqModel.load(tmp_path / "bundle", num_threads=1) as model:
        assert model.manifest.generation == {"max_length": 9}
        assert len(model.generate_ids([[5, 6, 7, 1]])[0].token_ids) <= 8


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"suppress_tokens": [5, -1]}, "suppress_tokens holds [-1]"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_return_sequences": 3}, "num_return_sequences=3"),
        ({"stop_strings": ["end"]}, "no tokenizer"),
        ({"do_sample": True, "temperature": 0.0}, "temperature must be"),
        ({"do_sample": False, "temperature": 0.0}, None),
    ],
)
def test_options_that_refuse_every_call_are_named_at_export(
    options: dict[str, Any],
    named: str | None,
    checkpoint_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in ("config.json", "model.safetensors"):
        (checkpoint / file).symlink_to(checkpoint_of("t5") / file)
    (checkpoint / "generation_config.json").write_text(json.dumps({**TOKENS, **options}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_checkpoint(checkpoint, tmp_path / "bundle", validate=False)
    said = [str(w.message) for w in caught if "cannot work" in str(w.message)]
    assert len(said) == (named is not None)
    with Seq2SeqModel.load(tmp_path / "bundle", num_threads=1) as model:
        if named is None:
            assert model.generate_ids([[5, 6, 7, 1]], max_new_tokens=3)
            return
        assert named in said[0]
        with pytest.raises(InputError) as refused:
            model.generate_ids([[5, 6, 7, 1]])
    assert named in str(refused.value)


def test_a_folder_of_optimum_warns_when_it_is_read(tmp_path: Path) -> None:
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx"):
        (tmp_path / name).write_bytes(b"")
    sizes = {"vocab_size": 40, "d_model": 8, "num_layers": 1, "num_heads": 2, "model_type": "t5"}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    asked = {**TOKENS, "num_beams": 2, "dola_layers": "low"}
    (tmp_path / "generation_config.json").write_text(json.dumps(asked))
    with pytest.warns(UserWarning, match="dola_layers='low'"):
        manifest = read_optimum_folder(tmp_path)
    assert manifest.generation == {"num_beams": 2}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([[[5, 6], -2.0], [[7], 1]], [[[5, 6], -2.0], [[7], 1]]),
        # As transformers saves a dict of tuples.
        ({"(5, 6)": -2.0, "(7,)": 1.0}, [[[5, 6], -2.0], [[7], 1.0]]),
    ],
)
def test_both_spellings_of_sequence_bias_are_read(value: Any, expected: Any) -> None:
    assert generation_defaults({"sequence_bias": value}, nothing) == {"sequence_bias": expected}


def test_sequence_bias_as_transformers_saves_it(tmp_path: Path) -> None:
    saved = transformers.GenerationConfig(sequence_bias={(5, 6): -2.0, (7,): 1.0})
    saved.save_pretrained(tmp_path)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation_defaults(generation, nothing)["sequence_bias"] == [
        [[5, 6], -2.0],
        [[7], 1.0],
    ]


def test_one_stop_string_is_a_list_of_one() -> None:
    assert generation_defaults({"stop_strings": "END"}, nothing) == {"stop_strings": ["END"]}


# Options in config.json alone, as checkpoints before transformers 4.26 have them.

OLD: dict[str, dict[str, Any]] = {
    "options": {"num_beams": 3, "max_length": 12, "length_penalty": 2.0, "no_repeat_ngram_size": 2},
    "forced BOS, old": {"force_bos_token_to_be_generated": True, "max_length": 12},
    "forced BOS, old, over the new": {
        "force_bos_token_to_be_generated": True,
        "forced_bos_token_id": 7,
        "max_length": 12,
    },
    "forced BOS, old, off": {"force_bos_token_to_be_generated": False, "max_length": 12},
    "bad words": {"bad_words_ids": [[77], [13, 9]], "num_beams": 2, "max_length": 12},
    "penalties": {
        "repetition_penalty": 1.5,
        "sequence_bias": [[[13], -4.0]],
        "renormalize_logits": True,
        "exponential_decay_length_penalty": [3, 1.2],
        "num_beams": 2,
        "max_length": 12,
    },
    "no forced end": {"forced_eos_token_id": None, "max_length": 7},
}


@pytest.mark.parametrize("name", OLD)
def test_options_in_config_json_alone_are_read_as_transformers_reads_them(
    name: str, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in checkpoint_of("bart").iterdir():
        if file.suffix != ".json":
            (checkpoint / file.name).symlink_to(file)
    config = json.loads((checkpoint_of("bart") / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **OLD[name]}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(checkpoint, tmp_path / "bundle", validate=False)
    reference = transformers.BartForConditionalGeneration.from_pretrained(checkpoint).eval()
    ids = torch.tensor([[0, 7, 8, 9, 2], [0, 300, 13, 77, 2]])
    with torch.inference_mode():
        expected = reference.generate(ids, attention_mask=torch.ones_like(ids)).tolist()
    with Seq2SeqModel.load(tmp_path / "bundle", num_threads=1) as model:
        found = model.generate_ids(ids.numpy())
    pad = reference.config.pad_token_id
    width = len(expected[0]) - 1
    assert [row.token_ids + [pad] * (width - len(row.token_ids)) for row in found] == [
        row[1:] for row in expected
    ]


def test_a_model_of_two_parts_may_keep_its_options_with_its_decoder() -> None:
    config = {"max_length": 30, "decoder": {"max_length": 20, "num_beams": 4}}
    assert generation_defaults({}, config.get) == {"max_length": 30, "num_beams": 4}
    assert generation_defaults(TOKENS, config.get) == {}
