"""Decoding with a draft model is greedy decoding in fewer runs of the large model's decoder."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.export import export_checkpoint
from seq2edge.runtime import Choices, Generation, GenerationConfig, InputError, Seq2SeqModel

from ...conftest import make_model
from .copying import ENDS, Recorded, lively_bundle
from .test_prompt_lookup import OPTIONS, SHAPES, lively_rows


def perturbed(checkpoint: Path, folder: Path, noise: float) -> Path:
    """A bundle of the checkpoint with noise in its weights: it often says the same."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(checkpoint, folder / "checkpoint")
    weights = folder / "checkpoint" / "model.safetensors"
    rng = np.random.default_rng(3)
    tensors = {
        name: (t + noise * t.std() * rng.standard_normal(t.shape)).astype(np.float32)
        for name, t in load_file(weights).items()
    }
    save_file(tensors, weights, metadata={"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(folder / "checkpoint", folder / "bundle", validate=False)
    return folder / "bundle"


@pytest.fixture(scope="module")
def pair_of(
    variant_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Recorded, Seq2SeqModel]]]:
    """A function from a shape to a model whose runs are counted, and a draft for it."""
    loaded: dict[str, tuple[Recorded, Seq2SeqModel]] = {}

    def get(shape: str) -> tuple[Recorded, Seq2SeqModel]:
        if shape not in loaded:
            bundle = lively_bundle(variant_of, shape)
            folder = tmp_path_factory.mktemp("draft")
            draft = perturbed(bundle.parent / "checkpoint", folder, 0.05)
            loaded[shape] = Recorded(bundle), Seq2SeqModel.load(draft)
        return loaded[shape]

    yield get
    for _, draft in loaded.values():
        draft.close()


def unscored(found: list[Generation]) -> list[Generation]:
    return [replace(row, score=None) for row in found]


def assert_identical(
    pair: tuple[Recorded, Seq2SeqModel], rows: np.ndarray, config: GenerationConfig, most: int = 4
) -> tuple[int, int]:
    """The same results with the draft; runs of the decoder without it and with it."""
    recorded, draft = pair
    recorded.runs()
    greedy = recorded.model.generate_ids(rows, config=config)
    without = len(recorded.runs())
    drafted = recorded.model.generate_ids(
        rows, config=replace(config, draft_model=draft, num_assistant_tokens=most)
    )
    assert unscored(drafted) == unscored(greedy)
    for one, other in zip(drafted, greedy, strict=True):
        assert one.score == (None if other.score is None else pytest.approx(other.score, abs=1e-3))
    return without, len(recorded.runs())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_results_are_those_of_greedy_decoding(
    pair_of: Callable[..., Any], shape: str, options: dict[str, Any]
) -> None:
    pair = pair_of(shape)
    own = pair[0].model.generation_config
    config = replace(own, max_new_tokens=40, **options)
    rows = lively_rows(pair[0])
    assert_identical(pair, rows, config)
    for row in rows:
        assert_identical(
            pair, row[None, :][:, row != pair[0].model.manifest.special_tokens.pad], config, most=3
        )


@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_a_draft_that_is_always_right_saves_all_runs_but_one_in_so_many(
    pair_of: Callable[..., Any], most: int
) -> None:
    recorded, _ = pair_of("t5-v1.1")
    own = recorded.model.generation_config
    config = replace(own, max_new_tokens=41, suppress_tokens=(1, *ENDS))
    with Seq2SeqModel.load(recorded.model._bundle.directory) as same:
        rows = lively_rows(recorded)[:1]
        without, with_draft = assert_identical((recorded, same), rows, config, most)
    assert without == 41
    assert with_draft == 1 + -(-40 // (most + 1))  # the prompt's run, then most + 1 tokens a run


def test_a_draft_that_is_often_right_saves_runs(pair_of: Callable[..., Any]) -> None:
    pair = pair_of("t5-v1.1")
    config = replace(pair[0].model.generation_config, max_new_tokens=60, suppress_tokens=(1, *ENDS))
    without, with_draft = assert_identical(pair, lively_rows(pair[0])[:1], config)
    assert with_draft < without


@pytest.mark.parametrize("limit", [1, 2, 3, 63, 64, 65, 130])
def test_the_length_limit_holds(pair_of: Callable[..., Any], limit: int) -> None:
    pair = pair_of("t5-v1.1")
    config = replace(
        pair[0].model.generation_config, max_new_tokens=limit, suppress_tokens=(1, *ENDS)
    )
    assert_identical(pair, lively_rows(pair[0]), config, most=7)


def test_all_positions_of_the_models_can_be_used(pair_of: Callable[..., Any]) -> None:
    """BART has a table of positions, and the draft no more of them than the model."""
    pair = pair_of("bart-scaled")
    limit = pair[0].model.manifest.dimensions.max_target_length
    config = replace(
        pair[0].model.generation_config, max_new_tokens=limit, suppress_tokens=(2, *ENDS)
    )
    assert_identical(pair, lively_rows(pair[0]), config)


def test_a_stream_and_a_constraint(pair_of: Callable[..., Any]) -> None:
    recorded, draft = pair_of("t5-v1.1")
    options = {"constraint": Choices(("yes", "perhaps", "perhaps not")), "max_new_tokens": 20}
    plain = recorded.model.generate("is it so?", **options)[0]
    drafted = recorded.model.generate("is it so?", draft_model=draft, **options)[0]
    assert drafted == plain
    assert "".join(recorded.model.stream("is it so?", draft_model=draft, **options)) == plain.text


def test_a_cancelled_call_keeps_what_it_has(pair_of: Callable[..., Any]) -> None:
    recorded, draft = pair_of("t5-v1.1")
    config = replace(recorded.model.generation_config, suppress_tokens=(1, *ENDS))
    whole = recorded.model.generate_ids(lively_rows(recorded), config=config)
    answers = iter([False] * 3 + [True] * 9)
    found = recorded.model.generate_ids(
        lively_rows(recorded), config=config, draft_model=draft, cancelled=answers.__next__
    )
    for row, other in zip(found, whole, strict=True):
        assert row.finish_reason == "cancelled"
        assert row.token_ids == list(islice(other.token_ids, len(row.token_ids)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_beams": 2}, "greedy decoding only, not with num_beams=2"),
        ({"do_sample": True}, "greedy decoding only, not with do_sample"),
        ({"prompt_lookup_num_tokens": 3}, "give one of them"),
        ({"num_assistant_tokens": 0}, "num_assistant_tokens must be at least 1, not 0"),
        ({"num_assistant_tokens": 2.5}, "must be an integer"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(
    pair_of: Callable[..., Any], options: dict[str, Any], reason: str
) -> None:
    recorded, draft = pair_of("t5-v1.1")
    with pytest.raises(InputError, match=reason):
        recorded.model.generate("x", draft_model=draft, **options)


def test_a_draft_of_another_vocabulary_is_refused(
    pair_of: Callable[..., Any], tmp_path: Path
) -> None:
    recorded, _ = pair_of("t5-v1.1")
    make_model("t5-v1.1", vocab_size=400).save_pretrained(tmp_path / "checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", validate=False)
    with (
        Seq2SeqModel.load(tmp_path / "bundle") as other,
        pytest.raises(InputError, match="400 tokens and the model 384"),
    ):
        recorded.model.generate("x", draft_model=other)


def test_num_assistant_tokens_without_a_draft_warns(pair_of: Callable[..., Any]) -> None:
    recorded, _ = pair_of("t5-v1.1")
    with pytest.warns(UserWarning, match="not read without draft_model"):
        recorded.model.generate("x", num_assistant_tokens=3, max_new_tokens=2)
