"""A decoder-only model: every way to decode, on prompts of different lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import BundleError, ContinuousBatch, InputError, Manifest, Seq2SeqModel
from seq2edge.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_NAME

from ...batches import padded_with_mask

PathOf = Callable[[str], Path]
PROMPTS = [[5, 6, 7, 8, 5, 6], [40], [12, 90, 12, 90, 12], [200, 201, 202], list(range(20, 60))]
EOS, POSITIONS = 309, 100


@pytest.fixture
def model(pair_bundle_of: PathOf) -> Any:
    with Seq2SeqModel.load(pair_bundle_of("gpt2")) as found:
        yield found


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"encoder_no_repeat_ngram_size": 1},
        {"bad_words_ids": ((101, 256), (153,))},
        {"suppress_tokens": (220, 62, 37)},
        {"min_new_tokens": 20, "num_beams": 3},
        {"min_length": 24},
        {"repetition_penalty": 1.3, "num_beams": 3, "no_repeat_ngram_size": 3},
        {"forced_eos_token_id": 17},
    ],
    ids=str,
)
def test_processors_see_the_prompt_as_in_transformers(
    options: dict[str, Any], model: Seq2SeqModel, pair_checkpoint_of: PathOf
) -> None:
    reference = AutoModelForCausalLM.from_pretrained(
        pair_checkpoint_of("gpt2"), attn_implementation="eager"
    ).eval()
    theirs = GenerationConfig(
        max_new_tokens=25,
        do_sample=False,
        pad_token_id=EOS,
        eos_token_id=EOS,
        **{key: list(map(list, v)) if key == "bad_words_ids" else v for key, v in options.items()},
    )
    expected = []
    for prompt in PROMPTS:  # one by one: there, padding counts as part of the text
        with torch.inference_mode():
            (row,) = reference.generate(torch.tensor([prompt]), generation_config=theirs).tolist()
        expected.append(row[len(prompt) :])
    config = replace(model.generation_config, max_new_tokens=25, **options)
    found = model.generate_ids(*padded_with_mask(PROMPTS, EOS), config)
    assert [row.token_ids for row in found] == expected
    plain = model.generate_ids(
        *padded_with_mask(PROMPTS, EOS), replace(model.generation_config, max_new_tokens=25)
    )
    if "min_length" not in options and "min_new_tokens" not in options:
        assert [row.token_ids for row in plain] != expected  # the option matters


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}], ids=str
)
def test_graphs_for_the_cpu_give_the_same(
    options: dict[str, Any], model: Seq2SeqModel, pair_bundle_of: PathOf, tmp_path: Path
) -> None:
    quantize_bundle(pair_bundle_of("gpt2"), tmp_path / "fp32", "fp32", check=False)
    config = replace(model.generation_config, max_new_tokens=30, **options)
    expected = model.generate_ids(*padded_with_mask(PROMPTS, EOS), config)
    with Seq2SeqModel.load(tmp_path / "fp32") as lowered:
        assert "decoder_cpu" in lowered.manifest.graphs
        found = lowered.generate_ids(*padded_with_mask(PROMPTS, EOS), config)
    assert [row.token_ids for row in found] == [row.token_ids for row in expected]


def test_prompts_that_come_and_go_give_what_each_gives_alone(
    model: Seq2SeqModel, pair_bundle_of: PathOf, tmp_path: Path
) -> None:
    quantize_bundle(pair_bundle_of("gpt2"), tmp_path / "fp32", "fp32", check=False)
    kinds: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"repetition_penalty": 1.2}]
    with Seq2SeqModel.load(tmp_path / "fp32") as lowered:
        for which in (model, lowered):
            batch = ContinuousBatch(which, max_rows=3)
            asked = [
                (prompt, {"max_new_tokens": 8 + 5 * number, **kinds[number % 3]})
                for number, prompt in enumerate(PROMPTS + PROMPTS[::-1])
                if number != 5
            ]
            requests = [batch.submit(prompt, **options) for prompt, options in asked]
            while not batch.idle:
                batch.step()
            for request, (prompt, options) in zip(requests, asked, strict=True):
                assert request.error is None
                (expected,) = model.generate_ids([prompt], None, **options)
                assert request.results[0].token_ids == expected.token_ids


def test_prompt_lookup_gives_greedy_tokens(model: Seq2SeqModel) -> None:
    config = replace(model.generation_config, max_new_tokens=50)
    greedy = model.generate_ids(*padded_with_mask(PROMPTS, EOS), config)
    for most in (2, 10):
        lookup = replace(config, prompt_lookup_num_tokens=most, max_matching_ngram_size=1)
        assert model.generate_ids(*padded_with_mask(PROMPTS, EOS), lookup) == greedy
        penalty = {"repetition_penalty": 1.2}
        edited = model.generate_ids(*padded_with_mask(PROMPTS, EOS), replace(lookup, **penalty))
        assert edited == model.generate_ids(
            *padded_with_mask(PROMPTS, EOS), replace(config, **penalty)
        )


def test_samples_and_scores_do_not_depend_on_the_batch(model: Seq2SeqModel) -> None:
    config = replace(
        model.generation_config,
        max_new_tokens=12,
        do_sample=True,
        num_return_sequences=3,
        seed=4,
        return_scores=True,
        no_repeat_ngram_size=2,
    )
    together = model.generate_ids(*padded_with_mask(PROMPTS, EOS), config)
    alone = [row for prompt in PROMPTS for row in model.generate_ids([prompt], None, config)]
    assert [row.token_ids for row in together] == [row.token_ids for row in alone]
    np.testing.assert_allclose(
        [row.score for row in together], [row.score for row in alone], atol=1e-3
    )
    assert len({tuple(row.token_ids) for row in together}) > 10


def test_a_prefix_is_put_between_prompt_and_continuation(model: Seq2SeqModel) -> None:
    config = replace(model.generation_config, max_new_tokens=10)
    with_prefix = model.generate_ids(
        *padded_with_mask(PROMPTS, EOS), replace(config, decoder_prefix=(33, 34))
    )
    for row, prompt in zip(with_prefix, PROMPTS, strict=True):
        (longer,) = model.generate_ids([[*prompt, 33, 34]], None, config)
        assert row.token_ids == [33, 34, *longer.token_ids]


def test_a_prompt_in_parts_gives_the_same(
    model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seq2edge.runtime.generation import batch as call

    whole = model.generate_ids(*padded_with_mask(PROMPTS, EOS))
    monkeypatch.setattr(call, "_MOST_LOGITS", 0)
    monkeypatch.setattr(call, "_LEAST_QUERIES", 7)
    assert model.generate_ids(*padded_with_mask(PROMPTS, EOS)) == whole


def test_new_tokens_are_limited_by_what_the_prompt_leaves(model: Seq2SeqModel) -> None:
    longest = list(range(10, 70))
    room = POSITIONS + 1 - len(longest)
    (found,) = model.generate_ids([longest], None, max_new_tokens=room)
    assert len(found.token_ids) == room or found.finish_reason == "eos"
    with pytest.raises(InputError, match=f"60.*59 of them taken|ask for at most {room}"):
        model.generate_ids([longest], None, max_new_tokens=room + 1)
    (default,) = model.generate_ids([longest])
    assert default.token_ids == found.token_ids
    (last,) = model.generate_ids([list(range(100))])
    assert len(last.token_ids) == 1
    with pytest.raises(InputError, match="101 tokens and the model takes at most 100"):
        model.generate_ids([list(range(101))])


def test_a_forced_first_token_is_refused(model: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match="forced_bos_token_id is for models with an encoder"):
        model.generate_ids([[5]], None, replace(model.generation_config, forced_bos_token_id=4))


@pytest.mark.parametrize(("shape", "only"), [("gpt2", "decoder"), ("bert", "encoder")])
def test_the_manifest_says_which_stack_there_is(
    shape: str, only: str, pair_bundle_of: PathOf
) -> None:
    data = (pair_bundle_of(shape) / MANIFEST_NAME).read_bytes()
    manifest = Manifest.from_bytes(data)
    assert (manifest.single_stack, manifest.format_version) == (only, FORMAT_VERSION)
    assert manifest.to_bytes() == data
    assert manifest.parameters > 50_000
    assert manifest.cache_bytes_per_slot == (2 * 2 * 40 * 4 if only == "decoder" else 0)
    raw = json.loads(data)
    raw.update(graphs={})
    with pytest.raises(BundleError, match=r"graphs\.encoder is missing"):
        Manifest.from_bytes(json.dumps(raw).encode())
