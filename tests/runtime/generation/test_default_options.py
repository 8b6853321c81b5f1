"""Names and defaults of options are those of transformers; a bundle's own are checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import transformers

from seq2edge.runtime import (
    GenerationConfig,
    InputError,
)

from .idle import CALLS, idle_model

#: Ours alone, or by other names there (``prefix_allowed_tokens_fn`` ...).
OWN = {
    *("seed", "prefix_allowed_tokens", "logits_processors", "constraint"),
    *("decoder_prefix", "return_scores", "draft_model", "patience"),
    "source_lang",
    "target_lang",
}


def test_names_are_those_of_transformers() -> None:
    known = set(vars(transformers.GenerationConfig()))
    assert {spec.name for spec in fields(GenerationConfig)} - known == OWN


def test_defaults_are_those_of_transformers() -> None:
    defaults = transformers.GenerationConfig()._get_default_generation_params()
    own = vars(GenerationConfig())
    # Its 20 is what nobody has chosen; ours is the bundle's own limit. Its 20 tokens of a draft end
    # where the draft is unsure.
    shared = (own.keys() & defaults.keys()) - {"max_length", "num_assistant_tokens"}
    assert own["max_length"] is None
    assert len(shared) >= 22
    assert {name: own[name] if own[name] != () else None for name in shared} == {
        name: defaults[name] for name in shared
    }
    off = {name: own[name] for name in own.keys() - shared - OWN - {"max_length"}}
    assert off.pop("max_matching_ngram_size") == 2
    assert off.pop("num_assistant_tokens") == 5
    assert set(off.values()) == {None, ()}


@pytest.fixture
def bundle_with(byte_bundle: Path, copy_of: Callable[[Path], Path]) -> Callable[..., Path]:
    """A function that makes a bundle with other generation options in its manifest."""

    def make(**generation: Any) -> Path:
        bundle = copy_of(byte_bundle)
        manifest = json.loads((bundle / "seq2edge.json").read_text())
        manifest["generation"] = generation
        (bundle / "seq2edge.json").write_text(json.dumps(manifest))
        return bundle

    return make


@pytest.mark.parametrize(
    "generation",
    [
        *(
            {name: value}
            for name, value in [
                *(("max_new_tokens", value) for value in ("four", 0, -5, 2.7, [5], True)),
                *(("max_length", value) for value in ("four", 0, [5])),
                *(("stop_strings", 5), ("decoder_prefix", 5), ("bad_words_ids", [1.5])),
            ]
        ),
        {"num_beams": "four"},
        {"num_beams": 3.0},
        {"do_sample": True, "top_p": [0.5]},
        {"do_sample": "yes"},
        {"num_beams": 2, "early_stopping": "soon"},
        {"bad_words_ids": 5},
        {"bad_words_ids": [[]]},
        {"suppress_tokens": [999]},
        {"forced_eos_token_id": "</s>"},
        {"sequence_bias": {"5": 1.0}},
        {"do_sample": True, "repetition_penalty": None, "temperature": {}},
        {"num_return_sequences": 2},
        {"constraint": "yes|no"},
    ],
    ids=str,
)
def test_a_bundle_with_malformed_defaults_is_refused_by_name(
    generation: dict[str, Any], bundle_with: Callable[..., Path]
) -> None:
    model = idle_model(bundle_with(**generation))
    name = next(reversed(generation))
    for call in CALLS.values():
        with pytest.raises(InputError, match=name):
            call(model, GenerationConfig.of_bundle(model.manifest))
    with pytest.raises(InputError, match=name):
        model.generate(["a text"])


def test_null_and_unknown_defaults_of_a_bundle_are_left_out(
    bundle_with: Callable[..., Path],
) -> None:
    model = idle_model(bundle_with(num_beams=None, top_k=7, diversity_penalty=0.5, use_cache="x"))
    assert model.generation_config == GenerationConfig(top_k=7)
