"""A user's own model and its bundle: logits within 2e-4, the same greedy tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from seq2edge.export import export_module
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Bundle, GenerationConfig, InputError, Seq2SeqModel
from seq2edge.runtime.backends import Step
from seq2edge.runtime.backends.onnxruntime import OrtBackend

from ...translators import TOKENS, Shape, Translator, make_translator, parts_of

#: Options in combination: norms, activations, final norms, positions, biases, heads, vocabularies.
SHAPES = {
    "nn.Transformer": Shape(head="bias"),
    "nn.Transformer, pre-norm, no bias": Shape(
        norm_first=True, activation="gelu", positions="learned", bias=False, target_vocab=421
    ),
    "stacks, time first, tied": Shape(
        "stacks", final_norm=False, positions="computed", head="tied", batch_first=False
    ),
    "stacks, pre-norm, no final norm": Shape(
        "stacks", norm_first=True, final_norm=False, positions="none", scaled=False
    ),
    "lists, wider decoder, one table": Shape(
        "lists", decoder_heads=8, ffn=(96, 128), decoder_activation="gelu", head="tied", shared=True
    ),
    "lists, no generator": Shape(
        "lists",
        norm_first=True,
        activation="gelu",
        final_norm=False,
        head="embedding",
        scaled=False,
    ),
    "lists, no bias, other epsilon": Shape(
        "lists", bias=False, positions="learned", epsilon=1e-3, source_vocab=300, layers=(3, 1)
    ),
    "stacks, no bias, more source tokens": Shape(
        "stacks", norm_first=True, bias=False, head="bias", positions="computed", target_vocab=331
    ),
}
NEW_TOKENS = 70  # beyond the 64 slots that the cache starts with, so it has to grow

Ids = NDArray[np.int64]


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Translator, Path]:
    """A model and its bundle, which export has compared with the model's forward."""
    shape: Shape = request.param
    path = tmp_path_factory.mktemp("modules") / "bundle"
    model = make_translator(shape)
    result = export_module(
        model, path, parts=parts_of(shape), tokens=TOKENS, forward=model, validate=True
    )
    assert result.parity is not None
    assert result.parity.encoder.maximum < 2e-4
    assert result.parity.decoder.maximum < 2e-4
    assert result.parity.exact == result.parity.inputs == 10
    # A table of several uses is stored once.
    assert ("lm_head.weight" in result.manifest.weights) == (shape.head in ("own", "bias"))
    assert ("decoder_embedding.weight" in result.manifest.weights) != shape.shared
    return model, path


def sources(model: Translator) -> tuple[Ids, NDArray[np.bool_]]:
    """10 sources of 1 to 60 tokens, padded, and where their tokens are."""
    generator = np.random.default_rng(7)
    lengths = np.linspace(1, 60, 10).astype(int)
    mask = np.arange(60) < lengths[:, None]
    ids = generator.integers(3, model.shape.source_vocab, mask.shape)
    return np.where(mask, ids, TOKENS.pad), mask


def forward(model: Translator, ids: Ids, mask: NDArray[np.bool_], target: Ids) -> torch.Tensor:
    """The model's own forward as it runs for a user: eval mode, PyTorch's fast path allowed."""
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(
            torch.tensor(ids), torch.tensor(~mask), torch.tensor(target)
        )
    return logits


def test_logits_of_padded_batches_are_the_modules(exported: tuple[Translator, Path]) -> None:
    model, path = exported
    ids, mask = sources(model)
    target = np.random.default_rng(8).integers(3, model.shape.target_vocab, (10, 20))
    expected = forward(model, ids, mask, target).numpy()
    backend = OrtBackend(Bundle.open(path))
    decoder = backend.new_cache(backend.encode({"input_ids": ids, "attention_mask": mask}), 20)
    step = Step.allocate(10, 20, 20, vocab_size=model.shape.target_vocab)
    step.input_ids[:], step.position_ids[:] = target, np.arange(20)
    step.attention_mask[:] = np.tri(20, dtype=np.bool_)
    decoder.forward(step)
    assert step.logits is not None
    assert np.abs(step.logits - expected).max() < 2e-4
    assert np.abs(expected).max() > 1


