"""Hand-written models in the layouts that many projects have: parity, int8, downgrade, run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from seq2edge.export import (
    ExportResult,
    ModuleParts,
    PositionalEncoding,
    export_module,
    export_state_dict,
    layer_options,
    layout_parts,
)
from seq2edge.quantize import downgrade_opset, quantize_bundle
from seq2edge.quantize.check import DistributionCheck
from seq2edge.runtime import Seq2SeqModel

from ...hand_written import (
    LENGTH,
    SOURCE_VOCAB,
    TOKENS,
    WIDTH,
    Annotated,
    Fairseq,
    OpenNmt,
    Own,
    Tutorial,
    XTransformers,
    randomized,
)

FAIRSEQ_POSITIONS = replace(
    layout_parts("fairseq", nhead=4, norm_first=False).positions, length=LENGTH
)

OWN_NAMES = {
    "self_attention.qkv": "{}.wqkv",
    "self_attention.out": "{}.wo",
    "self_attention_norm": "{}.ln_a",
    "ffn.gate": "{}.gate",
    "ffn.up": "{}.up",
    "ffn.down": "{}.down",
    "ffn_norm": "{}.ln_f",
}
OWN_CROSS = {
    "cross_attention.query": "cq",
    "cross_attention.kv": "ckv",
    "cross_attention.out": "co",
    "cross_attention_norm": "ln_c",
}
OWN = ModuleParts(
    encoder=None,
    decoder="dec",
    source_embedding="source",
    target_embedding="target",
    generator=None,
    positions=PositionalEncoding("learned", table="place"),
    decoder_norm="last",
    encoder_names={name: text.format("enc.b{layer}") for name, text in OWN_NAMES.items()},
    decoder_names={**{n: text.format("dec.{layer}") for n, text in OWN_NAMES.items()}, **OWN_CROSS},
    layers=layer_options(
        nhead=4, activation="silu", norm_first=True, layer_norm_eps=1e-6, norm="rms"
    ),
)

#: A model and its parts: names, and what its tensors cannot tell.
CASES: dict[str, tuple[type[nn.Module], dict[str, bool], ModuleParts]] = {
    "tutorial": (Tutorial, {}, layout_parts("tutorial", nhead=4)),
    "annotated": (Annotated, {}, layout_parts("annotated", nhead=4)),
    "fairseq": (
        Fairseq,
        {},
        replace(layout_parts("fairseq", nhead=4, norm_first=False), positions=FAIRSEQ_POSITIONS),
    ),
    "fairseq-pre-norm": (
        Fairseq,
        {"before": True},
        replace(layout_parts("fairseq", nhead=4, norm_first=True), positions=FAIRSEQ_POSITIONS),
    ),
    "opennmt-2": (OpenNmt, {"bias": True}, layout_parts("opennmt", nhead=4)),
    "opennmt-3": (OpenNmt, {}, layout_parts("opennmt", nhead=4)),
    "x-transformers": (XTransformers, {}, layout_parts("x-transformers")),
    "own": (Own, {}, OWN),
}
NEW_TOKENS = 40


@pytest.fixture(scope="module", params=CASES)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, ModuleParts, ExportResult]:
    """A model and its bundle, which export has compared with the model's own forward."""
    kind, options, parts = CASES[request.param]
    model = randomized(kind(**options))
    path = tmp_path_factory.mktemp("layouts") / "bundle"
    result = export_module(model, path, parts=parts, tokens=TOKENS, forward=model, validate=True)
    assert result.parity is not None
    return model, parts, result


def sources() -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """10 sources of 1 to 40 tokens, padded, and where their tokens are."""
    lengths = np.linspace(1, 40, 10).astype(int)
    mask = np.arange(40) < lengths[:, None]
    ids = np.random.default_rng(7).integers(3, SOURCE_VOCAB, mask.shape)
    return np.where(mask, ids, TOKENS.pad), mask


