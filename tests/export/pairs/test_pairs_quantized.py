"""Bundles of BERT's and GPT-2's line in 8 bits stay close to those that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.quantize import (
    DistributionCheck,
    QuantizationError,
    StateCheck,
    quantize_bundle,
)
from seq2edge.quantize.check import Checker
from seq2edge.runtime import Bundle, BundleError, EncoderModel, Seq2SeqModel
from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.generation.divergence import TokenPair, next_token_logits

from ...conftest import export_unvalidated
from .conftest import make_model

PathOf = Callable[[str], Path]
SCHEMES = ["int8", "fp16", "int4"]


def inputs(vocab_size: int) -> np.ndarray:
    return np.random.default_rng(3).integers(6, vocab_size - 1, (6, 20))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", ["bert-bert-odd", "roberta-roberta", "bert-gpt2-narrow", "gpt2"])
def test_generating_bundles_run_in_fewer_bits(
    shape: str, scheme: str, pair_bundle_of: PathOf, tmp_path: Path
) -> None:
    done = quantize_bundle(pair_bundle_of(shape), tmp_path / "small", scheme)
    treated = {name for name, treatment in done.formats.items() if treatment is not None}
    assert {"decoder.layers.0.ffn.up", "decoder.layers.1.self_attention.qkv"} <= treated
    assert ("head_transform.dense" in treated) == ("gpt2" not in shape)
    assert ("cross.0.kv" in treated) == (shape != "gpt2")
    found = []
    for path in (pair_bundle_of(shape), tmp_path / "small"):
        with Seq2SeqModel.load(path) as model:
            rows = model.generate_ids(inputs(model.manifest.dimensions.source_tokens))
            found.append([row.token_ids[0] for row in rows])
    if scheme != "int4":
        assert sum(a == b for a, b in zip(*found, strict=True)) >= 5


@pytest.mark.parametrize(("scheme", "near"), [("int8", 0.05), ("fp16", 0.005), ("int4", 0.5)])
@pytest.mark.parametrize("shape", ["bert", "roberta-pad"])
def test_encoders_give_nearly_the_same_states_in_fewer_bits(
    shape: str, scheme: str, near: float, pair_bundle_of: PathOf, tmp_path: Path
) -> None:
    quantize_bundle(pair_bundle_of(shape), tmp_path / "small", scheme)
    found = []
    for path in (pair_bundle_of(shape), tmp_path / "small"):
        with EncoderModel.load(path) as model:
            found.append(model.encode_ids(inputs(model.manifest.dimensions.source_tokens)))
    error = np.abs(found[0] - found[1]).mean() / np.abs(found[0]).mean()
    assert 0 < error < near


def test_a_decoder_alone_is_checked_on_what_follows_its_prompts(
    pair_bundle_of: PathOf, pair_checkpoint_of: PathOf, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    bundle = Bundle.open(pair_bundle_of("gpt2"), single_stack=("decoder",))
    pair = TokenPair([17, 5, 99, 42], [7, 300, 12])
    backend = load_backend(bundle, num_threads=1)
    (found,) = next_token_logits(backend, bundle.manifest, pair)
    backend.close()
    model = AutoModelForCausalLM.from_pretrained(pair_checkpoint_of("gpt2")).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([[17, 5, 99, 42, 7, 300]])).logits[0, 3:].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)
    check = quantize_bundle(bundle.directory, tmp_path / "int8", "int8").check
    assert isinstance(check, DistributionCheck)
    assert check.positions > 100
    assert check.passed


def test_an_encoder_alone_is_checked_by_its_states(pair_bundle_of: PathOf, tmp_path: Path) -> None:
    check = quantize_bundle(pair_bundle_of("bert"), tmp_path / "int8", "int8").check
    assert isinstance(check, StateCheck)
    assert 0.99 < check.min_cosine <= check.mean_cosine < 1
    assert check.passed
    other = tmp_path / "other"
    export_unvalidated(_shuffled(tmp_path / "checkpoint"), other)
    with Checker(Bundle.open(pair_bundle_of("bert"), single_stack=("encoder",))) as checker:
        worse = checker.compare(Bundle.open(other, single_stack=("encoder",)))
    assert isinstance(worse, StateCheck)
    assert not worse.passed
    assert "cosine similarity" in worse.excess()


def _shuffled(path: Path) -> Path:
    """A checkpoint of the same shape as "bert" with other weights."""
    make_model("bert", seed=1).save_pretrained(path)
    return path


def test_a_calibration_is_refused_where_one_of_the_stacks_is_missing(
    pair_bundle_of: PathOf, tmp_path: Path
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"input_ids": [5, 6]}\n')
    from seq2edge.quantize import CalibrationFiles

    with pytest.raises(QuantizationError, match="holds only one of encoder and decoder"):
        quantize_bundle(
            pair_bundle_of("gpt2"),
            tmp_path / "small",
            "int8-qdq",
            calibration=CalibrationFiles(text),
        )
    assert not (tmp_path / "small").exists()


def test_what_cannot_take_one_stack_says_so(pair_bundle_of: PathOf, tmp_path: Path) -> None:
    from seq2edge.quantize import downgrade_opset
    from seq2edge.runtime import BackendError

    for shape, what in (("bert", "only an encoder"), ("gpt2", "only a decoder")):
        with pytest.raises(BundleError, match=what):
            downgrade_opset(pair_bundle_of(shape), tmp_path / "downgraded")
    with pytest.raises(BundleError, match=r"only an encoder.*EncoderModel"):
        Seq2SeqModel.load(pair_bundle_of("bert"))
    for shape in ("gpt2", "bert-gpt2"):
        with pytest.raises(BundleError, match=r"EncoderModel|Seq2SeqModel"):
            EncoderModel.load(pair_bundle_of(shape))
    with pytest.raises(BackendError, match="holds only one of encoder and decoder"):
        Seq2SeqModel.load(pair_bundle_of("gpt2"), device="cuda")