def test_greedy_tokens_are_those_of_a_loop_over_the_module(
    exported: tuple[Translator, Path],
) -> None:
    model, path = exported
    ids, mask = sources(model)
    written = np.full((10, 1), TOKENS.decoder_start)
    for _ in range(NEW_TOKENS):
        best = forward(model, ids, mask, written)[:, -1:].argmax(-1).numpy()
        written = np.concatenate([written, best], axis=1)
    expected = []
    for row in written[:, 1:].tolist():
        end = row.index(2) + 1 if 2 in row else NEW_TOKENS
        expected.append(row[:end])
    with Seq2SeqModel.load(path) as runtime:
        found = runtime.generate_ids(ids, mask, max_new_tokens=NEW_TOKENS)
    assert [one.token_ids for one in found] == expected
    # The sample is of use only if the tokens differ, between the rows and along them.
    assert len({tuple(row) for row in expected}) > 1
    assert max(len(set(row)) for row in expected) > 1


def test_beam_search_finds_what_scores_best_under_the_module(
    exported: tuple[Translator, Path],
) -> None:
    model, path = exported
    ids, mask = sources(model)
    config = GenerationConfig(num_beams=4, num_return_sequences=2, max_new_tokens=8)
    with Seq2SeqModel.load(path) as runtime:
        found = runtime.generate_ids(ids, mask, config)
    assert len(found) == 20
    for one in found:
        target = np.array([[TOKENS.decoder_start, *one.token_ids]])
        row = slice(one.source, one.source + 1)
        scores = forward(model, ids[row], mask[row], target[:, :-1]).log_softmax(-1)
        total = scores[0, range(len(one.token_ids)), one.token_ids].sum()
        assert one.score == pytest.approx(float(total) / len(one.token_ids), abs=1e-3)
    assert all(a.score >= b.score for a, b in zip(found[::2], found[1::2], strict=True))


def test_tokens_are_checked_against_the_sources_vocabulary(tmp_path: Path) -> None:
    shape = Shape(source_vocab=300)
    export_module(make_translator(shape), tmp_path / "bundle", parts=parts_of(shape), tokens=TOKENS)
    with Seq2SeqModel.load(tmp_path / "bundle") as runtime:
        with pytest.raises(InputError, match=r"0\.\.299"):
            runtime.generate_ids([[5, 300, 2]])
        for option in ("prompt_lookup_num_tokens", "encoder_no_repeat_ngram_size"):
            with pytest.raises(InputError, match=f"{option} compares sources with outputs"):
                runtime.generate_ids([[5, 2]], None, GenerationConfig(**{option: 2}))


def test_maximum_lengths_are_those_of_the_positions(tmp_path: Path) -> None:
    shape = Shape(positions="learned")
    parts = parts_of(shape)
    short = replace(parts.positions, length=30)
    manifest = export_module(
        make_translator(shape),
        tmp_path / "bundle",
        parts=replace(parts, target_positions=short),
        tokens=TOKENS,
    ).manifest
    assert manifest.dimensions.max_source_length == 80
    assert manifest.dimensions.max_target_length == 30
    # Both sides look up rows of one table.
    assert manifest.weights["positions.weight"].shape == (80, 64)
    with Seq2SeqModel.load(tmp_path / "bundle") as runtime:
        (found,) = runtime.generate_ids([[5, 6, 7]])
    # The bundle's own limit is what the positions allow.
    assert len(found.token_ids) == 29 or found.token_ids[-1] == 2


def test_a_modules_bundle_quantizes(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    quantized = quantize_bundle(bundle_of("torch"), tmp_path / "int8", "int8")
    assert {"embedding", "decoder_embedding", "lm_head"} <= set(quantized.formats)
    ids, mask = sources(make_translator(Shape()))
    found = []
    for path in (bundle_of("torch"), tmp_path / "int8"):
        with Seq2SeqModel.load(path) as runtime:
            found.append([one.token_ids for one in runtime.generate_ids(ids, mask)])
    assert sum(ours[0] == theirs[0] for ours, theirs in zip(*found, strict=True)) >= 7


def test_sides_may_be_set_otherwise(tmp_path: Path) -> None:
    shape = Shape("lists", layers=(1, 2), final_norm=False)
    model = make_translator(shape)
    model.decoder = nn.ModuleList(
        nn.TransformerDecoderLayer(
            64, 4, 96, batch_first=True, bias=False, norm_first=True, layer_norm_eps=1e-2
        )
        for _ in range(2)
    )
    result = export_module(
        model, tmp_path / "b", parts=parts_of(shape), tokens=TOKENS, forward=model, validate=True
    )
    assert result.parity is not None
    assert result.parity.decoder is not None and result.parity.decoder.maximum < 2e-4
    assert "cross.1.kv.bias" in result.manifest.weights


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    shape = Shape()
    model = make_translator(shape)
    model.train()
    model.transformer.encoder.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    result = export_module(
        model, tmp_path / "bundle", parts=parts_of(shape), tokens=TOKENS, forward=model
    )
    assert result.parity is not None and result.parity.ok
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()