def greedy(
    model: nn.Module, ids: torch.Tensor, mask: torch.Tensor, most: int = NEW_TOKENS
) -> list[list[int]]:
    """By the module alone, without a cache."""
    written = torch.full((len(ids), 1), TOKENS.decoder_start)
    with torch.inference_mode():
        for _ in range(most):
            best = model(ids, ~mask, written)[:, -1:].argmax(-1)
            written = torch.cat([written, best], 1)
    ends = [row.index(2) + 1 if 2 in row else most for row in written[:, 1:].tolist()]
    return [row[:end] for row, end in zip(written[:, 1:].tolist(), ends, strict=True)]


def answers(bundle: Path) -> list[list[int]]:
    with Seq2SeqModel.load(bundle, num_threads=1) as loaded:
        return [one.token_ids for one in loaded.generate_ids(*sources(), max_new_tokens=NEW_TOKENS)]


def test_logits_and_greedy_tokens_are_the_modules(
    exported: tuple[nn.Module, ModuleParts, ExportResult],
) -> None:
    model, _, result = exported
    parity = result.parity
    assert parity is not None and parity.encoder is not None and parity.decoder is not None
    assert parity.encoder.maximum < 2e-4
    assert parity.decoder.maximum < 2e-4
    assert parity.exact == parity.inputs
    expected = greedy(model, *map(torch.from_numpy, sources()))
    assert answers(result.path) == expected
    assert len({tuple(row) for row in expected}) > 1
    assert max(len(set(row)) for row in expected) > 1


def test_each_tensor_is_stored_once(
    exported: tuple[nn.Module, ModuleParts, ExportResult],
) -> None:
    model, parts, result = exported
    tables = {name: buffer for name, buffer in model.named_buffers() if name.endswith(".pe")}
    expected = sum(parameter.numel() for parameter in model.parameters())
    if tables:  # both are the same
        expected += next(iter(tables.values())).numel()
    if parts.positions.table is None:  # computed at export
        expected += LENGTH * result.manifest.dimensions.d_model
    weights = result.manifest.weights
    if isinstance(model, Own):  # attention has a bias in one place, and zeros elsewhere
        expected += sum(w.shape[0] for n, w in weights.items() if "attention." in n and "bias" in n)
        expected += sum(
            w.shape[0] for n, w in weights.items() if n.startswith("cross.") and "bias" in n
        )
        expected -= sum(p.numel() for n, p in model.named_parameters() if n.endswith("cq.bias"))
    assert result.manifest.parameters == expected


def test_quantized_and_lowered_bundles_answer(
    exported: tuple[nn.Module, ModuleParts, ExportResult], tmp_path: Path
) -> None:
    _, _, result = exported
    quantize_bundle(result.path, tmp_path / "int8", "int8")
    downgrade_opset(tmp_path / "int8", tmp_path / "downgraded")
    expected, int8 = answers(result.path), answers(tmp_path / "int8")
    assert answers(tmp_path / "downgraded") == int8
    first = [ours[0] == theirs[0] for ours, theirs in zip(int8, expected, strict=True)]
    assert sum(first) >= 7


def test_sums_of_squares_of_half_precision_are_float32(tmp_path: Path) -> None:
    """The deviation of large states: their squares' sum is more than float16 holds."""
    model = randomized(Annotated())
    with torch.no_grad():
        for side in (model.src_embed, model.tgt_embed):
            side[0].lut.weight.mul_(60)
    parts = layout_parts("annotated", nhead=4)
    export_module(model, tmp_path / "bundle", parts=parts, tokens=TOKENS, forward=model)
    result = quantize_bundle(tmp_path / "bundle", tmp_path / "fp16", "fp16", target="cuda")
    assert isinstance(result.check, DistributionCheck)
    assert result.check.mean_kl < 1e-3


def reversed_batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources of up to 5 tokens with their end, and the same backwards, padded."""
    rows = []
    for _ in range(48):
        length = int(torch.randint(1, 6, (), generator=generator))
        rows.append(torch.randint(3, 13, (length,), generator=generator))
    end = torch.tensor([2])
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_value=TOKENS.pad)
    source = pad([torch.cat([row, end]) for row in rows])
    return source, pad([torch.cat([end, row.flip(0), end]) for row in rows])


@pytest.mark.parametrize(
    "name", ["tutorial", "annotated", "fairseq", "opennmt-3", "x-transformers"]
)
def test_a_trained_model_answers_alike_in_int8(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind, options, parts = CASES[name]
    model = kind(**options)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=WIDTH**-0.5)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        source, target = reversed_batch(generator)
        logits = model(source, source == TOKENS.pad, target[:, :-1])
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=TOKENS.pad
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    export_module(
        model, tmp_path / "bundle", parts=parts, tokens=TOKENS, forward=model, validate=True
    )
    quantize_bundle(tmp_path / "bundle", tmp_path / "int8", "int8")
    source, _ = reversed_batch(generator)
    expected = greedy(model, source, source != TOKENS.pad, 7)
    for path, least in ((tmp_path / "bundle", 48), (tmp_path / "int8", 46)):
        with Seq2SeqModel.load(path, num_threads=1) as loaded:
            found = loaded.generate_ids(
                source.numpy(), (source != TOKENS.pad).numpy(), max_new_tokens=7
            )
        assert sum(one.token_ids == row for one, row in zip(found, expected, strict=True)) >= least
    rows = [row[row != TOKENS.pad].flip(0).tolist()[1:] for row in source]
    right = [answer == [*row, 2] for row, answer in zip(rows, expected, strict=True)]
    assert sum(right) > 24, f"{sum(right)} of 48 are learned"


def test_a_state_dict_gives_the_same_bundle(
    exported: tuple[nn.Module, ModuleParts, ExportResult],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    model, _, result = exported
    name = request.node.callspec.params["exported"]
    torch.save(model.state_dict(), tmp_path / "model.pt")
    (tmp_path / "model.toml").write_text(DESCRIPTIONS[name] + TOKENS_TOML)
    described = export_state_dict(
        tmp_path / "model.pt", tmp_path / "model.toml", tmp_path / "bundle", validate=True
    )
    assert described.manifest == result.manifest
    assert described.parity is not None and described.parity.decoder is not None
    assert described.parity.decoder.maximum < 2e-4


TOKENS_TOML = """
[tokens]
pad = 1
decoder_start = 2
eos = [2]
"""
_FAIRSEQ = f"""
layout = "fairseq"
[positions]
length = {LENGTH}
[layers]
nhead = 4
norm_first = """
DESCRIPTIONS = {
    "tutorial": 'layout = "tutorial"\n[layers]\nnhead = 4\n',
    "annotated": 'layout = "annotated"\n[layers]\nnhead = 4\n',
    "fairseq": f"{_FAIRSEQ}false\n",
    "fairseq-pre-norm": f"{_FAIRSEQ}true\n",
    "opennmt-2": 'layout = "opennmt"\n[layers]\nnhead = 4\n',
    "opennmt-3": 'layout = "opennmt"\n[layers]\nnhead = 4\n',
    "x-transformers": 'layout = "x-transformers"\n',
    "own": """
decoder = "dec"
source_embedding = "source"
target_embedding = "target"
decoder_norm = "last"

[positions]
kind = "learned"
table = "place"

[encoder_names]
self_attention.qkv = "enc.b{layer}.wqkv"
self_attention.out = "enc.b{layer}.wo"
self_attention_norm = "enc.b{layer}.ln_a"
ffn.gate = "enc.b{layer}.gate"
ffn.up = "enc.b{layer}.up"
ffn.down = "enc.b{layer}.down"
ffn_norm = "enc.b{layer}.ln_f"

[decoder_names]
self_attention = {qkv = "wqkv", out = "wo"}
self_attention_norm = "ln_a"
cross_attention.query = "cq"
cross_attention.kv = "ckv"
"cross_attention.out" = "co"
cross_attention_norm = "ln_c"
ffn.gate = "gate"
ffn.up = "up"
ffn.down = "down"
ffn_norm = "ln_f"

[layers]
nhead = 4
activation = "silu"
norm_first = true
layer_norm_eps = 1e-6
norm = "rms"
""",
}
